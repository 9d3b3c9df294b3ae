package enqueue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/telemetry"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/enqueue"
)

// A job goes into the priority topic of its source's shard, as it was written, with an id that a retry makes again.
func TestEnqueue(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm", func(s *automationv1.Source) { s.Expiry = durationpb.New(time.Hour) })
		in := spec("crm")
		in.IdempotencyKey, in.Priority, in.Labels = "k1", jobv1.Priority_PRIORITY_CRITICAL, map[string]string{"a": "b"}
		first, err := w.send(in)
		if err != nil {
			t.Fatal(err)
		}
		again, err := w.send(in)
		if err != nil {
			t.Fatal(err)
		}
		shard := envelope.Shard("crm", shards)
		id := envelope.KeyedJobID("crm", "k1", shard)
		if first.GetJobId() != id.String() || again.GetJobId() != first.GetJobId() || first.GetVerdict() != enqueuev1.Verdict_VERDICT_ACCEPTED || first.GetReceipt() == again.GetReceipt() {
			t.Errorf("answers %v and %v", first, again)
		}
		found := w.jobs()[fmt.Sprintf("high/%d", shard)] // the ceiling of a source that names none
		if len(found) != 2 || string(found[0].Key) != "crm" || envelope.CheckVersion(found[0].Headers) != nil {
			t.Fatalf("records %v", w.jobs())
		}
		if _, ok := envelope.Get(found[0].Headers, envelope.HeaderTransit); ok {
			t.Error("an ordinary job has a transit")
		}
		job := &jobv1.Job{}
		if err := proto.Unmarshal(found[0].Value, job); err != nil {
			t.Fatal(err)
		}
		in.Priority = jobv1.Priority_PRIORITY_HIGH
		if !proto.Equal(job.GetSpec(), in) || !strings.HasPrefix(job.GetAcceptedBy(), "enqueue-0-") || !job.GetExpiresAt().AsTime().Equal(job.GetAcceptedAt().AsTime().Add(time.Hour)) {
			t.Errorf("record %v", job)
		}
	})
}

// Every refusal with its code, its reason and what it names; none of them leaves a record.
func TestRefusals(t *testing.T) {
	reject := func(s *automationv1.Source) {
		one := 1.0
		s.Quota, s.Overflow = &automationv1.Quota{AcceptRate: &one}, automationv1.Overflow_OVERFLOW_REJECT
	}
	capped := func(s *automationv1.Source) {
		ten := int64(10)
		s.Quota = &automationv1.Quota{BacklogJobs: &ten}
	}
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		w.register("slow", reject)
		w.register("full", capped)
		w.register("common")
		w.register("others", func(s *automationv1.Source) { s.Principals = []string{"somebody"} })
		w.register("shallow", func(s *automationv1.Source) { s.Runaway = &automationv1.Runaway{MaxDepth: 2} })
		w.register("blocked")
		w.switchOn("blocked", automationv1.Verb_VERB_BLOCK)
		w.mark(
			&logv1.SpillMark{Source: "full", Type: "tag", Tenant: "*", Lane: shards + int32(envelope.Shard("full", shards)), BacklogJobs: 10},
			&logv1.SpillMark{Source: "common", Type: "tag", Tenant: "*", Lane: -1},
		)
		if _, err := w.send(spec("slow")); err != nil { // one a second
			t.Fatal(err)
		}
		keyed := func(payload string) *jobv1.JobSpec {
			s := spec("crm")
			s.IdempotencyKey, s.Payload = "key", []byte(payload)
			return s
		}
		if _, err := w.send(keyed("a")); err != nil {
			t.Fatal(err)
		}
		before := count(w.jobs())
		change := func(source string, f func(*jobv1.JobSpec)) *jobv1.JobSpec {
			s := spec(source)
			f(s)
			return s
		}
		bound := w.dial("service", rpc.RoleEnqueue, "never-was")
		defer bound.Close()
		sdkKey := func(age time.Duration) string { return envelope.NewKey(time.Now().Add(-age), [10]byte{1}) }
		for _, c := range []struct {
			name   string
			job    *jobv1.JobSpec
			conn   grpc.ClientConnInterface
			code   codes.Code
			reason string
			fields []string
			retry  bool
		}{
			{name: "fields", job: &jobv1.JobSpec{Source: "CRM", Type: "", Tenant: "\n"}, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"job.source", "job.tenant", "job.type"}},
			{name: "no job", code: codes.InvalidArgument, reason: "INVALID", fields: []string{"job"}},
			{name: "parent", job: change("crm", func(s *jobv1.JobSpec) { s.ParentJobId = "x\ny" }), code: codes.InvalidArgument, reason: "INVALID", fields: []string{"job.parent_job_id"}},
			{name: "delay", job: change("crm", func(s *jobv1.JobSpec) { s.NotBefore = timestamppb.New(time.Now().Add(16 * time.Second)) }), code: codes.InvalidArgument, reason: "INVALID", fields: []string{"job.not_before"}},
			{name: "depth", job: change("shallow", func(s *jobv1.JobSpec) { s.Depth = 3 }), code: codes.InvalidArgument, reason: "INVALID", fields: []string{"job.depth"}},
			{name: "type", job: change("crm", func(s *jobv1.JobSpec) { s.Type = "mail" }), code: codes.InvalidArgument, reason: "UNKNOWN_TYPE", fields: []string{"job.type"}},
			{name: "payload", job: change("crm", func(s *jobv1.JobSpec) { s.Payload = make([]byte, 256<<10+1) }), code: codes.InvalidArgument, reason: "PAYLOAD_TOO_LARGE", fields: []string{"job.payload"}},
			{name: "source", job: spec("never-was"), conn: bound, code: codes.NotFound, reason: "UNKNOWN_SOURCE"},
			{name: "S8 other's source", job: spec("others"), code: codes.PermissionDenied, reason: "NOT_ALLOWED"},
			{name: "S10 nobody's source", job: spec("never-was"), code: codes.PermissionDenied, reason: "NOT_ALLOWED"},
			{name: "credential of another source", job: spec("crm"), conn: bound, code: codes.PermissionDenied, reason: "NOT_ALLOWED"},
			{name: "blocked", job: spec("blocked"), code: codes.FailedPrecondition, reason: "SOURCE_BLOCKED"},
			{name: "accept rate", job: spec("slow"), code: codes.ResourceExhausted, reason: "QUOTA_EXCEEDED", retry: true},
			{name: "backlog", job: spec("full"), code: codes.ResourceExhausted, reason: "BACKLOG_FULL", retry: true},
			{name: "common lane", job: spec("common"), code: codes.ResourceExhausted, reason: "LANES_EXHAUSTED", retry: true},
			{name: "conflict", job: keyed("b"), code: codes.AlreadyExists, reason: "IDEMPOTENCY_CONFLICT"},
			{name: "old key", job: change("crm", func(s *jobv1.JobSpec) { s.IdempotencyKey = sdkKey(151 * time.Second) }), code: codes.Aborted, reason: "KEY_EXPIRED"},
			{name: "future key", job: change("crm", func(s *jobv1.JobSpec) { s.IdempotencyKey = sdkKey(-31 * time.Second) }), code: codes.InvalidArgument, reason: "INVALID", fields: []string{"job.idempotency_key"}},
		} {
			client := w.enqueue
			if c.conn != nil {
				client = enqueuev1.NewEnqueueServiceClient(c.conn)
			}
			_, err := client.Enqueue(w.ctx, &enqueuev1.EnqueueRequest{Job: c.job})
			e := rpc.FromError(err)
			if e == nil || e.Code != c.code || e.Reason != c.reason || (e.Retry > 0) != c.retry || (len(e.Quota) > 0) != c.retry {
				t.Errorf("%s: got %+v", c.name, e)
				continue
			}
			var fields []string
			for _, v := range e.Violations {
				fields = append(fields, v.Field)
			}
			if !slices.Equal(fields, c.fields) {
				t.Errorf("%s: names %v, want %v", c.name, fields, c.fields)
			}
			if c.job == nil { // a batch holds no such item
				continue
			}
			resp, err := client.EnqueueBatch(w.ctx, &enqueuev1.EnqueueBatchRequest{Jobs: []*jobv1.JobSpec{c.job}})
			if err != nil {
				t.Errorf("%s in a batch: %v", c.name, err)
			} else if item := rpc.FromStatus(resp.GetItems()[0].GetError()); item == nil || item.Code != c.code || item.Reason != c.reason {
				t.Errorf("%s in a batch: %+v", c.name, item)
			}
		}
		if now := count(w.jobs()); now != before {
			t.Errorf("refusals left %d records", now-before)
		}
	})
}

func TestBatch(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("a")
		w.register("b")
		req := &enqueuev1.EnqueueBatchRequest{}
		for i := range 1000 {
			req.Jobs = append(req.Jobs, spec([]string{"a", "b", "unknown"}[i%3]))
		}
		resp, err := w.enqueue.EnqueueBatch(w.ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		ids := map[string]bool{}
		for i, item := range resp.GetItems() {
			if (item.GetOk() == nil) != (i%3 == 2) {
				t.Fatalf("item %d: %v", i, item)
			}
			if item.GetOk() != nil {
				ids[item.GetOk().GetJobId()] = true
			}
		}
		if len(resp.GetItems()) != 1000 || len(ids) != 667 || count(w.jobs()) != 667 {
			t.Errorf("%d items, %d ids, %d records", len(resp.GetItems()), len(ids), count(w.jobs()))
		}
		req.Jobs = append(req.Jobs, spec("a"))
		if _, err := w.enqueue.EnqueueBatch(w.ctx, req); rpc.ReasonOf(err) != "INVALID" {
			t.Errorf("1,001 jobs: %v", err)
		}
	})
}

// The answer comes after the log has the record, and not before.
func TestDurableBeforeAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		release := w.broker.Hold(kafkatest.Produce)
		answered := make(chan error, 2)
		go func() {
			_, err := w.send(spec("crm"))
			answered <- err
		}()
		go func() {
			resp, err := w.enqueue.EnqueueBatch(w.ctx, &enqueuev1.EnqueueBatchRequest{Jobs: []*jobv1.JobSpec{spec("crm"), spec("crm")}})
			if err == nil && (resp.GetItems()[0].GetOk() == nil || resp.GetItems()[1].GetOk() == nil) {
				err = fmt.Errorf("items %v", resp.GetItems())
			}
			answered <- err
		}()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		select {
		case err := <-answered:
			t.Fatal("answered before the log did:", err)
		default:
		}
		release()
		for range 2 {
			if err := <-answered; err != nil {
				t.Error(err)
			}
		}
		if n := count(w.jobs()); n != 3 {
			t.Errorf("%d records", n)
		}
	})
}

// H20: a record that was written without an answer is of unknown fate, within the deadline, and never refused.
func TestH20FateUnknown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		remove := w.broker.Fault(kafkatest.Produce, topics.Jobs("default"), 7, -1) // request timed out, and the work is done
		defer remove()
		began := time.Now()
		_, err := w.send(spec("crm"))
		if status.Code(err) != codes.Aborted || rpc.ReasonOf(err) != "FATE_UNKNOWN" || time.Since(began) > 20*time.Second+100*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		resp, err := w.enqueue.EnqueueBatch(w.ctx, &enqueuev1.EnqueueBatchRequest{Jobs: []*jobv1.JobSpec{spec("crm"), spec("unknown")}})
		if err != nil || rpc.FromStatus(resp.GetItems()[0].GetError()).Reason != "FATE_UNKNOWN" || rpc.FromStatus(resp.GetItems()[1].GetError()).Reason != "NOT_ALLOWED" {
			t.Errorf("%v, %v", resp, err)
		}
		if count(w.jobs()) == 0 {
			t.Error("the fault did not fire: nothing was written")
		}
	})
}

// A broker that is away: what was never sent is answered UNAVAILABLE within the deadline, memory stays within its bound while others are refused
// at once, and everything goes on when it is back.
func TestBudgetBound(t *testing.T) {
	const inflight = 8 << 20
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("flood")
		w.register("victim", func(s *automationv1.Source) { s.MaxPriority = jobv1.Priority_PRIORITY_CRITICAL })
		w.broker.Stop()
		var calls sync.WaitGroup
		var mu sync.Mutex
		reasons := map[string]int{}
		began := time.Now()
		for range 40 {
			calls.Go(func() {
				s := spec("flood")
				s.Payload = make([]byte, 200<<10)
				_, err := w.send(s)
				if status.Code(err) != codes.Aborted && rpc.RetryAfter(err) == 0 {
					t.Error("no RetryInfo:", err)
				}
				if rpc.ReasonOf(err) == "OVERLOADED" && time.Since(began) > 10*time.Millisecond {
					t.Errorf("refused after %v", time.Since(began))
				}
				mu.Lock()
				defer mu.Unlock()
				reasons[rpc.ReasonOf(err)]++
			})
		}
		time.Sleep(time.Second)
		// A quarter is the flood's, and room is left for others.
		victim := make(chan error, 1)
		go func() {
			s := spec("victim")
			s.Priority = jobv1.Priority_PRIORITY_CRITICAL
			_, err := w.send(s)
			victim <- err
		}()
		calls.Wait()
		if took := time.Since(began); took > 20*time.Second+100*time.Millisecond {
			t.Errorf("answered after %v", took)
		}
		// The first request breaks under the hands of whoever sends it: that one's fate is unknown.
		unsent, unknown := reasons["BROKER_UNAVAILABLE"], reasons["FATE_UNKNOWN"]
		if unsent == 0 || unknown > 1 || (unsent+unknown)*200<<10 > inflight/4 || reasons["OVERLOADED"]+unsent+unknown != 40 {
			t.Errorf("answers %v", reasons)
		}
		if err := <-victim; rpc.ReasonOf(err) != "BROKER_UNAVAILABLE" {
			t.Error("the victim was answered", err)
		}
		w.broker.Resume()
		time.Sleep(5 * time.Second)
		if n := count(w.jobs()); n > unknown {
			t.Errorf("%d records, and %d jobs of unknown fate", n, unknown)
		}
		if _, err := w.send(spec("victim")); err != nil {
			t.Error("after the broker came back:", err)
		}
	}, func(c *enqueue.Config, _ *enqueue.Deps) { c.Inflight = inflight })
}

// Work of a marked flow goes to its lane at once, that of others does not, and comes back when the mark is cleared.
func TestH22DiversionByMark(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		shard := int32(envelope.Shard("crm", shards))
		lane := shard + shards
		place := fmt.Sprintf("spill/%d", lane)
		w.mark(&logv1.SpillMark{Source: "crm", Type: "tag", Tenant: "t1", Lane: lane, BacklogJobs: 5})
		resp, err := w.send(spec("crm"))
		if err != nil || resp.GetVerdict() != enqueuev1.Verdict_VERDICT_ACCEPTED_SPILLED || len(w.jobs()[place]) != 1 {
			t.Fatalf("%v, %v: %v", resp, err, w.jobs())
		}
		transit, err := envelope.DecodeTransit(w.jobs()[place][0].Headers)
		if err != nil || transit.GetCause() != jobv1.WaitCause_WAIT_CAUSE_SPILL || transit.GetEpoch() != 0 || transit.GetMoves() != 0 {
			t.Errorf("transit %v, %v", transit, err)
		}
		other := spec("crm")
		other.Tenant = "t2"
		if resp, err := w.send(other); err != nil || resp.GetVerdict() != enqueuev1.Verdict_VERDICT_ACCEPTED {
			t.Errorf("another tenant: %v, %v", resp, err)
		}
		w.mark(&logv1.SpillMark{Source: "crm", Type: "tag", Tenant: "*", Lane: lane})
		if resp, err := w.send(other); err != nil || resp.GetVerdict() != enqueuev1.Verdict_VERDICT_ACCEPTED_SPILLED {
			t.Errorf("another tenant, all spill: %v, %v", resp, err)
		}
		w.mark()
		if resp, err := w.send(spec("crm")); err != nil || resp.GetVerdict() != enqueuev1.Verdict_VERDICT_ACCEPTED {
			t.Errorf("drained: %v, %v", resp, err)
		}
		if n := len(w.jobs()[place]); n != 2 {
			t.Errorf("%d records in the lane", n)
		}
	})
}

// Calls through the SDK while the broker goes away and comes back: all are accepted in the end, each as one job, none is refused.
func TestSDKOverABrokerRestart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		sdk := client.New(w.conn, client.WithTimeout(time.Minute))
		defer sdk.Close()
		var calls sync.WaitGroup
		for i := range 300 {
			calls.Go(func() {
				time.Sleep(time.Duration(i) * 30 * time.Millisecond)
				r, err := sdk.Enqueue(w.ctx, client.Job{Source: "crm", Type: "tag", Key: fmt.Sprint("k", i)})
				if want := envelope.KeyedJobID("crm", fmt.Sprint("k", i), envelope.Shard("crm", shards)).String(); err != nil || r.JobID != want {
					t.Errorf("job %d: %v, %v", i, r, err)
				}
			})
		}
		time.Sleep(2 * time.Second)
		w.broker.Stop()
		time.Sleep(5 * time.Second)
		w.broker.Resume()
		calls.Wait()
		ids := map[string]bool{}
		for _, list := range w.jobs() {
			for _, m := range list {
				f, err := envelope.Scan(m.Value)
				if err != nil {
					t.Fatal(err)
				}
				ids[f.ID.String()] = true
			}
		}
		if len(ids) != 300 {
			t.Errorf("%d jobs", len(ids))
		}
	})
}

// Held work is accepted, and goes to the lane as soon as there is one; a demotion changes the topic, not the record.
func TestHeldAndDemoted(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		shard := int32(envelope.Shard("crm", shards))
		w.switchOn("crm", automationv1.Verb_VERB_HOLD)
		if resp, err := w.send(spec("crm")); err != nil || resp.GetVerdict() != enqueuev1.Verdict_VERDICT_ACCEPTED {
			t.Errorf("held without a lane: %v, %v", resp, err)
		}
		w.mark(&logv1.SpillMark{Source: "crm", Type: "tag", Tenant: "*", Lane: shard + shards})
		if resp, err := w.send(spec("crm")); err != nil || resp.GetVerdict() != enqueuev1.Verdict_VERDICT_ACCEPTED_SPILLED {
			t.Errorf("held with a lane: %v, %v", resp, err)
		}
		transit, _ := envelope.DecodeTransit(w.jobs()[fmt.Sprintf("spill/%d", shard+shards)][0].Headers)
		if transit.GetCause() != jobv1.WaitCause_WAIT_CAUSE_HOLD {
			t.Errorf("transit %v", transit)
		}
	})
}

func TestDelayed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		s := spec("crm")
		s.NotBefore = timestamppb.New(time.Now().Add(10 * time.Second))
		resp, err := w.send(s)
		if err != nil || resp.GetVerdict() != enqueuev1.Verdict_VERDICT_ACCEPTED_DELAYED || !proto.Equal(resp.GetEstimatedStart(), s.GetNotBefore()) {
			t.Fatalf("%v, %v", resp, err)
		}
		found := w.jobs()[fmt.Sprintf("default/%d", envelope.Shard("crm", shards))]
		if transit, err := envelope.DecodeTransit(found[0].Headers); err != nil || !proto.Equal(transit.GetReadyAt(), s.GetNotBefore()) || transit.GetCause() != jobv1.WaitCause_WAIT_CAUSE_DELAY {
			t.Errorf("transit %v, %v", transit, err)
		}
	})
}

// The record carries the context of the span that wrote it.
func TestTraceContext(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		resp, err := w.send(spec("crm"))
		if err != nil {
			t.Fatal(err)
		}
		found := w.jobs()[fmt.Sprintf("default/%d", envelope.Shard("crm", shards))]
		carried := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), envelope.Carrier{Headers: &found[0].Headers}))
		spans := map[trace.SpanID]sdktrace.ReadOnlySpan{}
		for _, span := range recorder.Ended() {
			spans[span.SpanContext().SpanID()] = span
		}
		span := spans[carried.SpanID()]
		if span == nil {
			t.Fatalf("no span is the creation context %v", carried)
		}
		if span.Name() != "send jobs.default" || span.SpanKind() != trace.SpanKindProducer || !slices.Contains(span.Attributes(), telemetry.KeyJobID.String(resp.GetJobId())) {
			t.Errorf("span %s %s %v", span.Name(), span.SpanKind(), span.Attributes())
		}
		if parent := spans[span.Parent().SpanID()]; parent == nil || parent.SpanKind() != trace.SpanKindServer || parent.Name() != "spillway.enqueue.v1.EnqueueService/Enqueue" {
			t.Errorf("parent %v", parent)
		}
	}, func(_ *enqueue.Config, d *enqueue.Deps) {
		d.Telemetry = telemetry.New(telemetry.Config{TracerProvider: provider})
	})
}

func TestCounters(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		for _, source := range []string{"crm", "crm", "stranger-1", "stranger-2"} {
			w.send(spec(source))
		}
		var all metricdata.ResourceMetrics
		if err := reader.Collect(w.ctx, &all); err != nil {
			t.Fatal(err)
		}
		got := map[string]int64{}
		for _, scope := range all.ScopeMetrics {
			for _, m := range scope.Metrics {
				if sum, ok := m.Data.(metricdata.Sum[int64]); ok {
					for _, point := range sum.DataPoints {
						got[m.Name+" "+point.Attributes.Encoded(attribute.DefaultEncoder())] += point.Value
					}
				}
			}
		}
		want := map[string]int64{
			"spillway.job.accepted spillway.priority=default,spillway.source=crm,spillway.verdict=accepted": 2,
			"spillway.job.refused spillway.reason=NOT_ALLOWED":                                              2, // names that anybody can invent are no labels
		}
		if !maps.Equal(got, want) {
			t.Errorf("counted %v", got)
		}
	}, func(_ *enqueue.Config, d *enqueue.Deps) {
		d.Telemetry = telemetry.New(telemetry.Config{MeterProvider: provider})
	})
}

// Enqueue goes on without the control log's confirmation, and turns unready after 30 s of it.
func TestH17Unready(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.broker.Stop()
		time.Sleep(29 * time.Second)
		if c := w.service.Health(); !c[0].OK {
			t.Errorf("unready after 29 s: %v", c)
		}
		time.Sleep(2 * time.Second)
		if c := w.service.Health(); c[0].OK {
			t.Error("ready 31 s after the last confirmation")
		}
		w.broker.Resume()
		w.ready()
	})
}

// H1: it does not serve on topics weaker than declared.
func TestH1RefusesWeakTopics(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		err := <-w.ended
		w.ended <- nil
		if weak := (*kafka.WeakSettingError)(nil); !errors.As(err, &weak) {
			t.Error(err)
		}
	}, func(c *enqueue.Config, _ *enqueue.Deps) { c.Durability = kafka.Replicated })
}

// registry is automation as far as local mode needs it: it writes the control log.
type registry struct {
	automationv1.UnimplementedSourceAdminServiceServer
	w     *world
	mu    sync.Mutex
	calls int
	delay time.Duration
}

func (r *registry) put(s *automationv1.Source) error {
	r.mu.Lock()
	r.calls++
	r.mu.Unlock()
	time.Sleep(r.delay)
	ctx, cancel := context.WithTimeout(r.w.ctx, time.Second)
	defer cancel()
	_, err := r.w.control.Append(ctx, &logv1.Command{ExpectedRevision: -1, Actor: "enqueue", Act: &logv1.Command_PutSource{PutSource: &logv1.PutSource{Source: s}}})
	return err
}

func (r *registry) RegisterSource(_ context.Context, req *automationv1.RegisterSourceRequest) (*automationv1.RegisterSourceResponse, error) {
	return &automationv1.RegisterSourceResponse{}, r.put(req.GetSource())
}

func (r *registry) UpdateSource(_ context.Context, req *automationv1.UpdateSourceRequest) (*automationv1.UpdateSourceResponse, error) {
	old, _ := r.w.state.State().Source(req.GetSource().GetName())
	if old.GetEtag() != req.GetEtag() || !slices.Equal(req.GetUpdateMask().GetPaths(), []string{"types"}) {
		return nil, status.Error(codes.Aborted, "stale")
	}
	s := proto.CloneOf(old)
	s.Types = req.GetSource().GetTypes()
	return &automationv1.UpdateSourceResponse{}, r.put(s)
}

// Local mode registers what it does not know, one call at a time a name, and answers UNKNOWN_SOURCE after two seconds without it.
func TestLocalMode(t *testing.T) {
	local := func(c *enqueue.Config, _ *enqueue.Deps) { c.Register = "passthrough:///automation:7430" }
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		began := time.Now()
		if _, err := w.send(spec("early")); rpc.ReasonOf(err) != "UNKNOWN_SOURCE" || time.Since(began) > 2500*time.Millisecond {
			t.Errorf("without automation, after %v: %v", time.Since(began), err)
		}
		r := &registry{w: w, delay: 100 * time.Millisecond}
		server := grpc.NewServer()
		automationv1.RegisterSourceAdminServiceServer(server, r)
		go server.Serve(w.network.Listen("automation:7430"))
		defer server.Stop()
		time.Sleep(5 * time.Second) // the connection's back-off
		var calls sync.WaitGroup
		for range 20 {
			calls.Go(func() {
				if _, err := w.send(spec("new")); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		if r.calls != 1 {
			t.Errorf("%d registrations of one name", r.calls)
		}
		for i := range 8 {
			s := spec("new")
			s.Type = fmt.Sprint("type-", i)
			_, err := w.send(s)
			if want := map[bool]string{true: "UNKNOWN_TYPE"}[i == 7]; rpc.ReasonOf(err) != want {
				t.Errorf("type %d: %v", i, err)
			}
		}
	}, local)
}

// A graceful stop answers the calls under way.
func TestStopAnswersOpenCalls(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		release := w.broker.Hold(kafkatest.Produce)
		answered := make(chan error, 1)
		go func() {
			_, err := w.send(spec("crm"))
			answered <- err
		}()
		time.Sleep(time.Second)
		w.stop()
		time.Sleep(time.Second)
		release()
		if err := <-answered; err != nil {
			t.Error(err)
		}
	})
}

// The bytes of a payload come out as they went in, whatever they are (S19).
func TestS19PayloadIsOpaque(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		s := spec("crm")
		s.Payload = make([]byte, 256<<10)
		for i := range s.Payload {
			s.Payload[i] = byte(i * i >> 3)
		}
		if _, err := w.send(s); err != nil {
			t.Fatal(err)
		}
		job := &jobv1.Job{}
		if err := proto.Unmarshal(w.jobs()[fmt.Sprintf("default/%d", envelope.Shard("crm", shards))][0].Value, job); err != nil || !bytes.Equal(job.GetSpec().GetPayload(), s.Payload) {
			t.Error("the payload changed", err)
		}
	})
}

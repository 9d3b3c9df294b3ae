package system

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/telemetry"
	"github.com/spillway/spillway/pkg/worker"
)

// traced gives the whole product one exporter in memory.
func (w *world) traced() *spans {
	exporter := tracetest.NewInMemoryExporter()
	w.telemetry = telemetry.New(telemetry.Config{TracerProvider: sdk.NewTracerProvider(sdk.WithSyncer(exporter), sdk.WithSampler(sdk.AlwaysSample()))})
	return &spans{t: w.t, exporter: exporter}
}

// spans is everything that was exported.
type spans struct {
	t        *testing.T
	exporter *tracetest.InMemoryExporter
}

// of are the spans of a name that are about a job, in the order of their starts.
func (s *spans) of(name, job string) (found []tracetest.SpanStub) {
	for _, span := range s.exporter.GetSpans() {
		about := job == ""
		for _, a := range span.Attributes {
			about = about || a.Key == telemetry.KeyJobID && a.Value.AsString() == job
		}
		if span.Name == name && about {
			found = append(found, span)
		}
	}
	slices.SortStableFunc(found, func(a, b tracetest.SpanStub) int { return a.StartTime.Compare(b.StartTime) })
	return found
}

// one is the only one of these.
func (s *spans) one(name, job string) tracetest.SpanStub {
	s.t.Helper()
	found := s.of(name, job)
	if len(found) != 1 {
		var names []string
		for _, span := range s.exporter.GetSpans() {
			names = append(names, span.Name)
		}
		s.t.Fatalf("%d spans %q of %s, want one; there are %q", len(found), name, job, names)
	}
	return found[0]
}

func value(span tracetest.SpanStub, key attribute.Key) attribute.Value {
	for _, a := range span.Attributes {
		if a.Key == key {
			return a.Value
		}
	}
	return attribute.Value{}
}

func linked(span, to tracetest.SpanStub) bool {
	return slices.ContainsFunc(span.Links, func(l sdk.Link) bool {
		return l.SpanContext.TraceID() == to.SpanContext.TraceID() && l.SpanContext.SpanID() == to.SpanContext.SpanID()
	})
}

func childOf(span, parent tracetest.SpanStub) bool {
	return span.Parent.SpanID() == parent.SpanContext.SpanID() && span.SpanContext.TraceID() == parent.SpanContext.TraceID()
}

const enqueueMethod = "spillway.enqueue.v1.EnqueueService/Enqueue"

// TestOneTraceFromCallerToHandler: the way of a prompt job is one trace from enqueue's span to the handler's, with its wait in it; the caller's
// trace is linked, and what a handler does is under its span (telemetry.md, I20).
func TestOneTraceFromCallerToHandler(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := w.inShard(1, 1)[0]
		seen := w.traced()
		w.enqueue(0)
		w.scheduler(0)
		ran := &tally{}
		inHandler := make(chan trace.SpanContext, 1)
		w.worker(1, func(ctx context.Context, job *worker.Job) error {
			ran.run(job)
			if string(job.Payload) == "traced" {
				inHandler <- trace.SpanContextFromContext(ctx)
			} else {
				time.Sleep(300 * time.Millisecond)
			}
			return nil
		})
		c := w.caller()
		defer c.Close()
		w.send(c, source, 1)
		w.until("the one slot is taken", time.Second, func() bool { return ran.total() == 1 })
		ctx, mine := w.telemetry.Tracer().Start(w.ctx, "checkout")
		r, err := c.Enqueue(ctx, client.Job{Source: source, Tenant: "acme", Type: "tag", Payload: []byte("traced")})
		mine.End()
		if err != nil {
			t.Fatal(err)
		}
		w.drained(5*time.Second, ran, r.JobID)
		time.Sleep(100 * time.Millisecond)

		caller := seen.one("checkout", "")
		var call, server tracetest.SpanStub
		for _, span := range seen.of(enqueueMethod, "") {
			switch span.SpanKind {
			case trace.SpanKindClient:
				call = span
			case trace.SpanKindServer:
				server = span
			}
		}
		send, wait, process := seen.one("send jobs.default", r.JobID), seen.one("queue wait", r.JobID), seen.one("process tag", r.JobID)
		if !childOf(call, caller) {
			t.Error("the call is not the caller's child")
		}
		if server.Parent.IsValid() || !linked(server, call) {
			t.Errorf("the server's span has parent %v and links %v", server.Parent, server.Links)
		}
		if send.SpanKind != trace.SpanKindProducer || !childOf(send, server) {
			t.Errorf("send is of kind %v with parent %v", send.SpanKind, send.Parent)
		}
		if process.SpanKind != trace.SpanKindConsumer || !childOf(process, send) || !linked(process, send) {
			t.Errorf("process is of kind %v with parent %v and links %v", process.SpanKind, process.Parent, process.Links)
		}
		if wait.SpanKind != trace.SpanKindInternal || !childOf(wait, send) {
			t.Errorf("queue wait is of kind %v with parent %v", wait.SpanKind, wait.Parent)
		}
		if handler := <-inHandler; handler.SpanID() != process.SpanContext.SpanID() {
			t.Error("the handler runs under another span")
		}
		for _, span := range []tracetest.SpanStub{send, wait, process} {
			if value(span, telemetry.KeySource).AsString() != source || value(span, telemetry.KeyTenant).AsString() != "acme" || value(span, telemetry.KeyType).AsString() != "tag" {
				t.Errorf("%s says %v", span.Name, span.Attributes)
			}
		}
		sum := 0.0
		for _, a := range wait.Attributes {
			if len(a.Key) > len(telemetry.KeyWait) && a.Key[:len(telemetry.KeyWait)] == telemetry.KeyWait {
				sum += a.Value.AsFloat64()
			}
		}
		if took := wait.EndTime.Sub(wait.StartTime).Seconds(); took < 0.2 || sum < took-0.02 || sum > took+0.02 {
			t.Errorf("a wait of %v s has causes of %v s", took, sum)
		}
		if value(process, telemetry.KeyAttempt).AsInt64() != 1 {
			t.Errorf("attempt %v", value(process, telemetry.KeyAttempt))
		}
	})
}

// TestRetriesAreLinkedTraces: every attempt after the first is a trace of its own, linked to where the job was created (telemetry.md).
func TestRetriesAreLinkedTraces(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := w.inShard(1, 1, attempts(3))[0]
		seen := w.traced()
		w.enqueue(0)
		w.scheduler(0)
		ran := &tally{}
		w.worker(1, func(_ context.Context, job *worker.Job) error {
			ran.run(job)
			return errors.New("broken")
		})
		c := w.caller()
		defer c.Close()
		r, err := c.Enqueue(w.ctx, client.Job{Source: source, Type: "tag"})
		if err != nil {
			t.Fatal(err)
		}
		w.drained(20*time.Second, ran, r.JobID)
		time.Sleep(100 * time.Millisecond)
		// One that was alone, so that its call may have been a batch: the send span is found by the job.
		send := seen.one("send jobs.default", r.JobID)
		attempts := seen.of("process tag", r.JobID)
		if len(attempts) != 3 {
			t.Fatalf("%d process spans", len(attempts))
		}
		traces := map[trace.TraceID]bool{}
		for i, span := range attempts {
			traces[span.SpanContext.TraceID()] = true
			if !linked(span, send) || value(span, telemetry.KeyAttempt).AsInt64() != int64(i+1) || i > 0 && span.Parent.IsValid() {
				t.Errorf("attempt %d has parent %v, links %v and %v", i+1, span.Parent, span.Links, span.Attributes)
			}
		}
		if len(traces) != 3 {
			t.Errorf("%d traces", len(traces))
		}
	})
}

// TestSpilledJobsKeepTheirTrace: a job that enqueue writes to a lane says so by its span's name; the creation context survives the lane and the
// scheduler's copies, and the wait is in the trace (telemetry.md, I3).
func TestSpilledJobsKeepTheirTrace(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := w.inShard(1, 1)[0]
		seen := w.traced()
		w.enqueue(0)
		w.scheduler(0)
		ran := &tally{}
		w.worker(4, ran.handler(0))
		c := w.caller()
		defer c.Close()
		w.hold(source)
		time.Sleep(500 * time.Millisecond)
		copied := w.send(c, source, 1)[0] // to the priority topic, and to the lane by the scheduler
		w.until("it is marked", 2*time.Second, func() bool { return len(w.lanesOf(source)) == 1 })
		time.Sleep(100 * time.Millisecond)
		direct := w.send(c, source, 1)[0]
		time.Sleep(5 * time.Second)
		w.resume(source)
		w.drained(10*time.Second, ran, copied, direct)
		time.Sleep(100 * time.Millisecond)
		for id, name := range map[string]string{copied: "send jobs.default", direct: "send spill"} {
			send, wait, process := seen.one(name, id), seen.one("queue wait", id), seen.one("process tag", id)
			if send.SpanKind != trace.SpanKindProducer || !childOf(process, send) || !linked(process, send) || !childOf(wait, send) {
				t.Errorf("%s: send is of kind %v, process has parent %v and links %v", name, send.SpanKind, process.Parent, process.Links)
			}
			if took := wait.EndTime.Sub(wait.StartTime); took < 5*time.Second {
				t.Errorf("%s: a wait of %v", name, took)
			}
		}
	})
}

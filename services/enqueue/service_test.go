package enqueue_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/rpc"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
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

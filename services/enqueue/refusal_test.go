package enqueue_test

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

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

// S3: without a token, or with one of another role, nobody gets in.
func TestS3NoCredentials(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm", func(s *automationv1.Source) { s.Principals = []string{"*"} })
		bare, err := rpc.Dial(rpctest.Target("enqueue:7400"), rpc.DialConfig{Dialer: w.network.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer bare.Close()
		worker := w.dial("worker", rpc.RoleWorker)
		defer worker.Close()
		for conn, want := range map[*grpc.ClientConn]codes.Code{bare: codes.Unauthenticated, worker: codes.PermissionDenied} {
			if _, err := enqueuev1.NewEnqueueServiceClient(conn).Enqueue(w.ctx, &enqueuev1.EnqueueRequest{Job: spec("crm")}); rpc.FromError(err).Code != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		if n := count(w.jobs()); n != 0 {
			t.Errorf("%d records", n)
		}
	})
}

// The accept rate is divided by the replicas that are alive: in sum it is never exceeded.
func TestAcceptRateIsDivided(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm", func(s *automationv1.Source) {
			ten := 10.0
			s.Quota, s.Overflow = &automationv1.Quota{AcceptRate: &ten}, automationv1.Overflow_OVERFLOW_REJECT
		})
		accepted := func() (n int) {
			for range 20 {
				if _, err := w.send(spec("crm")); err == nil {
					n++
				}
			}
			return n
		}
		for _, other := range []string{"enqueue-other", "enqueue-third"} {
			w.beat(&logv1.Status{Replica: other, Kind: logv1.ReplicaKind_REPLICA_KIND_ENQUEUE})
		}
		if n := accepted(); n != 3 {
			t.Errorf("one of three replicas accepted %d of 10 jobs at once", n)
		}
		time.Sleep(10 * time.Second) // the others are gone, and the burst is full again
		if n := accepted(); n != 10 {
			t.Errorf("the only replica accepted %d of 10 jobs at once", n)
		}
	})
}

// TestStrangersHoldNobodyUp: connections without credentials that open calls and send nothing take no place of those that are received at a time
// (H25). Each took one for its patience, and an honest batch waited for 15 s.
func TestStrangersHoldNobodyUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		for range 2 {
			stranger, err := rpc.Dial(rpctest.Target("enqueue:7400"), rpc.DialConfig{Dialer: w.network.Dial})
			if err != nil {
				t.Fatal(err)
			}
			defer stranger.Close()
			for range 120 {
				desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
				if _, err := stranger.NewStream(w.ctx, desc, enqueuev1.EnqueueService_EnqueueBatch_FullMethodName); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(time.Millisecond)
		began := time.Now()
		answer, err := w.enqueue.EnqueueBatch(w.ctx, &enqueuev1.EnqueueBatchRequest{Jobs: []*jobv1.JobSpec{spec("crm")}})
		if took := time.Since(began); err != nil || len(answer.GetItems()) != 1 || took > 100*time.Millisecond {
			t.Errorf("an honest batch took %v: %v, %v", took, answer, err)
		}
	})
}

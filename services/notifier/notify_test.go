package notifier_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	"github.com/spillway/spillway/pkg/telemetry"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
	"github.com/spillway/spillway/services/notifier"
)

// scheduler is one that grants what a test says and settles every result at once.
type scheduler struct {
	schedulerv1.UnimplementedWorkerServiceServer
	server  *grpc.Server
	types   chan []string            // of every worker that comes
	grants  chan *schedulerv1.Lease  // to be granted
	results chan *schedulerv1.Result // in the order of their coming
}

func withScheduler(t *testing.T, s **scheduler) setting {
	return func(c *notifier.Config, d *notifier.Deps) {
		network := rpctest.NewNetwork()
		*s = &scheduler{
			server: grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true})),
			types:  make(chan []string, 8), grants: make(chan *schedulerv1.Lease, 64), results: make(chan *schedulerv1.Result, 64),
		}
		schedulerv1.RegisterWorkerServiceServer((*s).server, *s)
		go (*s).server.Serve(network.Listen("scheduler-0"))
		c.Schedulers, d.Dial = rpctest.Target("scheduler-0"), network.Dial
	}
}

// Work serves one stream.
func (s *scheduler) Work(wire schedulerv1.WorkerService_WorkServer) error {
	frames := make(chan *schedulerv1.WorkRequest, 64)
	go func() {
		defer close(frames)
		for {
			f, err := wire.Recv()
			if err != nil {
				return
			}
			select {
			case frames <- f:
			case <-wire.Context().Done():
				return
			}
		}
	}()
	for {
		select {
		case <-wire.Context().Done():
			return nil
		case lease := <-s.grants:
			if err := wire.Send(&schedulerv1.WorkResponse{Leases: []*schedulerv1.Lease{lease}}); err != nil {
				return err
			}
		case f, ok := <-frames:
			if !ok {
				return nil
			}
			answer := &schedulerv1.WorkResponse{}
			if f.Hello != nil && f.Hello.Answers == nil { // the first one
				s.types <- f.Hello.Types
				answer.Welcome = &schedulerv1.Welcome{Replica: "scheduler-0", Ttl: durationpb.New(20 * time.Second), RenewEvery: durationpb.New(5 * time.Second)}
				answer.Ownership = &schedulerv1.Ownership{Shards: []int32{0}, Epochs: []int64{1}}
				answer.Topology = &schedulerv1.Topology{Replicas: []*schedulerv1.Replica{{Id: "scheduler-0", Address: rpctest.Target("scheduler-0")}}}
			}
			for _, r := range f.Results {
				if answer.Settled == nil {
					answer.Settled = &schedulerv1.Settled{}
				}
				answer.Settled.Tokens = append(answer.Settled.Tokens, r.Token)
				s.results <- r
			}
			if err := wire.Send(answer); err != nil {
				return err
			}
		}
	}
}

// run grants a job of type notify and returns its result.
func (s *scheduler) run(t *testing.T, counter int64, source, tenant, payload, traceparent string) *schedulerv1.Result {
	t.Helper()
	value, err := proto.Marshal(&jobv1.Job{
		Id:         jobID(counter),
		Spec:       &jobv1.JobSpec{Source: source, Tenant: tenant, Type: "notify", Payload: []byte(payload), Priority: jobv1.Priority_PRIORITY_DEFAULT},
		AcceptedAt: timestamppb.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	s.grants <- &schedulerv1.Lease{
		Job: value, Token: &jobv1.Token{Epoch: 1, Counter: counter}, Attempt: 1, Ttl: durationpb.New(20 * time.Second), RunTimeout: durationpb.New(5 * time.Minute),
		GrantedAt: timestamppb.Now(), Priority: jobv1.Priority_PRIORITY_DEFAULT, Tag: float64(counter), Traceparent: traceparent,
	}
	select {
	case r := <-s.results:
		if r.Token.GetCounter() != counter {
			t.Fatalf("the result of job %d came instead of that of job %d", r.Token.GetCounter(), counter)
		}
		return r
	case <-time.After(time.Minute):
		t.Fatal("no result within a minute")
		return nil
	}
}

func jobID(counter int64) string { return fmt.Sprintf("00000000-0000-7000-8000-%012d", counter) }

// A job of type notify is a notification with the job's id, source and tenant, in the trace of the job.
func TestNotifyJob(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	var s *scheduler
	bubble(t, func(t *testing.T, w *world) {
		defer s.server.Stop()
		w.ready()
		w.register("crm")
		if types := <-s.types; !slices.Equal(types, []string{"notify"}) {
			t.Fatalf("the worker runs %v", types)
		}
		r := s.run(t, 1, "crm", "t1", `{"channel": "user:t1:anna", "class": "EVENT", "key": "k", "data": {"a": [1, 2]}, "ttl": "30s", "later": true}`,
			"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		if r.Kind != schedulerv1.ResultKind_RESULT_KIND_SUCCESS {
			t.Fatal(r)
		}
		found := w.log()[envelope.Shard("user:t1:anna", shards)]
		if len(found) != 1 {
			t.Fatalf("records %v", w.log())
		}
		n := decode(t, found[0])
		want := &logv1.Notification{
			Id: jobID(1), Channel: "user:t1:anna", Class: notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT, Key: "k", Data: []byte(`{"a":[1,2]}`),
			At: n.GetAt(), ExpiresAt: timestamppb.New(n.GetAt().AsTime().Add(30 * time.Second)), Source: "crm", Tenant: "t1", JobId: jobID(1),
		}
		if !proto.Equal(n, want) {
			t.Errorf("record %v", n)
		}
		carried := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(w.ctx, envelope.Carrier{Headers: &found[0].Headers}))
		if carried.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
			t.Errorf("the record's trace is %v", carried.TraceID())
		}
		spans := map[trace.SpanID]sdktrace.ReadOnlySpan{}
		for _, span := range recorder.Ended() {
			spans[span.SpanContext().SpanID()] = span
		}
		send := spans[carried.SpanID()]
		if send == nil || send.Name() != "send notifications" || !slices.Contains(send.Attributes(), telemetry.KeyJobID.String(jobID(1))) {
			t.Fatalf("span %v", send)
		}
		if parent := spans[send.Parent().SpanID()]; parent == nil || parent.Name() != "process notify" {
			t.Errorf("parent %v", parent)
		}
	}, withScheduler(t, &s), func(_ *notifier.Config, d *notifier.Deps) {
		d.Telemetry = telemetry.New(telemetry.Config{TracerProvider: provider})
	})
}

// What becomes of jobs that are no notification now, or never will be one.
func TestNotifyJobsThatAreNotPublished(t *testing.T) {
	var s *scheduler
	bubble(t, func(t *testing.T, w *world) {
		defer s.server.Stop()
		w.ready()
		w.register("crm")
		w.register("slow", rate(0.5))
		w.register("blocked")
		w.switchOn("blocked", automationv1.Verb_VERB_BLOCK)
		const good = `{"channel":"user:t1:anna","class":"EVENT","data":1}`
		if r := s.run(t, 1, "slow", "t1", good, ""); r.Kind != schedulerv1.ResultKind_RESULT_KIND_SUCCESS {
			t.Fatal("its one token:", r)
		}
		before := w.written()
		const permanent, snooze, retry = schedulerv1.ResultKind_RESULT_KIND_PERMANENT, schedulerv1.ResultKind_RESULT_KIND_SNOOZE, schedulerv1.ResultKind_RESULT_KIND_RETRY
		for i, c := range []struct {
			name, source, tenant, payload string
			want                          schedulerv1.ResultKind
		}{
			{"no JSON", "crm", "t1", `{`, permanent},
			{"no object", "crm", "t1", `[]`, permanent},
			{"nothing", "crm", "t1", `{}`, permanent},
			{"no data", "crm", "t1", `{"channel":"user:t1:anna","class":"EVENT"}`, permanent},
			{"no class", "crm", "t1", `{"channel":"user:t1:anna","data":1}`, permanent},
			{"a later class", "crm", "t1", `{"channel":"user:t1:anna","class":"STATE","key":"k","data":1}`, permanent},
			{"another tenant's channel", "crm", "t2", good, permanent},
			{"no tenant", "crm", "", good, permanent},
			{"ttl of another form", "crm", "t1", `{"channel":"user:t1:anna","class":"EVENT","data":1,"ttl":"soon"}`, permanent},
			{"system", "crm", "t1", `{"channel":"system","class":"EVENT","data":1}`, permanent},
			{"over the quota", "slow", "t1", good, snooze},
			{"blocked", "blocked", "t1", good, snooze},
			{"not registered here", "unknown", "t1", good, retry},
		} {
			r := s.run(t, int64(i+2), c.source, c.tenant, c.payload, "")
			if r.Kind != c.want || c.want == snooze && (r.Delay.AsDuration() <= 0 || r.Delay.AsDuration() > 10*time.Second) || c.want != snooze && r.Error == "" {
				t.Errorf("%s: %v", c.name, r)
			}
		}
		if now := w.written(); now != before {
			t.Errorf("%d records", now-before)
		}
		w.broker.Stop()
		if r := s.run(t, 100, "crm", "t1", good, ""); r.Kind != retry {
			t.Errorf("the log is away: %v", r)
		}
		w.broker.Resume()
		if r := s.run(t, 101, "crm", "t1", good, ""); r.Kind != schedulerv1.ResultKind_RESULT_KIND_SUCCESS {
			t.Errorf("the log is back: %v", r)
		}
	}, withScheduler(t, &s))
}

// Schedulers that are away change nothing for callers, and a stop does not wait for them.
func TestWithoutSchedulers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		time.Sleep(time.Minute)
		if _, err := w.publish(request("crm")); err != nil {
			t.Error(err)
		}
		w.ready()
		began := time.Now()
		w.stop()
		err := <-w.ended
		w.ended <- err
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("stopped after %v", took)
		}
	}, func(c *notifier.Config, d *notifier.Deps) { c.Schedulers = rpctest.Target("nobody") })
}

// A stop lets jobs that run end, and their results are settled; the sockets are gone by then.
func TestStopEndsJobs(t *testing.T) {
	var s *scheduler
	bubble(t, func(t *testing.T, w *world) {
		defer s.server.Stop()
		w.ready()
		w.register("crm")
		release := w.broker.Hold(kafkatest.Produce)
		result := make(chan *schedulerv1.Result, 1)
		go func() { result <- s.run(t, 1, "crm", "t1", `{"channel":"user:t1:anna","class":"EVENT","data":1}`, "") }()
		time.Sleep(time.Second)
		w.stop()
		time.Sleep(time.Second)
		select {
		case err := <-w.ended:
			t.Fatal("ended with a job under way:", err)
		default:
		}
		release()
		if r := <-result; r.Kind != schedulerv1.ResultKind_RESULT_KIND_SUCCESS {
			t.Error(r)
		}
		began := time.Now()
		err := <-w.ended
		w.ended <- err
		if err != nil || time.Since(began) > time.Second || w.written() != 1 {
			t.Errorf("%v, %v after the job, %d records", err, time.Since(began), w.written())
		}
	}, withScheduler(t, &s))
}

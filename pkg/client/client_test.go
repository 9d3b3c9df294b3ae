package client

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service answers what answer says for each job, and notes what came.
type service struct {
	enqueuev1.UnimplementedEnqueueServiceServer
	answer func(ctx context.Context, job *jobv1.JobSpec) error

	mu      sync.Mutex
	jobs    []*jobv1.JobSpec
	batches []int // sizes of requests, 1 for Enqueue
}

func (s *service) note(jobs ...*jobv1.JobSpec) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs = append(s.jobs, jobs...)
	s.batches = append(s.batches, len(jobs))
}

func (s *service) Enqueue(ctx context.Context, req *enqueuev1.EnqueueRequest) (*enqueuev1.EnqueueResponse, error) {
	s.note(req.GetJob())
	if err := s.answer(ctx, req.GetJob()); err != nil {
		return nil, err
	}
	return &enqueuev1.EnqueueResponse{JobId: "id-" + req.GetJob().GetIdempotencyKey(), Verdict: enqueuev1.Verdict_VERDICT_ACCEPTED}, nil
}

func (s *service) EnqueueBatch(ctx context.Context, req *enqueuev1.EnqueueBatchRequest) (*enqueuev1.EnqueueBatchResponse, error) {
	s.note(req.GetJobs()...)
	resp := &enqueuev1.EnqueueBatchResponse{}
	for _, job := range req.GetJobs() {
		item := &enqueuev1.EnqueueBatchResponse_Item{Result: &enqueuev1.EnqueueBatchResponse_Item_Ok{Ok: &enqueuev1.EnqueueResponse{JobId: "id-" + job.GetIdempotencyKey(), Verdict: enqueuev1.Verdict_VERDICT_ACCEPTED_SPILLED}}}
		if err := s.answer(ctx, job); err != nil {
			item = &enqueuev1.EnqueueBatchResponse_Item{Result: &enqueuev1.EnqueueBatchResponse_Item_Error{Error: status.Convert(err).Proto()}}
		}
		resp.Items = append(resp.Items, item)
	}
	return resp, nil
}

// bubble runs f with a client of s inside a synctest bubble.
func bubble(t *testing.T, s *service, f func(t *testing.T, c *Client), opts ...Option) {
	synctest.Test(t, func(t *testing.T) {
		network := rpctest.NewNetwork()
		server := grpc.NewServer()
		enqueuev1.RegisterEnqueueServiceServer(server, s)
		listener := network.Listen("enqueue:7400")
		go server.Serve(listener)
		dial := grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return network.Dial(ctx, a) })
		c, err := Dial(rpctest.Target("enqueue:7400"), append(opts, WithDialOptions(dial))...)
		if err != nil {
			t.Fatal(err)
		}
		f(t, c)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		synctest.Wait()
	})
}

func refuse(code codes.Code, reason string) error {
	return (&rpc.Error{Code: code, Reason: reason, Message: "no"}).Err()
}

func job() Job { return Job{Source: "crm", Type: "tag"} }

// script answers the tries of a job in turn; the last answer stands.
func script(answers ...error) func(context.Context, *jobv1.JobSpec) error {
	n := 0
	return func(context.Context, *jobv1.JobSpec) error {
		n++
		return answers[min(n, len(answers))-1]
	}
}

func TestOneKeyForAllTries(t *testing.T) {
	s := &service{answer: script(refuse(codes.Unavailable, "BROKER_UNAVAILABLE"), refuse(codes.Aborted, "FATE_UNKNOWN"), nil)}
	bubble(t, s, func(t *testing.T, c *Client) {
		r, err := c.Enqueue(t.Context(), job())
		if err != nil {
			t.Fatal(err)
		}
		if len(s.jobs) != 3 || r.JobID != "id-"+s.jobs[0].GetIdempotencyKey() || s.jobs[2].GetIdempotencyKey() != s.jobs[0].GetIdempotencyKey() {
			t.Errorf("%d tries, %v", len(s.jobs), s.jobs)
		}
		if at, ok := envelope.KeyTime(s.jobs[0].GetIdempotencyKey()); !ok || time.Since(at) > time.Minute {
			t.Errorf("key %q is not of the SDK's form", s.jobs[0].GetIdempotencyKey())
		}
	})
}

// A refusal is reported as one only when nothing before it may have been accepted.
func TestRefusalAfterUnknownFate(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []error
		reason  string
		code    codes.Code
		refused bool
		tries   int
	}{
		{"refused at once", []error{refuse(codes.NotFound, "UNKNOWN_SOURCE")}, "UNKNOWN_SOURCE", codes.NotFound, true, 1},
		{"a full backlog is not tried again", []error{refuse(codes.ResourceExhausted, "BACKLOG_FULL")}, "BACKLOG_FULL", codes.ResourceExhausted, true, 1},
		{"refused after a try of unknown fate", []error{refuse(codes.Aborted, "FATE_UNKNOWN"), refuse(codes.ResourceExhausted, "BACKLOG_FULL")}, "FATE_UNKNOWN", codes.Aborted, false, 2},
		{"refused after a broken stream", []error{status.Error(codes.Unavailable, "broken"), refuse(codes.NotFound, "UNKNOWN_SOURCE")}, "FATE_UNKNOWN", codes.Aborted, false, 2},
		{"old key", []error{refuse(codes.Aborted, "KEY_EXPIRED")}, "KEY_EXPIRED", codes.Aborted, false, 1},
		{"old key after unknown", []error{refuse(codes.Unavailable, ""), refuse(codes.Aborted, "KEY_EXPIRED")}, "FATE_UNKNOWN", codes.Aborted, false, 2},
		{"internal is not definite", []error{status.Error(codes.Unimplemented, "")}, "", codes.Unimplemented, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &service{answer: script(c.answers...)}
			bubble(t, s, func(t *testing.T, cl *Client) {
				_, err := cl.Enqueue(t.Context(), job())
				if Reason(err) != c.reason || status.Code(err) != c.code || Refused(err) != c.refused || len(s.jobs) != c.tries {
					t.Errorf("got %v (refused %v) after %d tries", err, Refused(err), len(s.jobs))
				}
			})
		})
	}
}

// A service that answers nothing: the call ends with its context, and the default bounds one without a deadline.
func TestDeadline(t *testing.T) {
	hang := func(ctx context.Context, _ *jobv1.JobSpec) error { <-ctx.Done(); return ctx.Err() }
	for _, c := range []struct {
		name string
		ctx  func(context.Context) (context.Context, context.CancelFunc)
		want time.Duration
	}{
		{"of the context", func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 3*time.Second)
		}, 3 * time.Second},
		{"of the client", func(ctx context.Context) (context.Context, context.CancelFunc) { return ctx, func() {} }, DefaultTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, &service{answer: hang}, func(t *testing.T, cl *Client) {
				ctx, cancel := c.ctx(t.Context())
				defer cancel()
				began := time.Now()
				_, err := cl.Enqueue(ctx, job())
				if took := time.Since(began); took > c.want+100*time.Millisecond || took < c.want-3*time.Second {
					t.Errorf("took %v, want %v", took, c.want)
				}
				if err == nil || Refused(err) || status.Code(err) != codes.DeadlineExceeded {
					t.Error(err)
				}
			})
		})
	}
}

// Calls wait for a service that is away, as long as their deadline allows.
func TestServiceComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := rpctest.NewNetwork()
		dial := grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return network.Dial(ctx, a) })
		c, err := Dial(rpctest.Target("enqueue:7400"), WithDialOptions(dial))
		if err != nil {
			t.Fatal(err)
		}
		server := grpc.NewServer()
		enqueuev1.RegisterEnqueueServiceServer(server, &service{answer: script(nil)})
		go func() {
			time.Sleep(2 * time.Second)
			server.Serve(network.Listen("enqueue:7400"))
		}()
		if _, err := c.Enqueue(t.Context(), job()); err != nil {
			t.Error(err)
		}
		c.Close()
		server.Stop()
		synctest.Wait()
	})
}

// A lone call does not wait; calls that find two of their source under way share the next request; other sources are not kept.
func TestCoalescing(t *testing.T) {
	s := &service{answer: func(context.Context, *jobv1.JobSpec) error { time.Sleep(10 * time.Millisecond); return nil }}
	bubble(t, s, func(t *testing.T, c *Client) {
		began := time.Now()
		var wait sync.WaitGroup
		call := func(j Job) {
			wait.Go(func() {
				if _, err := c.Enqueue(t.Context(), j); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		for range underWay + 50 {
			call(job())
		}
		call(Job{Source: "other", Type: "tag"})
		time.Sleep(10 * time.Millisecond)
		if took := time.Since(began); took != 10*time.Millisecond {
			t.Fatalf("the first answers took %v", took)
		}
		wait.Wait()
		slices.Sort(s.batches)
		if !slices.Equal(s.batches, []int{1, 1, 1, 50}) {
			t.Errorf("requests of %v jobs", s.batches)
		}
	})
}

// A job of a shared request that is refused harms no other, and each caller gets its own verdict.
func TestCoalescedVerdicts(t *testing.T) {
	s := &service{answer: func(_ context.Context, j *jobv1.JobSpec) error {
		time.Sleep(time.Millisecond)
		if j.GetType() == "bad" {
			return refuse(codes.InvalidArgument, "INVALID")
		}
		return nil
	}}
	bubble(t, s, func(t *testing.T, c *Client) {
		var wait sync.WaitGroup
		for i := range 100 {
			wait.Go(func() {
				j := Job{Source: "crm", Type: "tag", Key: fmt.Sprint("key-", i)}
				if i%10 == 0 {
					j.Type = "bad"
				}
				r, err := c.Enqueue(t.Context(), j)
				if want := i%10 == 0; Refused(err) != want {
					t.Errorf("job %d: %v", i, err)
				} else if !want && r.JobID != fmt.Sprint("id-key-", i) {
					t.Errorf("job %d got the answer of %s", i, r.JobID)
				}
			})
		}
		wait.Wait()
	})
}

// A caller that gives up while its job waits takes it out; nobody else is held up.
func TestQueuedCallGivesUp(t *testing.T) {
	s := &service{answer: func(context.Context, *jobv1.JobSpec) error { time.Sleep(time.Second); return nil }}
	bubble(t, s, func(t *testing.T, c *Client) {
		var wait sync.WaitGroup
		for range underWay {
			wait.Go(func() { c.Enqueue(t.Context(), job()) })
		}
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := c.Enqueue(ctx, job()); status.Code(err) != codes.DeadlineExceeded {
			t.Error(err)
		}
		wait.Wait()
		if len(s.jobs) != underWay {
			t.Errorf("%d jobs were sent", len(s.jobs))
		}
	})
}

func TestSampledCallTravelsAlone(t *testing.T) {
	s := &service{answer: func(context.Context, *jobv1.JobSpec) error { time.Sleep(time.Millisecond); return nil }}
	bubble(t, s, func(t *testing.T, c *Client) {
		sampled := trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, TraceFlags: trace.FlagsSampled,
		}))
		var wait sync.WaitGroup
		for range 20 {
			wait.Go(func() { c.Enqueue(sampled, job()) })
		}
		wait.Wait()
		if slices.Max(s.batches) != 1 {
			t.Errorf("requests of %v jobs", s.batches)
		}
	})
}

func TestBatchRetriesOnlyWhatIsOpen(t *testing.T) {
	tried := map[string]int{}
	s := &service{}
	s.answer = func(_ context.Context, j *jobv1.JobSpec) error {
		tried[j.GetIdempotencyKey()]++
		switch {
		case j.GetIdempotencyKey() == "refused":
			return refuse(codes.NotFound, "UNKNOWN_SOURCE")
		case j.GetIdempotencyKey() == "open" && tried["open"] < 3:
			return refuse(codes.Aborted, "FATE_UNKNOWN")
		}
		return nil
	}
	bubble(t, s, func(t *testing.T, c *Client) {
		items := c.EnqueueBatch(t.Context(), []Job{{Source: "a", Type: "t", Key: "good"}, {Source: "a", Type: "t", Key: "refused"}, {Source: "a", Type: "t", Key: "open"}})
		if items[0].Err != nil || items[0].Result.Verdict != AcceptedSpilled || Reason(items[1].Err) != "UNKNOWN_SOURCE" || items[2].Err != nil || items[2].Result.JobID != "id-open" {
			t.Errorf("%+v", items)
		}
		if tried["good"] != 1 || tried["refused"] != 1 || tried["open"] != 3 {
			t.Errorf("tries %v", tried)
		}
	})
}

func TestLargeBatchIsDivided(t *testing.T) {
	s := &service{answer: script(nil)}
	bubble(t, s, func(t *testing.T, c *Client) {
		jobs := slices.Repeat([]Job{job()}, 2500)
		for i := range 8 { // 8 × 900 KiB: three to a request
			jobs[i].Payload = make([]byte, 900<<10)
		}
		for i, item := range c.EnqueueBatch(t.Context(), jobs) {
			if item.Err != nil {
				t.Fatal(i, item.Err)
			}
		}
		if !slices.Equal(s.batches, []int{3, 3, 1000, 1000, 494}) {
			t.Errorf("requests of %v jobs", s.batches)
		}
	})
}

// Retries are a tenth of the first tries, whatever goes on: O2.
func TestO2RetryBudget(t *testing.T) {
	b := newBudget(0.1)
	retries := 0
	for range 1000 {
		b.first(1)
		retries += b.retry(1)
	}
	if retries > 1000/10+retryReserve {
		t.Errorf("%d retries of 1000 tries", retries)
	}
}

// O3: a service that refuses everything for overload is sent at most every second call after ten seconds, and all of them ten seconds after it
// has recovered.
func TestO3Throttle(t *testing.T) {
	overloaded := true
	s := &service{answer: func(context.Context, *jobv1.JobSpec) error {
		if overloaded {
			return refuse(codes.ResourceExhausted, "OVERLOADED")
		}
		return nil
	}}
	bubble(t, s, func(t *testing.T, c *Client) {
		second := func() (sent int) {
			before := len(s.jobs)
			for range 100 {
				c.Enqueue(t.Context(), job())
				time.Sleep(10 * time.Millisecond)
			}
			return len(s.jobs) - before
		}
		for range 9 {
			second()
		}
		if sent := second(); sent > 50 || sent < 5 {
			t.Errorf("%d of 100 calls were sent to an overloaded service", sent)
		}
		overloaded = false
		for range 10 {
			second()
		}
		if sent := second(); sent != 100 {
			t.Errorf("%d of 100 calls were sent to a service that had recovered", sent)
		}
	})
}

func TestInheritance(t *testing.T) {
	s := &service{answer: script(nil)}
	bubble(t, s, func(t *testing.T, c *Client) {
		ctx := WithParent(t.Context(), Parent{JobID: "0199c0de-0000-7000-8000-000000000000", Source: "crm", Priority: Low, Depth: 2})
		for _, j := range []Job{{Type: "tag"}, {Source: "mail", Type: "send", Priority: High}, {Type: "tag", Priority: Bulk}} {
			if _, err := c.Enqueue(ctx, j); err != nil {
				t.Fatal(err)
			}
		}
		var got []string
		for _, j := range s.jobs {
			got = append(got, fmt.Sprint(j.GetSource(), " ", Priority(j.GetPriority()) == Low, " ", j.GetDepth(), " ", j.GetParentJobId() != ""))
		}
		if want := []string{"crm true 3 true", "mail true 3 true", "crm false 3 true"}; !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
	})
}

func TestMiddleware(t *testing.T) {
	s := &service{answer: script(nil)}
	var order []string
	wrap := func(name string) Middleware {
		return func(next Handler) Handler {
			return func(ctx context.Context, jobs []Job) []Item {
				order = append(order, name)
				for i := range jobs {
					jobs[i].Labels = map[string]string{"by": name}
				}
				return next(ctx, jobs)
			}
		}
	}
	bubble(t, s, func(t *testing.T, c *Client) {
		c.Enqueue(t.Context(), job())
		if strings.Join(order, " ") != "outer inner" || s.jobs[0].GetLabels()["by"] != "inner" {
			t.Errorf("order %v, labels %v", order, s.jobs[0].GetLabels())
		}
	}, WithMiddleware(wrap("outer"), wrap("inner")))
}

func TestPause(t *testing.T) {
	for _, c := range []struct {
		retry int
		asked time.Duration
		r     float64
		want  time.Duration
	}{
		{1, 0, 0, 25 * time.Millisecond}, {1, 0, 0.999, 50 * time.Millisecond}, {2, 0, 0, 50 * time.Millisecond}, {100, 0, 0, time.Second}, {1, time.Minute, 0, time.Minute},
	} {
		if got := pause(c.retry, c.asked, c.r); got < c.want-time.Millisecond || got > c.want {
			t.Errorf("pause(%d, %v, %v) = %v, want %v", c.retry, c.asked, c.r, got, c.want)
		}
	}
}

// TestInvalidTextIsRefusedAtOnce: text that cannot be encoded is the job's fault, told by field, without a try, and costs other jobs nothing. Once it
// was retried for 9 s as of unknown fate, with all jobs of the request.
func TestInvalidTextIsRefusedAtOnce(t *testing.T) {
	s := &service{answer: script(nil)}
	bubble(t, s, func(t *testing.T, c *Client) {
		const bad = "\xff\xfe"
		began := time.Now()
		for field, j := range map[string]Job{
			"source": {Source: bad, Type: "t"}, "tenant": {Source: "s", Tenant: bad, Type: "t"}, "type": {Source: "s", Type: bad},
			"content_type": {Source: "s", Type: "t", ContentType: bad}, "idempotency_key": {Source: "s", Type: "t", Key: bad},
			"labels": {Source: "s", Type: "t", Labels: map[string]string{"a": "b", "c": bad}},
		} {
			_, err := c.Enqueue(t.Context(), j)
			e, ok := err.(*Error)
			if !ok || e.Code != codes.InvalidArgument || e.Reason != rpc.ReasonInvalid || !e.Refused || !slices.Equal(e.Fields, []string{"job." + field + ": must be valid UTF-8"}) {
				t.Errorf("%s: %v", field, err)
			}
		}
		_, err := c.Enqueue(WithParent(t.Context(), Parent{JobID: bad, Source: "s"}), job())
		if Reason(err) != rpc.ReasonInvalid {
			t.Errorf("parent: %v", err)
		}
		if len(s.batches) != 0 || time.Since(began) > 0 {
			t.Errorf("%d requests in %v", len(s.batches), time.Since(began))
		}
		items := c.EnqueueBatch(t.Context(), []Job{job(), {Source: "s", Type: bad}, job()})
		if items[0].Err != nil || Reason(items[1].Err) != rpc.ReasonInvalid || items[2].Err != nil || !slices.Equal(s.batches, []int{2}) {
			t.Errorf("%+v in %v", items, s.batches)
		}
	})
}

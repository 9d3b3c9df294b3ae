package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/spillway/spillway/pkg/rpc"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
)

type (
	enqueueRequest  = enqueuev1.EnqueueRequest
	enqueueResponse = enqueuev1.EnqueueResponse
)

// caller dials with a token of the given roles and calls Enqueue.
func (w *world) caller(roles ...rpc.Role) (enqueuev1.EnqueueServiceClient, func()) {
	w.Helper()
	c := w.dial(rpc.DialConfig{Token: sign(w, w.signer, rpc.Claims{Roles: roles})})
	return enqueuev1.NewEnqueueServiceClient(c), func() { c.Close() }
}

func accept(context.Context, *enqueueRequest) (*enqueueResponse, error) {
	return &enqueueResponse{}, nil
}

func want(t testing.TB, err error, code codes.Code, reason string) {
	t.Helper()
	if status.Code(err) != code || rpc.ReasonOf(err) != reason {
		t.Errorf("got %v %q (%v), want %v %q", status.Code(err), rpc.ReasonOf(err), err, code, reason)
	}
}

func TestCallReachesItsHandlerWithItsCaller(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.enqueue = func(ctx context.Context, _ *enqueueRequest) (*enqueueResponse, error) {
			c, ok := rpc.CallerFrom(ctx)
			if !ok || c.Subject != "svc" || !slices.Equal(c.Sources, []string{"crm-*"}) || !c.MayType("anything") {
				w.Errorf("caller %+v, %v", c, ok)
			}
			return &enqueueResponse{JobId: "id"}, nil
		}
		token := sign(w, w.signer, rpc.Claims{Subject: "svc", Roles: []rpc.Role{rpc.RoleEnqueue}, Sources: []string{"crm-*"}})
		c := w.dial(rpc.DialConfig{Token: token})
		defer c.Close()
		for range 3 {
			r, err := enqueuev1.NewEnqueueServiceClient(c).Enqueue(w.Context(), good())
			if err != nil || r.GetJobId() != "id" {
				w.Error(r, err)
			}
			time.Sleep(19 * time.Minute) // pings pass, the connection grows old and is replaced, the token holds
		}
	})
}

// TestNothingOfAStrangersRequestIsRead: who has no credentials, or none for the method, has his answer before a byte of his request is there.
func TestNothingOfAStrangersRequestIsRead(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.enqueue = accept
		for name, c := range map[string]struct {
			token string
			code  codes.Code
		}{
			"no token":   {"", codes.Unauthenticated},
			"no role":    {sign(w, w.signer, rpc.Claims{Roles: []rpc.Role{rpc.RoleRead}}), codes.PermissionDenied},
			"not silent": {sign(w, w.signer, rpc.Claims{Roles: []rpc.Role{rpc.RoleEnqueue}}), codes.DeadlineExceeded}, // it is waited for
		} {
			conn := w.dial(rpc.DialConfig{Token: c.token})
			ctx, cancel := context.WithTimeout(w.Context(), 3*time.Second)
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, methEnqueue)
			if err != nil {
				w.Fatal(err)
			}
			began := time.Now()
			if err := stream.RecvMsg(&enqueueResponse{}); status.Code(err) != c.code || c.code != codes.DeadlineExceeded && time.Since(began) > 100*time.Millisecond {
				w.Errorf("%s: %v after %v", name, err, time.Since(began))
			}
			cancel()
			conn.Close()
		}
	})
}

// TestS3EveryMethodNeedsItsRole: all methods by all roles, and nothing, against the table.
func TestS3EveryMethodNeedsItsRole(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.enqueue = accept
		w.work = func(schedulerv1.WorkerService_WorkServer) error { return nil }
		allowed := 0
		for _, role := range []rpc.Role{rpc.RoleEnqueue, rpc.RoleWorker, rpc.RolePublish, rpc.RoleRead, rpc.RoleOperate, rpc.RoleAdmin, "ENQUEUE", "root"} {
			c := w.dial(rpc.DialConfig{Token: sign(w, w.signer, rpc.Claims{Roles: []rpc.Role{role}})})
			calls := map[string]error{}
			_, calls[methEnqueue] = enqueuev1.NewEnqueueServiceClient(c).Enqueue(w.Context(), good())
			_, calls[methBatch] = enqueuev1.NewEnqueueServiceClient(c).EnqueueBatch(w.Context(), &enqueuev1.EnqueueBatchRequest{Jobs: []*jobv1.JobSpec{{}}})
			stream, err := schedulerv1.NewWorkerServiceClient(c).Work(w.Context())
			if err == nil {
				_, err = stream.Recv()
			}
			calls[methWork] = err
			for method, err := range calls {
				switch {
				case roles[method] != role:
					want(w, err, codes.PermissionDenied, rpc.ReasonNotAllowed)
				case method == methBatch: // reached, and not implemented here
					want(w, err, codes.Unimplemented, "")
					allowed++
				case err != nil && !errors.Is(err, io.EOF):
					w.Errorf("%s with role %s: %v", method, role, err)
				default:
					allowed++
				}
			}
			c.Close()
		}
		if allowed != 3 {
			w.Errorf("%d allowed pairs, want 3", allowed)
		}
	})
}

func TestCallsWithoutGoodCredentials(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.enqueue = func(context.Context, *enqueueRequest) (*enqueueResponse, error) {
			w.Error("the handler was reached")
			return nil, nil
		}
		token := sign(w, w.signer, rpc.Claims{Roles: []rpc.Role{rpc.RoleEnqueue}})
		subscriber, err := w.signer.SignSubscriber(rpc.SubscriberClaims{Issuer: cluster, Subject: "tester", Tenant: "t", Channels: []string{"topic:t:*"}, TTL: time.Minute}, time.Now())
		if err != nil {
			w.Fatal(err)
		}
		c := w.dial(rpc.DialConfig{})
		defer c.Close()
		for name, values := range map[string][]string{
			"a subscriber's (S27)": {"Bearer " + subscriber},
			"none":                 nil, "empty": {""}, "no scheme": {token}, "basic": {"Basic " + token}, "two": {"Bearer " + token, "Bearer " + token},
			"only scheme": {"Bearer "}, "garbage": {"Bearer x.y.z"}, "cut": {"Bearer " + token[:len(token)-2]},
		} {
			ctx := w.Context()
			for _, v := range values {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
			}
			_, err := enqueuev1.NewEnqueueServiceClient(c).Enqueue(ctx, good())
			if status.Code(err) != codes.Unauthenticated || rpc.ReasonOf(err) != rpc.ReasonNoCredentials {
				w.Errorf("%s: %v", name, err)
			}
			if strings.Contains(status.Convert(err).Message(), "signature") {
				w.Errorf("%s: tells why: %v", name, err)
			}
		}
	})
}

// TestS4OnlyTheExactPathIsAMethod: other spellings of a method never reach its handler.
func TestS4OnlyTheExactPathIsAMethod(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.enqueue = func(context.Context, *enqueueRequest) (*enqueueResponse, error) {
			w.Error("the handler was reached")
			return nil, nil
		}
		c := w.dial(rpc.DialConfig{Token: sign(w, w.signer, rpc.Claims{Roles: []rpc.Role{rpc.RoleEnqueue}})})
		defer c.Close()
		for _, path := range []string{
			"/" + methEnqueue, methEnqueue + "/", strings.ToLower(methEnqueue), "/x" + methEnqueue, methEnqueue + "%00",
			"/grpc.health.v1.Health/.." + methEnqueue,
		} {
			err := c.Invoke(w.Context(), path, good(), new(enqueueResponse))
			if status.Code(err) != codes.Unimplemented {
				w.Errorf("%s: %v", path, err)
			}
		}
	})
}

func TestInvalidRequestsNameEveryField(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.enqueue = func(context.Context, *enqueueRequest) (*enqueueResponse, error) {
			w.Error("the handler was reached")
			return nil, nil
		}
		c, done := w.caller(rpc.RoleEnqueue)
		defer done()
		_, err := c.Enqueue(w.Context(), &enqueueRequest{Job: &jobv1.JobSpec{Source: "BAD\n", Type: strings.Repeat("x", 65), MaxAttempts: -1}})
		want(w, err, codes.InvalidArgument, rpc.ReasonInvalid)
		var fields []string
		for _, v := range rpc.FromError(err).Violations {
			fields = append(fields, v.Field)
			if v.Description == "" || v.Rule == "" {
				w.Errorf("%+v", v)
			}
		}
		slices.Sort(fields)
		if got := strings.Join(fields, " "); got != "job.max_attempts job.source job.type" {
			w.Errorf("fields %s of %v", got, err)
		}
	})
}

func TestInvalidStreamMessagesEndTheStream(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.work = func(s schedulerv1.WorkerService_WorkServer) error {
			_, err := s.Recv()
			return fmt.Errorf("receive: %w", err)
		}
		c := w.dial(rpc.DialConfig{Token: sign(w, w.signer, rpc.Claims{Roles: []rpc.Role{rpc.RoleWorker}})})
		defer c.Close()
		s, err := schedulerv1.NewWorkerServiceClient(c).Work(w.Context())
		if err != nil {
			w.Fatal(err)
		}
		if err := s.Send(&schedulerv1.WorkRequest{Results: []*schedulerv1.Result{{Kind: 99}}}); err != nil {
			w.Fatal(err)
		}
		_, err = s.Recv()
		want(w, err, codes.InvalidArgument, rpc.ReasonInvalid)
	})
}

// TestS37Deadlines: none given gets the server's, a longer one is cut to it, a shorter one stays.
func TestS37Deadlines(t *testing.T) {
	bubble(t, func(c *rpc.Config) { c.Deadline = 20 * time.Second }, func(w *world) {
		lefts := make(chan time.Duration, 1) // the client may end first, by itself
		w.enqueue = func(ctx context.Context, _ *enqueueRequest) (*enqueueResponse, error) {
			deadline, ok := ctx.Deadline()
			if !ok {
				w.Error("no deadline")
			}
			lefts <- time.Until(deadline)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		c, done := w.caller(rpc.RoleEnqueue)
		defer done()
		for given, got := range map[time.Duration]time.Duration{0: 20 * time.Second, time.Hour: 20 * time.Second, 3 * time.Second: 3 * time.Second} {
			ctx, cancel := w.Context(), context.CancelFunc(func() {})
			if given > 0 {
				ctx, cancel = context.WithTimeout(ctx, given)
			}
			_, err := c.Enqueue(ctx, good())
			cancel()
			want(w, err, codes.DeadlineExceeded, "")
			if left := <-lefts; left != got {
				w.Errorf("given %v: %v left, want %v", given, left, got)
			}
		}
	})
}

// TestS5StreamEndsSoonAfterItsToken: the handler's context ends a minute after the token does.
func TestS5StreamEndsSoonAfterItsToken(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.work = func(s schedulerv1.WorkerService_WorkServer) error {
			<-s.Context().Done()
			return s.Context().Err()
		}
		c := w.dial(rpc.DialConfig{Token: sign(w, w.signer, rpc.Claims{Roles: []rpc.Role{rpc.RoleWorker}, TTL: 10 * time.Minute})})
		defer c.Close()
		began := time.Now().Truncate(time.Second)
		s, err := schedulerv1.NewWorkerServiceClient(c).Work(w.Context())
		if err != nil {
			w.Fatal(err)
		}
		_, err = s.Recv()
		if lived := time.Since(began); status.Code(err) != codes.DeadlineExceeded || lived != 11*time.Minute {
			w.Errorf("%v after %v", err, lived)
		}
	})
}

func TestPanicsAndInternalErrorsStayInside(t *testing.T) {
	const secret = "kafka-3.internal:9092"
	for name, handler := range map[string]func(context.Context, *enqueueRequest) (*enqueueResponse, error){
		"panic": func(context.Context, *enqueueRequest) (*enqueueResponse, error) { panic(secret) },
		"error": func(context.Context, *enqueueRequest) (*enqueueResponse, error) { return nil, errors.New(secret) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, nil, func(w *world) {
				w.enqueue = handler
				c, done := w.caller(rpc.RoleEnqueue)
				defer done()
				_, err := c.Enqueue(w.Context(), good())
				want(w, err, codes.Internal, "")
				message := status.Convert(err).Message()
				_, id, ok := strings.Cut(strings.TrimSuffix(message, ")"), "request ")
				if !ok || strings.Contains(err.Error(), secret) {
					w.Errorf("callers see %q", message)
				}
				if log := w.log.String(); !strings.Contains(log, secret) || strings.Count(log, "request_id="+id) != 1 {
					w.Errorf("logged:\n%s", log)
				}
				w.enqueue = accept
				if _, err := c.Enqueue(w.Context(), good()); err != nil {
					w.Errorf("the next call: %v", err)
				}
			})
		})
	}
}

func TestRefusalsPassWithTheirDetails(t *testing.T) {
	refusal := &rpc.Error{
		Code: codes.ResourceExhausted, Reason: rpc.ReasonQuotaExceeded, Message: "over the accept rate", Metadata: map[string]string{"source": "s"},
		Quota: []rpc.QuotaViolation{{Subject: "source:s", Description: "accept rate"}}, Retry: 1500 * time.Millisecond,
	}
	bubble(t, nil, func(w *world) {
		c, done := w.caller(rpc.RoleEnqueue)
		defer done()
		for _, returned := range []error{refusal, refusal.Err(), fmt.Errorf("enqueue: %w", refusal), fmt.Errorf("enqueue: %w", refusal.Err())} {
			w.enqueue = func(context.Context, *enqueueRequest) (*enqueueResponse, error) { return nil, returned }
			_, err := c.Enqueue(w.Context(), good())
			got := rpc.FromError(err)
			if got == nil || fmt.Sprintf("%+v", *got) != fmt.Sprintf("%+v", *refusal) || rpc.RetryAfter(err) != refusal.Retry {
				w.Errorf("returned %v\n got %+v\nwant %+v", returned, got, refusal)
			}
		}
		w.enqueue = func(context.Context, *enqueueRequest) (*enqueueResponse, error) { return nil, context.Canceled }
		_, err := c.Enqueue(w.Context(), good())
		want(w, err, codes.Canceled, "")
	})
}

func TestHealthIsOpenAndTrue(t *testing.T) {
	bubble(t, nil, func(w *world) {
		c := w.dial(rpc.DialConfig{})
		defer c.Close()
		h := healthpb.NewHealthClient(c)
		const service = "spillway.enqueue.v1.EnqueueService"
		check := func(service string, want healthpb.HealthCheckResponse_ServingStatus) {
			w.Helper()
			if r, err := h.Check(w.Context(), &healthpb.HealthCheckRequest{Service: service}); err != nil || r.GetStatus() != want {
				w.Errorf("%q is %v, %v; want %v", service, r.GetStatus(), err, want)
			}
		}
		check("", healthpb.HealthCheckResponse_NOT_SERVING)
		check(service, healthpb.HealthCheckResponse_NOT_SERVING)
		w.server.Health(service, true)
		check(service, healthpb.HealthCheckResponse_SERVING)
		check("", healthpb.HealthCheckResponse_NOT_SERVING)
		w.server.Health(service, false)
		check(service, healthpb.HealthCheckResponse_NOT_SERVING)
		if _, err := h.Check(w.Context(), &healthpb.HealthCheckRequest{Service: "no.such"}); status.Code(err) != codes.NotFound {
			w.Error(err)
		}
	})
}

func TestServicesCallTheirOwnHandlersOnBehalf(t *testing.T) {
	ctx := rpc.WithCaller(t.Context(), rpc.Caller{Subject: "notifier"})
	if c, ok := rpc.CallerFrom(ctx); !ok || c.Subject != "notifier" {
		t.Error(c, ok)
	}
	if _, ok := rpc.CallerFrom(t.Context()); ok {
		t.Error("a caller from nowhere")
	}
}

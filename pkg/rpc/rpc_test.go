package rpc_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	cluster     = "cluster-1"
	methEnqueue = "/spillway.enqueue.v1.EnqueueService/Enqueue"
	methBatch   = "/spillway.enqueue.v1.EnqueueService/EnqueueBatch"
	methWork    = "/spillway.scheduler.v1.WorkerService/Work"
)

// handlers is what the server under test does; each is called as given.
type handlers struct {
	enqueuev1.UnimplementedEnqueueServiceServer
	schedulerv1.UnimplementedWorkerServiceServer
	enqueue func(context.Context, *enqueuev1.EnqueueRequest) (*enqueuev1.EnqueueResponse, error)
	work    func(schedulerv1.WorkerService_WorkServer) error
}

func (h *handlers) Enqueue(ctx context.Context, req *enqueuev1.EnqueueRequest) (*enqueuev1.EnqueueResponse, error) {
	return h.enqueue(ctx, req)
}

func (h *handlers) Work(s schedulerv1.WorkerService_WorkServer) error { return h.work(s) }

func (h *handlers) register(s grpc.ServiceRegistrar) {
	enqueuev1.RegisterEnqueueServiceServer(s, h)
	schedulerv1.RegisterWorkerServiceServer(s, h)
}

var roles = map[string]rpc.Role{methEnqueue: rpc.RoleEnqueue, methBatch: rpc.RoleEnqueue, methWork: rpc.RoleWorker}

func signer(t testing.TB) *rpc.Signer {
	t.Helper()
	s, err := rpc.OpenSigner(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sign(t testing.TB, s *rpc.Signer, c rpc.Claims) string {
	t.Helper()
	if c.Issuer == "" {
		c.Issuer = cluster
	}
	if c.Subject == "" {
		c.Subject = "tester"
	}
	if c.TTL == 0 {
		c.TTL = time.Hour
	}
	token, err := s.Sign(c, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func verifier(t testing.TB, s *rpc.Signer) *rpc.Verifier {
	t.Helper()
	v, err := rpc.NewVerifier(s.JWKS(), func() string { return cluster }, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// world is a server and the means to call it, inside one bubble.
type world struct {
	*testing.T
	handlers
	net    *rpctest.Network
	signer *rpc.Signer
	server *rpc.Server
	log    *strings.Builder
	stop   func() error
}

func serve(t *testing.T, change func(*rpc.Config)) *world {
	t.Helper()
	w := &world{T: t, net: rpctest.NewNetwork(), signer: signer(t), log: new(strings.Builder)}
	w.begin(change)
	return w
}

// begin starts the server, also again after stop, as a process that was restarted.
func (w *world) begin(change func(*rpc.Config)) {
	t := w.T
	t.Helper()
	cfg := rpc.Config{
		Listener: w.net.Listen("server:1"), Verifier: verifier(t, w.signer), Roles: roles,
		Log: slog.New(slog.NewTextHandler(w.log, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	server, err := rpc.NewServer(cfg, w.register)
	if err != nil {
		t.Fatal(err)
	}
	w.server = server
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	w.stop = func() error { cancel(); return <-done }
}

func (w *world) dial(cfg rpc.DialConfig) *grpc.ClientConn {
	w.Helper()
	cfg.Dialer = w.net.Dial
	c, err := rpc.Dial(rpctest.Target("server:1"), cfg)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

func good() *enqueuev1.EnqueueRequest {
	return &enqueuev1.EnqueueRequest{Job: &jobv1.JobSpec{Source: "s", Type: "t"}}
}

// bubble runs f with a server and stops it, all in virtual time.
func bubble(t *testing.T, change func(*rpc.Config), f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := serve(t, change)
		f(w)
		if err := w.stop(); err != nil {
			t.Error(err)
		}
	})
}

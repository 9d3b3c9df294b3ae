package rpc_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
)

func TestServerRefusesBadWiring(t *testing.T) {
	s := signer(t)
	for name, c := range map[string]struct {
		change func(*rpc.Config)
		want   string
	}{
		"no listener":    {func(c *rpc.Config) { c.Listener = nil }, "no listener"},
		"no verifier":    {func(c *rpc.Config) { c.Verifier = nil }, "no token verifier"},
		"no roles":       {func(c *rpc.Config) { c.Roles = nil }, methEnqueue + " has no role"},
		"a missing role": {func(c *rpc.Config) { c.Roles = map[string]rpc.Role{methEnqueue: "enqueue", methBatch: "enqueue"} }, methWork + " has no role"},
		"an empty role": {func(c *rpc.Config) {
			c.Roles = map[string]rpc.Role{methEnqueue: "enqueue", methBatch: "", methWork: "worker"}
		}, methBatch + " has no role"},
		"an unknown role": {func(c *rpc.Config) {
			c.Roles = map[string]rpc.Role{methEnqueue: "enqueue", methBatch: "anybody", methWork: "worker"}
		}, methBatch + " has no role"},
		"a stale role": {func(c *rpc.Config) {
			c.Roles = map[string]rpc.Role{methEnqueue: "enqueue", methBatch: "enqueue", methWork: "worker", "/a.B/C": "read"}
		}, "/a.B/C has a role but is not registered"},
	} {
		cfg := rpc.Config{Listener: rpctest.NewNetwork().Listen("s"), Verifier: verifier(t, s), Roles: roles}
		c.change(&cfg)
		if _, err := rpc.NewServer(cfg, new(handlers).register); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// elsewhere is a listener that other machines would reach.
type elsewhere struct {
	net.Listener
	addr net.Addr
}

func (e elsewhere) Addr() net.Addr { return e.addr }

// TestS1PlaintextStaysOnThisMachine: no listener and no connection of ours leaves it.
func TestS1PlaintextStaysOnThisMachine(t *testing.T) {
	s := signer(t)
	for _, ip := range []string{"0.0.0.0", "::", "192.0.2.1", "10.0.0.1", "fe80::1"} {
		l := elsewhere{rpctest.NewNetwork().Listen("s"), &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}}
		if _, err := rpc.NewServer(rpc.Config{Listener: l, Verifier: verifier(t, s), Roles: roles}, new(handlers).register); err == nil {
			t.Errorf("serves on %s", ip)
		}
		if _, err := rpc.NewAdmin(rpc.AdminConfig{Listener: l}); err == nil {
			t.Errorf("admin on %s", ip)
		}
	}
	bubble(t, nil, func(w *world) {
		w.enqueue = func(context.Context, *enqueueRequest) (*enqueueResponse, error) {
			w.Error("reached")
			return nil, nil
		}
		c, err := rpc.Dial("passthrough:///server:1", rpc.DialConfig{
			Token: sign(w, w.signer, rpc.Claims{Roles: []rpc.Role{rpc.RoleEnqueue}}),
			Dialer: func(ctx context.Context, addr string) (net.Conn, error) {
				conn, err := w.net.Dial(ctx, addr)
				return farConn{conn}, err
			},
		})
		if err != nil {
			w.Fatal(err)
		}
		defer c.Close()
		_, err = enqueuev1.NewEnqueueServiceClient(c).Enqueue(w.Context(), good())
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "not an address of this machine") {
			w.Error(err)
		}
	})
}

type farConn struct{ net.Conn }

func (farConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1} }

// TestLoopbackAndUnixSockets: the two real transports, with a token from a file that changes.
func TestLoopbackAndUnixSockets(t *testing.T) {
	s := signer(t)
	dir, err := os.MkdirTemp("", "rpc") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(dir, "s.sock")} {
		t.Run(network, func(t *testing.T) {
			l, err := net.Listen(network, address)
			if err != nil {
				t.Fatal(err)
			}
			h := &handlers{enqueue: func(ctx context.Context, _ *enqueueRequest) (*enqueueResponse, error) {
				c, _ := rpc.CallerFrom(ctx)
				return &enqueueResponse{JobId: c.Subject}, nil
			}}
			server, err := rpc.NewServer(rpc.Config{Listener: l, Verifier: verifier(t, s), Roles: roles}, h.register)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- server.Run(ctx) }()
			target := l.Addr().String()
			if network == "unix" {
				target = "unix:" + target
			}
			file := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(file, []byte(" "+sign(t, s, rpc.Claims{Subject: "one", Roles: []rpc.Role{rpc.RoleEnqueue}})+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := rpc.Dial(target, rpc.DialConfig{TokenFile: file})
			if err != nil {
				t.Fatal(err)
			}
			if r, err := enqueuev1.NewEnqueueServiceClient(c).Enqueue(t.Context(), good()); err != nil || r.GetJobId() != "one" {
				t.Error(r, err)
			}
			c.Close()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTokenFilesAreReadAgain(t *testing.T) {
	bubble(t, nil, func(w *world) {
		file := filepath.Join(w.TempDir(), "token")
		put := func(subject string, mode os.FileMode) {
			w.Helper()
			token := sign(w, w.signer, rpc.Claims{Subject: subject, Roles: []rpc.Role{rpc.RoleEnqueue}})
			if err := os.WriteFile(file, []byte(token), mode); err != nil {
				w.Fatal(err)
			}
			if err := os.Chmod(file, mode); err != nil {
				w.Fatal(err)
			}
		}
		subject := ""
		w.enqueue = func(ctx context.Context, _ *enqueueRequest) (*enqueueResponse, error) {
			c, _ := rpc.CallerFrom(ctx)
			subject = c.Subject
			return &enqueueResponse{}, nil
		}
		dial := func() (*grpc.ClientConn, error) {
			return rpc.Dial(rpctest.Target("server:1"), rpc.DialConfig{TokenFile: file, Dialer: w.net.Dial})
		}
		if _, err := dial(); err == nil {
			w.Error("dials without its token")
		}
		put("one", 0o644)
		if _, err := dial(); err == nil {
			w.Error("takes a token that all may read")
		}
		put("one", 0o600)
		c, err := dial()
		if err != nil {
			w.Fatal(err)
		}
		defer c.Close()
		call := func(want string) {
			w.Helper()
			if _, err := enqueuev1.NewEnqueueServiceClient(c).Enqueue(w.Context(), good()); err != nil || subject != want {
				w.Errorf("%q, %v; want %q", subject, err, want)
			}
		}
		call("one")
		put("two", 0o600)
		call("one")
		time.Sleep(11 * time.Second)
		call("two")
		if err := os.Remove(file); err != nil {
			w.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		call("two") // a moment without the file is no outage
	})
}

// TestS31Sizes: one byte too many is refused in both directions, before it is held.
func TestS31Sizes(t *testing.T) {
	bubble(t, func(c *rpc.Config) { c.MaxReceive, c.MaxSend = 64<<10, 64<<10 }, func(w *world) {
		w.enqueue = func(_ context.Context, r *enqueueRequest) (*enqueueResponse, error) {
			return &enqueueResponse{JobId: strings.Repeat("x", int(r.GetJob().GetMaxAttempts())<<10)}, nil
		}
		c, done := w.caller(rpc.RoleEnqueue)
		defer done()
		for size, code := range map[int]codes.Code{60 << 10: codes.OK, 65 << 10: codes.ResourceExhausted} {
			_, err := c.Enqueue(w.Context(), &enqueueRequest{Job: &jobv1.JobSpec{Source: "s", Type: "t", Payload: make([]byte, size)}})
			if status.Code(err) != code {
				w.Errorf("request of %d: %v", size, err)
			}
			_, err = c.Enqueue(w.Context(), &enqueueRequest{Job: &jobv1.JobSpec{Source: "s", Type: "t", MaxAttempts: int32(size >> 10)}})
			if status.Code(err) != code {
				w.Errorf("answer of %d: %v", size, err)
			}
		}
		long := sign(w, w.signer, rpc.Claims{Roles: []rpc.Role{rpc.RoleEnqueue}}) + strings.Repeat("x", 17<<10)
		conn := w.dial(rpc.DialConfig{Token: long})
		defer conn.Close()
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		if _, err := enqueuev1.NewEnqueueServiceClient(conn).Enqueue(ctx, good()); err == nil {
			w.Error("17 KiB of headers are accepted")
		}
	})
}

// TestS31Streams: a connection has 128 calls at most; more wait at the client.
func TestS31Streams(t *testing.T) {
	bubble(t, nil, func(w *world) {
		release := make(chan struct{})
		inside, most := make(chan int, 1), 0
		inside <- 0
		w.enqueue = func(ctx context.Context, _ *enqueueRequest) (*enqueueResponse, error) {
			n := <-inside + 1
			most = max(most, n)
			inside <- n
			<-release
			inside <- <-inside - 1
			return &enqueueResponse{}, nil
		}
		c, done := w.caller(rpc.RoleEnqueue)
		defer done()
		results := make(chan error, 200)
		for range 200 {
			go func() {
				_, err := c.Enqueue(w.Context(), good())
				results <- err
			}()
		}
		synctest.Wait()
		close(release)
		for range 200 {
			if err := <-results; err != nil {
				w.Error(err)
			}
		}
		if most != 128 {
			w.Errorf("%d at once, want 128", most)
		}
	})
}

// TestS34NoCompression: although a compressor is registered in this process, as telemetry's exporters do, nothing compressed reaches a
// handler, and a bomb is not unpacked.
func TestS34NoCompression(t *testing.T) {
	bubble(t, nil, func(w *world) {
		w.enqueue = func(context.Context, *enqueueRequest) (*enqueueResponse, error) {
			w.Error("the handler was reached")
			return nil, nil
		}
		w.work = func(schedulerv1.WorkerService_WorkServer) error {
			w.Error("the handler was reached")
			return nil
		}
		c := w.dial(rpc.DialConfig{Token: sign(w, w.signer, rpc.Claims{Roles: []rpc.Role{rpc.RoleEnqueue, rpc.RoleWorker}})})
		defer c.Close()
		compressed := grpc.UseCompressor(gzip.Name)
		_, err := enqueuev1.NewEnqueueServiceClient(c).Enqueue(w.Context(), good(), compressed)
		want(w, err, codes.Unimplemented, "")
		bomb := &enqueueRequest{Job: &jobv1.JobSpec{Source: "s", Type: "t", Payload: make([]byte, 64<<20)}}
		_, err = enqueuev1.NewEnqueueServiceClient(c).Enqueue(w.Context(), bomb, compressed)
		want(w, err, codes.Unimplemented, "")
		s, err := schedulerv1.NewWorkerServiceClient(c).Work(w.Context(), compressed)
		if err == nil {
			_ = s.Send(&schedulerv1.WorkRequest{}) // fails when the refusal was faster
			_, err = s.Recv()
		}
		want(w, err, codes.Unimplemented, "")
	})
}

func TestReflectionNeedsItsSwitchAndRoleRead(t *testing.T) {
	for _, on := range []bool{true, false} {
		bubble(t, func(c *rpc.Config) { c.Reflection = on }, func(w *world) {
			for _, role := range []rpc.Role{rpc.RoleRead, rpc.RoleEnqueue} {
				c := w.dial(rpc.DialConfig{Token: sign(w, w.signer, rpc.Claims{Roles: []rpc.Role{role}})})
				s, err := reflectionpb.NewServerReflectionClient(c).ServerReflectionInfo(w.Context())
				if err == nil {
					_ = s.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
					_ = s.CloseSend()
					_, err = s.Recv()
				}
				code := codes.OK
				if !on {
					code = codes.Unimplemented
				} else if role != rpc.RoleRead {
					code = codes.PermissionDenied
				}
				if status.Code(err) != code {
					w.Errorf("on %v, role %s: %v", on, role, err)
				}
				c.Close()
			}
		})
	}
}

// TestStopLetsCallsFinishWithinItsBudget: what is under way ends well, what is stuck is cut, new calls are refused.
func TestStopLetsCallsFinishWithinItsBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := serve(t, func(c *rpc.Config) { c.StopBudget = 3 * time.Second })
		w.enqueue = func(ctx context.Context, r *enqueueRequest) (*enqueueResponse, error) {
			if r.GetJob().GetTenant() == "stuck" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			time.Sleep(time.Second)
			return &enqueueResponse{}, nil
		}
		c, done := w.caller(rpc.RoleEnqueue)
		defer done()
		quick, stuck := make(chan error, 1), make(chan error, 1)
		go func() { _, err := c.Enqueue(t.Context(), good()); quick <- err }()
		go func() {
			_, err := c.Enqueue(t.Context(), &enqueueRequest{Job: &jobv1.JobSpec{Source: "s", Type: "t", Tenant: "stuck"}})
			stuck <- err
		}()
		synctest.Wait()
		began := time.Now()
		if err := w.stop(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("the stop took %v", took)
		}
		if err := <-quick; err != nil {
			t.Errorf("a call under way: %v", err)
		}
		if err := <-stuck; status.Code(err) != codes.Unavailable && status.Code(err) != codes.Canceled {
			t.Errorf("a stuck call: %v", err)
		}
	})
}

func TestRunFailsWithItsListener(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := rpc.NewServer(rpc.Config{Listener: l, Verifier: verifier(t, signer(t)), Roles: roles}, new(handlers).register)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := s.Run(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

func TestNetworkRefusesWhereNobodyListens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := rpctest.NewNetwork()
		if _, err := n.Dial(t.Context(), "a"); err == nil {
			t.Error("connected to nobody")
		}
		l := n.Listen("a")
		l.Close()
		if _, err := n.Dial(t.Context(), "a"); err == nil {
			t.Error("connected to a closed listener")
		}
		n.Listen("a").Close() // the address is free again
	})
}

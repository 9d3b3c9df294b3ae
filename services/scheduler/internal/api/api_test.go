package api

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// room is a Stream that a test drives.
type room struct {
	who    frame.Identity
	hello  frame.Hello
	frames chan frame.FromWorker
	out    chan *frame.ToWorker
	done   chan struct{}
	closed chan struct{}
	err    error
}

func (r *room) Receive(f frame.FromWorker) error { r.frames <- f; return nil }
func (r *room) Done() <-chan struct{}            { return r.done }
func (r *room) Err() error                       { return r.err }
func (r *room) Close()                           { close(r.closed) }
func (r *room) Farewell(f frame.Farewell)        { r.out <- &frame.ToWorker{Farewell: &f} }
func (r *room) Next(ctx context.Context) (*frame.ToWorker, error) {
	select {
	case f := <-r.out:
		return f, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// serve runs a test with a handler behind a network in memory, in a bubble. Every stream that it opens gets a room.
func serve(t *testing.T, caller rpc.Caller, refuse error, test func(t *testing.T, open func() schedulerv1.WorkerService_WorkClient, rooms chan *room)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		rooms := make(chan *room, 4)
		h := New(func(who frame.Identity, hello frame.Hello) (Stream, error) {
			if refuse != nil {
				return nil, refuse
			}
			r := &room{who: who, hello: hello, frames: make(chan frame.FromWorker, 16), out: make(chan *frame.ToWorker, 1024), done: make(chan struct{}), closed: make(chan struct{})}
			rooms <- r
			return r, nil
		}, slog.New(slog.DiscardHandler))
		enforce := grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true})
		server := grpc.NewServer(enforce, grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return next(srv, as{ss, rpc.WithCaller(ss.Context(), caller)})
		}))
		schedulerv1.RegisterWorkerServiceServer(server, h)
		network := rpctest.NewNetwork()
		go server.Serve(network.Listen("s"))
		defer server.Stop()
		conn, err := rpc.Dial(rpctest.Target("s"), rpc.DialConfig{Dialer: network.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		test(t, func() schedulerv1.WorkerService_WorkClient {
			st, err := schedulerv1.NewWorkerServiceClient(conn).Work(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return st
		}, rooms)
	})
}

type as struct {
	grpc.ServerStream
	ctx context.Context
}

func (s as) Context() context.Context { return s.ctx }

func hi(types ...string) *schedulerv1.WorkRequest {
	return &schedulerv1.WorkRequest{Hello: &schedulerv1.Hello{WorkerId: "00000000-0000-4000-8000-000000000001", Types: types, Concurrency: 4}, Credit: &schedulerv1.Credit{Free: 4}}
}

func wantStatus(t *testing.T, st schedulerv1.WorkerService_WorkClient, code codes.Code, reason string) {
	t.Helper()
	_, err := st.Recv()
	if status.Code(err) != code || rpc.ReasonOf(err) != reason {
		t.Fatalf("got %v (reason %q), want %v %s", err, rpc.ReasonOf(err), code, reason)
	}
}

func TestStreamLife(t *testing.T) {
	serve(t, rpc.Caller{Subject: "w"}, nil, func(t *testing.T, open func() schedulerv1.WorkerService_WorkClient, rooms chan *room) {
		st := open()
		st.Send(hi("tag"))
		r := <-rooms
		if r.who.Subject != "w" || r.hello.Worker.Concurrency != 4 || r.hello.Worker.Types[0] != "tag" {
			t.Fatalf("%+v %+v", r.who, r.hello)
		}
		if f := <-r.frames; f.Hello != nil || f.Credit == nil || f.Credit.Free != 4 {
			t.Fatalf("rest of the first frame: %+v", f)
		}
		r.out <- &frame.ToWorker{Pass: 2}
		if f, err := st.Recv(); err != nil || f.Pass.GetN() != 2 {
			t.Fatalf("%v %v", f, err)
		}
		st.CloseSend()
		<-r.closed
	})
}

func TestRoomEndsStreamOfWorkerThatDoesNotRead(t *testing.T) {
	serve(t, rpc.Caller{Subject: "w"}, nil, func(t *testing.T, open func() schedulerv1.WorkerService_WorkClient, rooms chan *room) {
		st := open()
		st.Send(hi("tag"))
		r := <-rooms
		big := make([]byte, 900<<10)
		for range 20 {
			r.out <- &frame.ToWorker{Leases: []frame.Granted{{Lease: core.Lease{Job: &core.Job{Record: &core.Record{Value: big}}}}}}
		}
		synctest.Wait() // the writer is stuck by now
		r.err = frame.ErrSlow
		close(r.done)
		<-r.closed
		for {
			if _, err := st.Recv(); err != nil {
				if rpc.ReasonOf(err) != rpc.ReasonOverloaded {
					t.Fatal(err)
				}
				return
			}
		}
	})
}

// S5: when its credential expires the worker is asked to come back with another one.
func TestS5ExpiredCredentialSaysFarewell(t *testing.T) {
	caller := rpc.Caller{Subject: "w", Expires: time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC)} // an hour after a bubble's clock begins
	serve(t, caller, nil, func(t *testing.T, open func() schedulerv1.WorkerService_WorkClient, rooms chan *room) {
		st := open()
		st.Send(hi("tag"))
		<-rooms
		f, err := st.Recv()
		if err != nil || f.Drain.GetWithin().AsDuration() != time.Minute || !time.Now().Equal(caller.Expires) {
			t.Fatalf("%v %v at %s", f, err, time.Now())
		}
	})
}

func TestFirstFrameMustSayHello(t *testing.T) {
	serve(t, rpc.Caller{Subject: "w"}, nil, func(t *testing.T, open func() schedulerv1.WorkerService_WorkClient, _ chan *room) {
		st := open()
		st.Send(&schedulerv1.WorkRequest{Credit: &schedulerv1.Credit{Free: 1}})
		wantStatus(t, st, codes.InvalidArgument, rpc.ReasonInvalid)
		st = open() // and within 10 s
		began := time.Now()
		wantStatus(t, st, codes.InvalidArgument, rpc.ReasonInvalid)
		if time.Since(began) != helloWait {
			t.Fatalf("after %s", time.Since(began))
		}
	})
}

// S16: a worker gets only jobs of its types.
func TestS16CredentialLimitsTypes(t *testing.T) {
	caller := rpc.Caller{Subject: "w", Types: []string{"tag-*"}}
	serve(t, caller, nil, func(t *testing.T, open func() schedulerv1.WorkerService_WorkClient, rooms chan *room) {
		st := open()
		st.Send(hi("tag-a", "other"))
		wantStatus(t, st, codes.PermissionDenied, rpc.ReasonNotAllowed)
		st = open()
		st.Send(hi("tag-a"))
		r := <-rooms
		st.Send(hi("tag-a", "other")) // a later Hello cannot widen it
		wantStatus(t, st, codes.PermissionDenied, rpc.ReasonNotAllowed)
		<-r.closed
	})
	serve(t, rpc.Caller{Subject: "w", Sources: []string{"a"}}, nil, func(t *testing.T, open func() schedulerv1.WorkerService_WorkClient, _ chan *room) {
		st := open()
		st.Send(hi("tag"))
		wantStatus(t, st, codes.PermissionDenied, rpc.ReasonNotAllowed)
	})
}

// TestEveryRefusalHasAStatus walks every exported error of core.
func TestEveryRefusalHasAStatus(t *testing.T) {
	byText := map[string]error{}
	for err := range refusals {
		byText[err.Error()] = err
	}
	files, err := filepath.Glob("../core/frame/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files of core: %v", err)
	}
	found := 0
	for _, name := range files {
		file, err := parser.ParseFile(gotoken.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(spec.Names[0].Name, "Err") || len(spec.Values) != 1 {
				return true
			}
			if call, ok := spec.Values[0].(*ast.CallExpr); ok && len(call.Args) == 1 {
				if text, ok := call.Args[0].(*ast.BasicLit); ok {
					found++
					if byText[strings.Trim(text.Value, `"`)] == nil {
						t.Errorf("core.%s has no status", spec.Names[0].Name)
					}
				}
			}
			return true
		})
	}
	if found < len(refusals) {
		t.Errorf("found %d errors in core, %d have a status", found, len(refusals))
	}
	for err := range refusals {
		serve(t, rpc.Caller{Subject: "w"}, err, func(t *testing.T, open func() schedulerv1.WorkerService_WorkClient, _ chan *room) {
			st := open()
			st.Send(hi("tag"))
			refusal := refusals[err]
			wantStatus(t, st, refusal.Code, refusal.Reason)
		})
	}
	if statusOf(errors.New("x")) == nil || statusOf(nil) != nil {
		t.Error("an unknown error must not be a clean end")
	}
}

func TestFramesKeepTheirParts(t *testing.T) {
	wire := &jobv1.Token{Shard: 1, Epoch: 2, Counter: 3}
	tok := core.Token{Shard: 1, Epoch: 2, Counter: 3}
	const id = "01890a5d-ac96-774b-bcce-b302099a8057"
	f, err := fromWire(&schedulerv1.WorkRequest{
		V:       []*schedulerv1.Tag{{Priority: jobv1.Priority_PRIORITY_HIGH, Tag: 1.5}, {Priority: 7, Tag: 9}},
		Results: []*schedulerv1.Result{{Token: wire, JobId: id, Kind: schedulerv1.ResultKind_RESULT_KIND_PERMANENT, Error: strings.Repeat("é", 2000), ErrorType: "X"}},
		Returns: []*schedulerv1.Return{{Tokens: []*jobv1.Token{wire}, Reason: schedulerv1.ReturnReason_RETURN_REASON_DRAIN, Free: 1, Seen: 2}},
		Credit:  &schedulerv1.Credit{Free: 3, Seen: 4}, Ticket: &schedulerv1.Ticket{N: 5},
		Started: []*jobv1.Token{wire}, Renew: []*jobv1.Token{wire}, Draining: &schedulerv1.Draining{},
	})
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case len(f.Latest) != 1 || f.Latest[0] != frame.Tag{Priority: core.High, Tag: 1.5}:
		t.Errorf("tags %v", f.Latest)
	case len(f.Results) != 1 || f.Results[0].Kind != core.Permanent || f.Results[0].Token != tok || len(f.Results[0].Error) > maxText:
		t.Errorf("results %v", f.Results)
	case len(f.Returns) != 1 || f.Returns[0].Reason != core.Draining || f.Returns[0].Tokens[0] != tok || f.Returns[0].Free != 1 || f.Returns[0].Seen != 2:
		t.Errorf("returns %v", f.Returns)
	case *f.Credit != frame.Credit{Free: 3, Seen: 4} || f.Tickets != 5 || f.Started[0] != tok || f.Renew[0] != tok || !f.Draining:
		t.Errorf("frame %+v", f)
	}
	// A job id that is none is no job's: the engine refuses that result, and the frame's other ones count.
	f, err = fromWire(&schedulerv1.WorkRequest{Results: []*schedulerv1.Result{{JobId: "x", Token: wire}, {JobId: id, Token: wire}}})
	if err != nil || len(f.Results) != 2 || f.Results[0].JobID != (core.JobID{}) || f.Results[0].Token != tok || f.Results[1].JobID == (core.JobID{}) {
		t.Errorf("a job id that is none: %v, %v", f.Results, err)
	}

	value := []byte{1, 2, 3}
	g := frame.Granted{Lease: core.Lease{
		Job: &core.Job{Record: &core.Record{Value: value, Traceparent: "tp", Tracestate: "ts"}}, Token: tok, Attempt: 2, TTL: time.Second,
		Priority: core.Bulk, Tag: 2.5, Ticket: true,
	}, At: time.Now().Add(-400 * time.Millisecond)}
	g.Waits[core.WaitSpill] = time.Minute
	m := toWire(&frame.ToWorker{
		Welcome: &frame.Welcome{Replica: "r"}, Owned: &frame.Owned{Shards: []int32{1}, Epochs: []int64{2}}, Topology: []frame.Replica{{ID: "r", Address: "a"}},
		Bid: &core.Bid{N: 1, Rank: 2, Priority: core.Critical, Tag: 3}, Pass: 4, Leases: []frame.Granted{g}, Renewed: []core.Token{tok}, Lost: []core.Token{tok},
		Settled: []core.Token{tok}, Refused: []core.Token{tok}, Revokes: []core.Revoke{{Token: tok, Reason: core.RevokeHeld, OnlyIfNotStarted: true}},
		Farewell: &frame.Farewell{Reason: "x", Within: time.Minute},
	})
	l := m.Leases[0]
	switch {
	case m.Welcome.Replica != "r" || m.Ownership.Epochs[0] != 2 || m.Topology.Replicas[0].Address != "a":
		t.Errorf("frame %v", m)
	case m.Demand.Priority != jobv1.Priority_PRIORITY_CRITICAL || m.Demand.Rank != 2 || m.Pass.N != 4:
		t.Errorf("bid %v pass %v", m.Demand, m.Pass)
	case &l.Job[0] != &value[0] || l.Traceparent != "tp" || l.Tracestate != "ts" || !l.Ticket || l.Priority != jobv1.Priority_PRIORITY_BULK || l.Token.Counter != 3:
		t.Errorf("lease %v", l)
	case l.Ttl.AsDuration() > 600*time.Millisecond || l.Ttl.AsDuration() <= 0:
		t.Errorf("a lease of 1 s that was granted 400 ms ago is valid for %v", l.Ttl.AsDuration())
	case len(l.Waits) != 1 || l.Waits[0].Cause != jobv1.WaitCause_WAIT_CAUSE_SPILL || l.Waits[0].Duration.Seconds != 60:
		t.Errorf("waits %v", l.Waits)
	case len(m.Renewed.Tokens) != 1 || len(m.Renewed.Lost) != 1 || len(m.Settled.Tokens) != 1 || len(m.Settled.Refused) != 1:
		t.Errorf("answers %v", m)
	case m.Revokes[0].Reason != schedulerv1.RevokeReason_REVOKE_REASON_HELD || !m.Revokes[0].OnlyIfNotStarted || m.Drain.Within.Seconds != 60:
		t.Errorf("end %v", m)
	}
}

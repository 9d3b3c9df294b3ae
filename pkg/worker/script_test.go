package worker

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/rpc/rpctest"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scheduler is one replica that does what a test says, over a network in memory.
type scheduler struct {
	schedulerv1.UnimplementedWorkerServiceServer
	t       *testing.T
	id      string
	address string
	server  *grpc.Server
	streams chan *stream
}

func newScheduler(t *testing.T, network *rpctest.Network, id string) *scheduler {
	s := &scheduler{t: t, id: id, address: rpctest.Target(id), server: grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true})), streams: make(chan *stream, 8)}
	schedulerv1.RegisterWorkerServiceServer(s.server, s)
	go s.server.Serve(network.Listen(id))
	return s
}

// stream is the scheduler's end of one Work stream.
type stream struct {
	*scheduler
	wire schedulerv1.WorkerService_WorkServer
	in   chan *schedulerv1.WorkRequest
	end  chan error
}

func (s *scheduler) Work(wire schedulerv1.WorkerService_WorkServer) error {
	st := &stream{scheduler: s, wire: wire, in: make(chan *schedulerv1.WorkRequest, 256), end: make(chan error, 1)}
	s.streams <- st
	go func() {
		defer close(st.in)
		for {
			f, err := wire.Recv()
			if err != nil {
				return
			}
			st.in <- f
		}
	}()
	select {
	case err := <-st.end:
		return err
	case <-wire.Context().Done():
		return nil
	}
}

// accept waits for a stream and answers its Hello: it owns shard and nothing else.
func (s *scheduler) accept(shards ...int32) (*stream, *schedulerv1.Hello) {
	s.t.Helper()
	select {
	case st := <-s.streams:
		hello := st.next(func(f *schedulerv1.WorkRequest) bool { return f.Hello != nil }).Hello
		st.send(&schedulerv1.WorkResponse{
			Welcome:   &schedulerv1.Welcome{Replica: s.id, Ttl: durationpb.New(20 * time.Second), RenewEvery: durationpb.New(5 * time.Second)},
			Ownership: owns(1, shards...),
			Topology:  &schedulerv1.Topology{Replicas: []*schedulerv1.Replica{{Id: s.id, Address: s.address}}},
		})
		return st, hello
	case <-time.After(time.Minute):
		s.t.Fatalf("%s: no stream within a minute", s.id)
	}
	return nil, nil
}

func owns(epoch int64, shards ...int32) *schedulerv1.Ownership {
	o := &schedulerv1.Ownership{Shards: shards}
	for range shards {
		o.Epochs = append(o.Epochs, epoch)
	}
	return o
}

func (st *stream) send(f *schedulerv1.WorkResponse) {
	st.t.Helper()
	if err := st.wire.Send(f); err != nil {
		st.t.Fatalf("%s: send: %v", st.id, err)
	}
}

// next reads frames until one fits.
func (st *stream) next(fits func(*schedulerv1.WorkRequest) bool) *schedulerv1.WorkRequest {
	st.t.Helper()
	for deadline := time.After(time.Minute); ; {
		select {
		case f, ok := <-st.in:
			if !ok {
				st.t.Fatalf("%s: the stream has ended", st.id)
			}
			if fits(f) {
				return f
			}
		case <-deadline:
			st.t.Fatalf("%s: no such frame within a minute", st.id)
		}
	}
}

func hasResults(f *schedulerv1.WorkRequest) bool { return len(f.Results) > 0 }
func hasReturns(f *schedulerv1.WorkRequest) bool { return len(f.Returns) > 0 }
func hasStarted(f *schedulerv1.WorkRequest) bool { return len(f.Started) > 0 }
func hasRenew(f *schedulerv1.WorkRequest) bool   { return len(f.Renew) > 0 }

// drop reads what is there and forgets it.
func (st *stream) drop() {
	synctest.Wait()
	for {
		select {
		case <-st.in:
		default:
			return
		}
	}
}

func token(counter int64) *jobv1.Token { return &jobv1.Token{Shard: 3, Epoch: 1, Counter: counter} }

// grant is a lease of a job of a type, into an open slot; its token is in shard 3.
func grant(counter int64, typ string) *schedulerv1.Lease {
	job := &jobv1.Job{
		Id:         fmt.Sprintf("00000000-0000-7000-8000-%012d", counter),
		Spec:       &jobv1.JobSpec{Source: "s", Type: typ, Payload: []byte(`{"n":1}`), Priority: jobv1.Priority_PRIORITY_DEFAULT},
		AcceptedAt: timestamppb.Now(),
	}
	value, err := proto.Marshal(job)
	if err != nil {
		panic(err)
	}
	return &schedulerv1.Lease{
		Job: value, Token: token(counter), Attempt: 1, Ttl: durationpb.New(20 * time.Second), RunTimeout: durationpb.New(5 * time.Minute),
		GrantedAt: timestamppb.Now(), Priority: jobv1.Priority_PRIORITY_DEFAULT, Tag: float64(counter),
	}
}

func grants(l ...*schedulerv1.Lease) *schedulerv1.WorkResponse {
	return &schedulerv1.WorkResponse{Leases: l}
}

func settles(tokens ...*jobv1.Token) *schedulerv1.WorkResponse {
	return &schedulerv1.WorkResponse{Settled: &schedulerv1.Settled{Tokens: tokens}}
}

// world is a bubble with one worker and the replicas that a test needs.
type world struct {
	t       *testing.T
	network *rpctest.Network
	worker  *Worker
	stop    context.CancelFunc
	result  chan error
}

// bubble runs a test in virtual time. The worker is made but not run, so that the test can add handlers.
func bubble(t *testing.T, concurrency int, test func(*world, *scheduler)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		network := rpctest.NewNetwork()
		s := newScheduler(t, network, "replica-0")
		defer s.server.Stop()
		w, err := New(Config{
			Schedulers: s.address, Concurrency: concurrency, DialOptions: []grpc.DialOption{grpc.WithContextDialer(network.Dial)},
		})
		if err != nil {
			t.Fatal(err)
		}
		wd := &world{t: t, network: network, worker: w, result: make(chan error, 1)}
		defer func() { // also when the test has failed
			if wd.stop != nil {
				wd.stop()
				<-wd.result
			}
		}()
		test(wd, s)
	})
}

func (wd *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	wd.stop = cancel
	go func() { wd.result <- wd.worker.Run(ctx) }()
}

// end stops the worker and returns what Run returned.
func (wd *world) end() error {
	wd.stop()
	wd.stop = nil
	return <-wd.result
}

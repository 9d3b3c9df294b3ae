package worker

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
)

// flood grants b.N empty jobs as fast as the worker gives tickets, and settles at once.
type flood struct {
	schedulerv1.UnimplementedWorkerServiceServer
	lease *schedulerv1.Lease
	left  int
	frame atomic.Int64
	done  chan struct{}
}

func (f *flood) Work(wire schedulerv1.WorkerService_WorkServer) error {
	counter, settled, want := int64(0), 0, f.left
	out := &schedulerv1.WorkResponse{Welcome: &schedulerv1.Welcome{Replica: "r"}, Ownership: owns(1, 3)}
	free := 0
	for {
		in, err := wire.Recv()
		if err != nil {
			return err
		}
		f.frame.Add(1)
		for _, r := range in.Results {
			if out.Settled == nil {
				out.Settled = &schedulerv1.Settled{}
			}
			out.Settled.Tokens = append(out.Settled.Tokens, r.Token)
			settled++
		}
		tickets := int(in.Ticket.GetN())
		if in.Credit != nil && counter == 0 {
			free = int(in.Credit.Free)
		}
		for f.left > 0 && tickets+free > 0 {
			l := &schedulerv1.Lease{
				Job: f.lease.Job, Token: &jobv1.Token{Shard: 3, Epoch: 1, Counter: counter}, Attempt: 1, Ttl: f.lease.Ttl, RunTimeout: f.lease.RunTimeout,
				GrantedAt: f.lease.GrantedAt, Priority: f.lease.Priority, Ticket: tickets > 0,
			}
			if tickets > 0 {
				tickets--
			} else {
				free--
			}
			counter++
			f.left--
			out.Leases = append(out.Leases, l)
		}
		out.Demand = &schedulerv1.Demand{N: int32(min(f.left, 64)), Rank: 3, Priority: jobv1.Priority_PRIORITY_DEFAULT}
		if err := wire.Send(out); err != nil {
			return err
		}
		out = &schedulerv1.WorkResponse{}
		if settled == want {
			close(f.done)
			<-wire.Context().Done()
			return nil
		}
	}
}

// BenchmarkEmptyJobs is the whole way of an empty job through the SDK, over a socket, 64 slots; both ends of the stream are in it.
func BenchmarkEmptyJobs(b *testing.B) {
	f := &flood{lease: grant(1, "tag"), left: b.N, done: make(chan struct{})}
	f.lease.Ttl = durationpb.New(defaultTTL)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer()
	schedulerv1.RegisterWorkerServiceServer(server, f)
	go server.Serve(listener)
	defer server.Stop()
	w, err := New(Config{Schedulers: listener.Addr().String(), Concurrency: 64})
	if err != nil {
		b.Fatal(err)
	}
	w.Handle("tag", nothing)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	b.ReportAllocs()
	b.ResetTimer()
	go func() { ended <- w.Run(ctx) }()
	<-f.done
	b.StopTimer()
	cancel()
	<-ended
	b.ReportMetric(float64(b.N)/float64(f.frame.Load()), "jobs/frame")
}

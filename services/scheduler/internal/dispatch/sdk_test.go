package dispatch_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	"github.com/spillway/spillway/pkg/worker"
	"github.com/spillway/spillway/services/scheduler/internal/api"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/dispatch"
)

// replica is a scheduler without Kafka: the real engine, loop and api behind a network in memory.
type replica struct {
	id    string
	shard int32
	loop  *dispatch.Loop
	all   []*replica
	next  atomic.Uint64

	mu      sync.Mutex
	settled map[core.SettlementKind]int
}

func (r *replica) Open(time.Time) bool  { return true }
func (r *replica) Move([]*core.Job)     {}
func (r *replica) Read([]core.LaneRead) {}
func (r *replica) Poke()                {}
func (r *replica) Summarise(s []core.Summary) {
	for _, other := range r.all {
		if other != r {
			time.AfterFunc(5*time.Millisecond, func() { other.loop.Heard(r.id, s) })
		}
	}
}

func (r *replica) Settle(s core.Settlement) {
	r.mu.Lock()
	r.settled[s.Kind]++
	r.mu.Unlock()
	time.AfterFunc(3*time.Millisecond, func() {
		r.loop.Do(func(now time.Time, e *core.Engine) { e.Settled(now, s.Job.ID, s.Token) })
		if s.Attempt.Worker != "" {
			r.loop.Settled(s.Attempt.Worker, s.Token)
		}
	})
}

func (r *replica) count(k core.SettlementKind) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.settled[k]
}

// offer puts a job of a source in.
func (r *replica) offer(t *testing.T, source, typ string) {
	n := r.next.Add(1)
	id := envelope.NewJobID(time.Now(), int(r.shard), [8]byte{byte(n >> 16), byte(n >> 8), byte(n)})
	value, err := proto.Marshal(&jobv1.Job{Id: id.String(), Spec: &jobv1.JobSpec{Source: source, Type: typ}, AcceptedAt: timestamppb.Now()})
	if err != nil {
		t.Fatal(err)
	}
	job := &core.Job{
		ID: core.JobID(id), Shard: r.shard, Source: source, Type: typ, Priority: core.Default, Size: len(value), AcceptedAt: time.Now(),
		Home: core.Home{Topic: core.Topic(core.Default), Partition: r.shard, Offset: int64(n)}, Record: &core.Record{Value: value},
	}
	r.loop.Do(func(now time.Time, e *core.Engine) {
		if v := e.Offer(now, job); v.Kind != core.Queue {
			t.Errorf("offer: %+v", v)
		}
	})
}

type caller struct {
	grpc.ServerStream
	ctx context.Context
}

func (c caller) Context() context.Context { return c.ctx }

// cluster runs a test in a bubble with n replicas, each the owner of one shard, and stops everything at its end.
func cluster(t *testing.T, n int, test func(ctx context.Context, network *rpctest.Network, replicas []*replica)) {
	synctest.Test(t, func(t *testing.T) {
		network := rpctest.NewNetwork()
		ctx, cancel := context.WithCancel(t.Context())
		var parts sync.WaitGroup
		var replicas []*replica
		var topology []core.Replica
		var servers []*grpc.Server
		defer func() {
			cancel()
			for _, s := range servers {
				s.Stop()
			}
			parts.Wait()
		}()
		for i := range n {
			r := &replica{id: string(rune('a' + i)), shard: int32(i), settled: map[core.SettlementKind]int{}}
			r.loop = dispatch.New(dispatch.Config{Replica: r.id}, dispatch.Deps{Log: slog.New(slog.DiscardHandler), Engine: core.New(core.Config{Seed: uint64(i)})})
			r.loop.Connect(dispatch.Ports{Settler: r, Mover: r, Reader: r, Gate: r, Beat: r})
			r.loop.Do(func(now time.Time, e *core.Engine) { e.Attach(now, r.shard, 1) })
			r.loop.Own(map[int32]int64{r.shard: 1})
			handler := api.New(func(who core.Identity, hello core.Hello) (api.Stream, error) {
				s, err := r.loop.Open(who, hello)
				if err != nil {
					return nil, err
				}
				return s, nil
			}, slog.New(slog.DiscardHandler))
			server := grpc.NewServer(
				grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
				grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
					return next(srv, caller{ss, rpc.WithCaller(ss.Context(), rpc.Caller{Subject: "worker"})})
				}))
			schedulerv1.RegisterWorkerServiceServer(server, handler)
			listener := network.Listen(r.id)
			parts.Go(func() { server.Serve(listener) })
			parts.Go(func() { r.loop.Run(ctx) })
			servers = append(servers, server)
			replicas, topology = append(replicas, r), append(topology, core.Replica{ID: r.id, Address: rpctest.Target(r.id), Shards: []int32{r.shard}})
		}
		for _, r := range replicas {
			r.all = replicas
			r.loop.SetTopology(topology)
		}
		test(ctx, network, replicas)
	})
}

// TestPoolOfThreeReplicas is the division of one pool (scheduling.md §6) by the real SDK and the real engine: 4 workers with 16 slots
// each, three replicas, ten sources of which one floods. All jobs run exactly once, nobody within their share waits for the flood, and
// the pool is used.
func TestPoolOfThreeReplicas(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(string(rune('0'+n)), func(t *testing.T) {
			cluster(t, n, func(ctx context.Context, network *rpctest.Network, replicas []*replica) {
				const (
					work    = 20 * time.Millisecond
					seconds = 5
					rate    = 2000 // of the flood; the pool does 3,200 a second
				)
				var mu sync.Mutex
				runs := map[string]int{}
				var worst time.Duration
				ran := 0
				stop, done := context.WithCancel(ctx)
				var pool sync.WaitGroup
				for range 4 {
					w, err := worker.New(worker.Config{
						Schedulers: rpctest.Target("a"), Concurrency: 16, DialOptions: []grpc.DialOption{grpc.WithContextDialer(network.Dial)},
					})
					if err != nil {
						t.Fatal(err)
					}
					w.Handle("t", func(_ context.Context, job *worker.Job) error {
						wait := time.Since(job.AcceptedAt)
						mu.Lock()
						runs[job.ID]++
						ran++
						if job.Source != "flood" {
							worst = max(worst, wait)
						}
						mu.Unlock()
						time.Sleep(work)
						return nil
					})
					pool.Go(func() {
						if err := w.Run(stop); err != nil {
							t.Errorf("drain: %v", err)
						}
					})
				}
				time.Sleep(time.Second) // streams to all replicas
				offered := 0
				for tick := range seconds * 1000 / 5 {
					for i := range rate * 5 / 1000 {
						replicas[(tick+i)%n].offer(t, "flood", "t")
						offered++
					}
					if tick%2 == 0 { // nine victims of 10 jobs a second and a bit, each on one replica
						victim := tick / 2 % 9
						replicas[victim%n].offer(t, string(rune('a'+victim)), "t")
						offered++
					}
					time.Sleep(5 * time.Millisecond)
				}
				time.Sleep(5 * time.Second)
				done()
				pool.Wait()
				mu.Lock()
				defer mu.Unlock()
				settled := 0
				for _, r := range replicas {
					settled += r.count(core.Succeeded)
				}
				if ran != offered || len(runs) != offered || settled != offered {
					t.Errorf("%d jobs offered, %d runs of %d jobs, %d settled", offered, ran, len(runs), settled)
				}
				if worst > 30*time.Millisecond {
					t.Errorf("a job within its source's share waited %s", worst)
				}
			})
		})
	}
}

// TestRetryThroughTheSDK: a failed attempt comes back with a new token and the next number.
func TestRetryThroughTheSDK(t *testing.T) {
	cluster(t, 1, func(ctx context.Context, network *rpctest.Network, replicas []*replica) {
		attempts := make(chan worker.Job, 8)
		w, err := worker.New(worker.Config{
			Schedulers: rpctest.Target("a"), Concurrency: 1, DialOptions: []grpc.DialOption{grpc.WithContextDialer(network.Dial)},
		})
		if err != nil {
			t.Fatal(err)
		}
		w.Handle("t", func(_ context.Context, job *worker.Job) error {
			attempts <- *job
			switch job.Attempt {
			case 1:
				return errors.New("once")
			case 2:
				panic("twice")
			}
			return nil
		})
		stop, done := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- w.Run(stop) }()
		replicas[0].offer(t, "s", "t")
		var last worker.Job
		for i := range 3 {
			job := <-attempts
			if job.Attempt != i+1 || i > 0 && (!last.Token.Before(job.Token) || job.ID != last.ID) {
				t.Fatalf("attempt %d after %+v: %+v", i+1, last, job)
			}
			last = job
		}
		done()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		if replicas[0].count(core.Retrying) != 2 || replicas[0].count(core.Succeeded) != 1 {
			t.Fatalf("settlements %v", replicas[0].settled)
		}
	})
}

package dispatch_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
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
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
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

func (r *replica) Open(time.Time, int64) bool    { return true }
func (r *replica) Renews(time.Time) bool         { return true }
func (r *replica) Move([]*core.Job, []core.Home) {}
func (r *replica) Read([]core.LaneRead)          {}
func (r *replica) Poke()                         {}
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

// offer puts a job of a source in. What the engine wants spilled is dropped if it may be.
func (r *replica) offer(t *testing.T, source, typ string, droppable bool) {
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
		switch v := e.Offer(now, job); {
		case droppable && v.Kind == core.Spill:
			e.LaneDrained(now, source, typ) // nothing went into the lane
		case v.Kind != core.Queue:
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
		var topology []frame.Replica
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
			handler := api.New(func(who frame.Identity, hello frame.Hello) (api.Stream, error) {
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
			replicas, topology = append(replicas, r), append(topology, frame.Replica{ID: r.id, Address: rpctest.Target(r.id), Shards: []int32{r.shard}})
		}
		for _, r := range replicas {
			r.all = replicas
			r.loop.SetTopology(topology)
		}
		test(ctx, network, replicas)
	})
}

// TestOnePoolSeveralReplicas is the division of one pool (scheduling.md §6) by the real SDK and the real engine: 4 workers with 16 slots
// each, nine sources of 11 jobs a second of 20 ms, and a flood of more than the pool can do, or of jobs that hang. Nobody within their
// share waits, the pool is used, and every job that was taken runs exactly once.
func TestOnePoolSeveralReplicas(t *testing.T) {
	for _, c := range []struct {
		name     string
		replicas int
		rate     int // of the flood, a second
		work     time.Duration
		least    int // flood jobs done
	}{
		{"B1 one", 1, 10_000, 20 * time.Millisecond, 11_500},
		{"B1 three", 3, 10_000, 20 * time.Millisecond, 11_500},
		{"B2 one", 1, 200, 10 * time.Second, 20},
		{"B2 three", 3, 200, 10 * time.Second, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster(t, c.replicas, func(ctx context.Context, network *rpctest.Network, replicas []*replica) {
				var mu sync.Mutex
				runs := map[string]int{}
				var waits []time.Duration
				floods := 0
				stop, done := context.WithCancel(ctx)
				var pool sync.WaitGroup
				for range 4 {
					w, err := worker.New(worker.Config{
						Schedulers: rpctest.Target("a"), Concurrency: 16, Drain: time.Minute,
						DialOptions: []grpc.DialOption{grpc.WithContextDialer(network.Dial)},
					})
					if err != nil {
						t.Fatal(err)
					}
					w.Handle("t", func(_ context.Context, job *worker.Job) error {
						wait, work := time.Since(job.AcceptedAt), 20*time.Millisecond
						mu.Lock()
						runs[job.ID]++
						if job.Source == "flood" {
							work = c.work
							floods++
						} else {
							waits = append(waits, wait)
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
				victims, flood := 0, 0.0
				for tick := range 1000 { // 5 s
					for flood += float64(c.rate) * 0.005; tick >= 200 && flood >= 1; flood-- {
						replicas[0].offer(t, "flood", "t", true)
					}
					if tick%2 == 0 {
						victim := tick / 2 % 9
						replicas[victim%c.replicas].offer(t, string(rune('a'+victim)), "t", false)
						victims++
					}
					time.Sleep(5 * time.Millisecond)
				}
				mu.Lock()
				slices.Sort(waits)
				if p99 := waits[len(waits)*99/100]; len(waits) < victims-2 || p99 > 12*time.Millisecond {
					t.Errorf("of %d jobs within their share %d started, p99 %s, worst %s", victims, len(waits), p99, waits[len(waits)-1])
				}
				if floods < c.least {
					t.Errorf("%d flood jobs started, want %d", floods, c.least)
				}
				mu.Unlock()
				done()
				pool.Wait()
				settled := 0
				for _, r := range replicas {
					settled += r.count(core.Succeeded)
				}
				if settled != len(runs) {
					t.Errorf("%d jobs ran, %d settled", len(runs), settled)
				}
				for id, n := range runs {
					if n != 1 {
						t.Errorf("job %s ran %d times", id, n)
					}
				}
				t.Logf("victims %d, p99 %s, worst %s; flood %d", len(waits), waits[len(waits)*99/100], waits[len(waits)-1], floods)
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
		replicas[0].offer(t, "s", "t", false)
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

package dispatch_test

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/worker"
	"github.com/spillway/spillway/services/scheduler/internal/api"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
	"github.com/spillway/spillway/services/scheduler/internal/dispatch"
)

// journal is a Settler whose records are durable within a millisecond, in batches.
type journal struct {
	replica
	mu      sync.Mutex
	durable []core.Settlement
	done    int
}

func (l *journal) Settle(s core.Settlement) {
	l.mu.Lock()
	l.durable = append(l.durable, s)
	l.mu.Unlock()
}

func (l *journal) run(ctx context.Context, want int, finished chan<- struct{}) {
	for tick := time.NewTicker(time.Millisecond); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		l.mu.Lock()
		batch := l.durable
		l.durable = nil
		l.mu.Unlock()
		l.loop.Do(func(now time.Time, e *core.Engine) {
			for _, s := range batch {
				e.Settled(now, s.Job.ID, s.Token)
			}
		})
		for _, s := range batch {
			l.loop.Settled(s.Attempt.Worker, s.Token)
		}
		if l.done += len(batch); l.done == want && len(batch) > 0 {
			close(finished)
		}
	}
}

// BenchmarkEmptyJobs is the way of an empty job from the engine through api, a socket and the SDK and back: 64 slots in 4 workers, 8
// sources, one process.
func BenchmarkEmptyJobs(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	quiet := slog.New(slog.DiscardHandler)
	l := &journal{}
	l.loop = dispatch.New(dispatch.Config{Replica: "r"}, dispatch.Deps{Log: quiet, Engine: core.New(core.Config{Seed: 1})})
	l.loop.Connect(dispatch.Ports{Settler: l, Mover: l, Reader: l, Gate: l, Beat: l})
	l.loop.Do(func(now time.Time, e *core.Engine) { e.Attach(now, 0, 1) })
	l.loop.Own(map[int32]int64{0: 1})
	handler := api.New(func(who frame.Identity, hello frame.Hello) (api.Stream, error) { return l.loop.Open(who, hello) }, quiet)
	server := grpc.NewServer(grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		return next(srv, caller{ss, rpc.WithCaller(ss.Context(), rpc.Caller{Subject: "worker"})})
	}))
	schedulerv1.RegisterWorkerServiceServer(server, handler)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go server.Serve(listener)
	defer server.Stop()
	go l.loop.Run(ctx)
	var pool sync.WaitGroup
	stop, end := context.WithCancel(ctx)
	for range 4 {
		w, err := worker.New(worker.Config{Schedulers: listener.Addr().String(), Concurrency: 16})
		if err != nil {
			b.Fatal(err)
		}
		w.Handle("t", func(context.Context, *worker.Job) error { return nil })
		pool.Go(func() { w.Run(stop) })
	}
	for l.loop.Sessions() < 4 {
		time.Sleep(time.Millisecond)
	}
	jobs := make([]*core.Job, b.N)
	for i := range jobs {
		id := envelope.NewJobID(time.Now(), 0, [8]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)})
		source := string(rune('a' + i%8))
		value, _ := proto.Marshal(&jobv1.Job{Id: id.String(), Spec: &jobv1.JobSpec{Source: source, Type: "t", Payload: make([]byte, 200)}, AcceptedAt: timestamppb.Now()})
		jobs[i] = &core.Job{
			ID: core.JobID(id), Source: source, Type: "t", Priority: core.Default, Size: len(value), AcceptedAt: time.Now(),
			Home: core.Home{Topic: core.Topic(core.Default), Offset: int64(i)}, Record: &core.Record{Value: value},
		}
	}
	finished := make(chan struct{})
	go l.run(ctx, b.N, finished)
	b.ReportAllocs()
	b.ResetTimer()
	for len(jobs) > 0 {
		full := false
		l.loop.Do(func(now time.Time, e *core.Engine) {
			for range min(500, len(jobs)) {
				if e.Offer(now, jobs[0]).Kind != core.Queue {
					e.LaneDrained(now, jobs[0].Source, "t")
					full = true
					return
				}
				jobs = jobs[1:]
			}
		})
		if full {
			time.Sleep(time.Millisecond)
		}
	}
	<-finished
	b.StopTimer()
	end()
	pool.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "jobs/s")
}

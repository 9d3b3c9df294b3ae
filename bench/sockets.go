package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spillway/spillway/pkg/worker"
)

const (
	workType = "work" // of jobs that the benchmark's own workers run
	slots    = 64     // for them, where nothing else is said
	workers  = 4      // that divide the slots: a deployment has several
	leave    = 10 * time.Second
)

// sockets measures what sockets and jobs do to each other: no notifier, sockets that nobody reads, jobs without end.
func (b *bench) sockets(runs int) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	fmt.Printf("%d cores, %s, %s, %s; broker, services, handlers, generators and websocket clients share the cores\n",
		runtime.NumCPU(), runtime.Version(), b.log(), time.Now().UTC().Format(time.DateOnly))
	measured := false
	for _, w := range []struct {
		name    string
		measure func(context.Context, int) error
		runs    int
	}{{"dead", b.socketsDead, 3}, {"full", b.socketsFull, 5}, {"flood", b.socketsFlood, 3}} {
		if !strings.HasPrefix(w.name, b.only) {
			continue
		}
		measured = true
		if err := w.measure(ctx, cmp.Or(runs, w.runs)); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	if !measured {
		return fmt.Errorf("-only %s: sockets has dead, full and flood", b.only)
	}
	return nil
}

// limit is how long something of so many milliseconds may take beside the other kind of work.
func limit(alone float64) float64 { return max(1.1*alone, alone+5) }

// work runs the jobs of workType until stop, which returns when all their outcomes are durable, or says that they are not.
func (i *installation) work(ctx context.Context, handler worker.Handler) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	errs := make([]error, workers)
	for n := range workers {
		w, err := worker.New(worker.Config{
			Schedulers: strings.Join(i.File.Endpoints.Scheduler, ","), Concurrency: slots / workers, Token: i.File.Tokens.Worker, Drain: leave,
		})
		if err != nil {
			cancel()
			return nil, err
		}
		w.Handle(workType, handler)
		running.Go(func() { errs[n] = w.Run(ctx) })
	}
	return sync.OnceValue(func() error {
		cancel()
		running.Wait()
		return errors.Join(errs...)
	}), nil
}

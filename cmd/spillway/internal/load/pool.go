package load

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/pkg/worker"
)

// sdkWorkers is how many SDK workers the slots are divided over within one
// process: a deployment has several, each with streams of its own.
const sdkWorkers = 4

// leave is how long a worker waits for running jobs when the run is over: what
// still runs by then hangs, and its time was counted already.
const leave = time.Second

// poolConfig is what a pool of workers needs. It is also what a worker process
// is told.
type poolConfig struct {
	Schedulers string   `json:"schedulers"`
	Token      string   `json:"token"`
	Types      []string `json:"types"`
	// Slots are divided over Workers SDK workers, as evenly as they can be.
	Slots   int `json:"slots"`
	Workers int `json:"workers"`
}

// events is told of handlers.
type events interface {
	// started is called before a handler acts, finished when it has done its
	// job. at is the wall clock.
	started(in plan.Instruction, at time.Time)
	finished(in plan.Instruction, at time.Time)
}

// runPool runs SDK workers until ctx ends or one of them fails.
func runPool(ctx context.Context, cfg poolConfig, to events, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	errs := make([]error, cfg.Workers)
	for n := range cfg.Workers {
		slots := cfg.Slots / cfg.Workers
		if n < cfg.Slots%cfg.Workers {
			slots++
		}
		if slots == 0 {
			continue
		}
		w, err := worker.New(worker.Config{
			Schedulers: cfg.Schedulers, Concurrency: slots, Token: cfg.Token, Version: "spillway load", Drain: leave, Log: log,
		})
		if err != nil {
			return fmt.Errorf("worker: %w", err)
		}
		for _, t := range cfg.Types {
			w.Handle(t, handler(to))
		}
		all.Go(func() {
			if errs[n] = w.Run(ctx); errs[n] != nil {
				cancel()
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// handler does what a job's payload says: it takes the time.
func handler(to events) worker.Handler {
	return func(ctx context.Context, job *worker.Job) error {
		in, err := plan.ParsePayload(job.Payload)
		if err != nil {
			return worker.Permanent(err)
		}
		to.started(in, time.Now())
		if in.Work > 0 {
			timer := time.NewTimer(in.Work)
			defer timer.Stop()
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-timer.C:
			}
		}
		to.finished(in, time.Now())
		return nil
	}
}

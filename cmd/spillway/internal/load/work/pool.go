package work

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

// SDKWorkers is how many SDK workers the slots are divided over within one
// process: a deployment has several, each with streams of its own.
const SDKWorkers = 4

// Leave is how long a worker waits for running jobs when the run is over: what
// still runs by then hangs, and its time was counted already.
const Leave = time.Second

// Config is what a pool of workers needs. It is also what a worker process
// is told.
type Config struct {
	Schedulers string   `json:"schedulers"`
	Token      string   `json:"token"`
	Types      []string `json:"types"`
	// Slots are divided over Workers SDK workers, as evenly as they can be.
	Slots   int `json:"slots"`
	Workers int `json:"workers"`
	// After, if set, is the last thing that a handler does for a job. A worker process has none.
	After func(ctx context.Context, job *worker.Job, in plan.Instruction) error `json:"-"`
}

// Events is told of handlers.
type Events interface {
	// Started is called before a handler acts, Finished when it has done its
	// job. at is the wall clock.
	Started(in plan.Instruction, at time.Time)
	Finished(in plan.Instruction, at time.Time)
}

// Run runs SDK workers until ctx ends or one of them fails.
func Run(ctx context.Context, cfg Config, to Events, log *slog.Logger) error {
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
			Schedulers: cfg.Schedulers, Concurrency: slots, Token: cfg.Token, Version: "spillway load", Drain: Leave, Log: log,
		})
		if err != nil {
			return fmt.Errorf("worker: %w", err)
		}
		for _, t := range cfg.Types {
			w.Handle(t, handler(to, cfg.After))
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
func handler(to Events, after func(context.Context, *worker.Job, plan.Instruction) error) worker.Handler {
	return func(ctx context.Context, job *worker.Job) error {
		in, err := plan.ParsePayload(job.Payload)
		if err != nil {
			return worker.Permanent(err)
		}
		to.Started(in, time.Now())
		if in.Work > 0 {
			timer := time.NewTimer(in.Work)
			defer timer.Stop()
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-timer.C:
			}
		}
		if after != nil {
			if err := after(ctx, job, in); err != nil {
				return err
			}
		}
		to.Finished(in, time.Now())
		return nil
	}
}

package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spillway/spillway/pkg/worker"
)

// workerVariable holds the configuration of a worker process.
const workerVariable = "SPILLWAY_TEST_WORKER"

// workerConfig is what a worker process is told.
type workerConfig struct {
	Name, File        string
	Schedulers, Token string
	Slots             int
}

// Worker runs a worker process if that is what this test binary was started as,
// and reports whether it was. Call it first in TestMain, and end the process with
// the code when it was.
func Worker() (code int, was bool) {
	text := os.Getenv(workerVariable)
	if text == "" {
		return 0, false
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the process
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := runWorker(ctx, text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

// runWorker runs jobs until ctx ends, and then what it has begun.
func runWorker(ctx context.Context, text string) error {
	var cfg workerConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	log, err := Create(cfg.File, cfg.Name)
	if err != nil {
		return err
	}
	defer log.Close()
	w, err := worker.New(worker.Config{
		Schedulers: cfg.Schedulers, Token: cfg.Token, Concurrency: cfg.Slots, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	w.Handle(jobType, func(ctx context.Context, job *worker.Job) error { return handle(ctx, log, job) })
	return w.Run(ctx)
}

var errOrdered = errors.New("this attempt fails by order")

// handle writes down that it runs before it does, and that it ran before it says so.
func handle(ctx context.Context, log *Log, job *worker.Job) error {
	var p payload
	if err := json.Unmarshal(job.Payload, &p); err != nil {
		return worker.Permanent(err)
	}
	e := Event{
		Kind: Start, Key: p.Key, Job: job.ID, Source: job.Source, Attempt: job.Attempt, Sum: sum(job.Payload),
		Token: &Token{job.Token.Shard, job.Token.Epoch, job.Token.Counter},
	}
	if err := log.Write(e); err != nil {
		return err
	}
	timer := time.NewTimer(p.Work)
	defer timer.Stop()
	var result error
	e.Kind, e.Code = End, "ok"
	select {
	case <-timer.C:
		if job.Attempt <= p.Fails {
			e.Code, result = byOrder, errOrdered
		}
	case <-ctx.Done():
		e.Code, result = contextEnded+context.Cause(ctx).Error(), context.Cause(ctx)
	}
	if err := log.Write(e); err != nil {
		return err
	}
	return result
}

// contextEnded begins the code of an execution that was cut.
const contextEnded = "context ended: "

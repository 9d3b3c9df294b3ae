package worker_test

import (
	"context"
	"errors"
	"log"
	"os/signal"
	"syscall"
	"time"

	"github.com/spillway/spillway/pkg/worker"
)

// Tag is the payload of the jobs of type tag.
type Tag struct{ Conversation, Label string }

func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	w, err := worker.New(worker.Config{Schedulers: "dns:///scheduler:7410", Concurrency: 64})
	if err != nil {
		log.Fatal(err)
	}
	w.Handle("tag", worker.JSON(func(ctx context.Context, job *worker.Job, tag Tag) error {
		switch {
		case tag.Label == "":
			return worker.Permanent(errors.New("no label"))
		case time.Now().Hour() < 6:
			return worker.Snooze(time.Hour)
		}
		return nil // must be idempotent on job.ID
	}))
	if err := w.Run(ctx); err != nil {
		log.Print(err) // what was left runs again on another worker
	}
}

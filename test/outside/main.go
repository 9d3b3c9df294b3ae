// Command outside is what a user writes: a worker in five lines, and one call that gives it work. It lives in a module of its own, so that what
// it needs of Spillway is what a stranger can have.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/worker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	run := work
	if len(os.Args) > 1 && os.Args[1] == "enqueue" {
		run = enqueue
	}
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func work(ctx context.Context) error {
	w, err := worker.New(worker.Config{Schedulers: "127.0.0.1:7410", Concurrency: 64, TokenFile: os.Getenv("SPILLWAY_TOKEN_FILE")})
	if err != nil {
		return err
	}
	w.Handle("tag", tag)
	return w.Run(ctx)
}

// tag is the handler: its context ends before another worker can be given the job.
func tag(ctx context.Context, job *worker.Job) error {
	log.Printf("%s of %s: %s", job.ID, job.Tenant, job.Payload)
	return ctx.Err()
}

func enqueue(ctx context.Context) error {
	c, err := client.Dial("127.0.0.1:7400")
	if err != nil {
		return err
	}
	defer c.Close()
	r, err := c.Enqueue(ctx, client.Job{Source: "crm-autotag", Tenant: "t1", Type: "tag", Payload: []byte("hello")})
	if err != nil {
		return err
	}
	log.Print(r.JobID, " ", r.Verdict)
	return nil
}

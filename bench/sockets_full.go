package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/worker"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
)

const (
	fullClients = 100
	fullJobs    = 40_000 // about ten seconds of two cores
	fullTime    = 2 * time.Minute
)

// sides of a round of socketsFull.
const (
	noClients = iota
	allRead
	allStalled
)

// socketsFull measures what jobs pay for sockets that are full: each publishes a notification that nobody reads.
func (b *bench) socketsFull(ctx context.Context, runs int) error {
	fmt.Printf("\nNobody reads. %d jobs of 0 ms, each publishes one notification of 256 to 1,024 bytes at its end, %d slots, %d clients of that channel, %d rounds.\n",
		fullJobs, slots, fullClients, runs)
	fmt.Println("From the first send until all outcomes are durable. Clients that read are on the same cores: they take from the jobs what those that stopped do not.")
	i, err := b.install()
	if i != nil {
		defer i.stop()
	}
	if err != nil {
		return err
	}
	if err := i.register(benchSource, &automationv1.Quota{}, workType); err != nil { // no limit
		return err
	}
	publisher, err := client.DialNotifier(i.File.Endpoints.Notifier, client.WithToken(i.File.Tokens.Service))
	if err != nil {
		return err
	}
	defer publisher.Close()
	enqueue, err := client.Dial(i.File.Endpoints.Enqueue, client.WithToken(i.File.Tokens.Service))
	if err != nil {
		return err
	}
	defer enqueue.Close()

	var rate, cpu, notifier, scheduler [3][]float64
	var toNone, toRead []float64
	sent := 0
	for n := range runs + 1 { // the first round warms up
		order := []int{noClients, allRead, allStalled}
		if n%2 == 1 {
			slices.Reverse(order)
		}
		var round [3]fullSide
		for _, side := range order {
			if round[side], err = i.fullOnce(ctx, side, publisher, enqueue); err != nil {
				return err
			}
			sent += fullJobs + 1
		}
		if n == 0 {
			continue
		}
		for side, s := range round {
			cpu[side] = append(cpu[side], s.cpu)
			rate[side], notifier[side], scheduler[side] = append(rate[side], s.rate), append(notifier[side], s.notifier), append(scheduler[side], s.scheduler)
		}
		toNone, toRead = append(toNone, round[allStalled].rate/round[noClients].rate), append(toRead, round[allStalled].rate/round[allRead].rate)
	}
	if err := i.intact(sent); err != nil {
		return err
	}
	fmt.Printf("\n| clients | jobs | notifier CPU a job | notifier RSS | scheduler RSS |\n|---|---|---|---|---|\n")
	for side, name := range []string{"none", "all read", "none reads"} {
		fmt.Printf("| %s | %s /s | %s µs | %s MiB | %s MiB |\n", name, show(rate[side]), show(cpu[side]), show(notifier[side]), show(scheduler[side]))
	}
	fmt.Printf("\n| | measured | asked |\n|---|---|---|\n| none reads over no clients | %s | ≥ 0.95 |\n| none reads over all read | %s | ≥ 0.95 |\n", percent(toNone), percent(toRead))
	return nil
}

// fullSide is jobs per second, and peaks in MiB.
type fullSide struct {
	rate, notifier, scheduler float64
	cpu                       float64 // µs of the notifier for each job
}

func (i *installation) fullOnce(ctx context.Context, side int, publisher *client.Notifier, enqueue *client.Client) (s fullSide, err error) {
	ctx, cancel := context.WithTimeout(ctx, fullTime)
	defer cancel()
	var people, stalled int
	if side != noClients {
		people = fullClients
	}
	if side == allStalled {
		stalled = fullClients
	}
	c, err := i.crowd(people, stalled)
	if err != nil {
		return s, err
	}
	renewing, stopRenewing := context.WithCancel(ctx)
	var renewal sync.WaitGroup
	var renewed error
	if side == allStalled {
		renewal.Go(func() { renewed = c.renew(renewing, i) })
	}
	defer func() { // nobody else may hold the crowd when it leaves
		stopRenewing()
		renewal.Wait()
		c.leave()
	}()
	before, err := i.metrics()
	if err != nil {
		return s, err
	}

	ran := make([]atomic.Bool, fullJobs+1) // the last one only finds out whether workers are there
	var done atomic.Int64
	all := make(chan struct{})
	stopWork, err := i.work(ctx, func(ctx context.Context, job *worker.Job) error {
		due, n, ok := opened(job.Payload)
		if !ok {
			return worker.Permanent(errors.New("no letter"))
		}
		if n < fullJobs {
			_, err := publisher.Publish(ctx, client.Notification{
				Channel: benchChannel, Data: letter(due, n), Source: benchSource, Tenant: benchTenant, IdempotencyKey: job.ID,
			})
			if err != nil {
				return err // it is tried again
			}
		}
		if ran[n].CompareAndSwap(false, true) && n < fullJobs && done.Add(1) == fullJobs {
			close(all)
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	defer stopWork()
	if err := enqueueAll(ctx, enqueue, fullJobs, 1); err != nil {
		return s, err
	}
	if err := until(ctx, readyTime, "workers are there", func() (bool, error) { return ran[fullJobs].Load(), nil }); err != nil {
		return s, err
	}
	for _, name := range []string{"notifier", "scheduler"} {
		if err := forget(i.pid(name)); err != nil {
			return s, err
		}
	}

	cpu, err := cpuTime(i.pid("notifier"))
	if err != nil {
		return s, err
	}
	begun := time.Now()
	var sending sync.WaitGroup
	const senders = 4
	var failed [senders]error
	for n := range senders {
		sending.Go(func() { failed[n] = enqueueAll(ctx, enqueue, n*fullJobs/senders, fullJobs/senders) })
	}
	sending.Wait()
	if err := errors.Join(failed[:]...); err != nil {
		return s, err
	}
	select {
	case <-all:
	case <-ctx.Done():
		return s, fmt.Errorf("%d of %d jobs done: %w", done.Load(), fullJobs, ctx.Err())
	}
	if err := stopWork(); err != nil { // it waits for the outcomes
		return s, err
	}
	s.rate = fullJobs / time.Since(begun).Seconds()
	used, err := cpuTime(i.pid("notifier"))
	if err != nil {
		return s, err
	}
	s.cpu = float64((used - cpu).Microseconds()) / fullJobs
	after, err := i.metrics()
	if err != nil {
		return s, err
	}
	stopRenewing()
	if renewal.Wait(); renewed != nil {
		return s, renewed
	}
	if open := after["spillway_notifier_sessions"]; open < .9*float64(people) {
		return s, fmt.Errorf("%.0f of %d clients were connected at the end", open, people)
	}
	if fell := after["spillway_notifier_slow_total"] - before["spillway_notifier_slow_total"]; fell < float64(stalled) {
		return s, fmt.Errorf("%.0f sessions fell behind, %d were to", fell, stalled)
	}
	if side == allRead {
		err = c.end(ctx, fullJobs)
	} else {
		c.leave()
	}
	if err != nil {
		return s, err
	}
	if s.notifier, err = peak(i.pid("notifier")); err != nil {
		return s, err
	}
	if s.scheduler, err = peak(i.pid("scheduler")); err != nil {
		return s, err
	}
	return s, until(ctx, 20*time.Second, "the notifier has seen its clients go", func() (bool, error) {
		m, err := i.metrics()
		return m["spillway_notifier_sessions"] == 0, err
	})
}

// enqueueAll sends jobs as fast as they are accepted.
func enqueueAll(ctx context.Context, to *client.Client, from, count int) error {
	const batch = 250
	for count > 0 {
		jobs := make([]client.Job, min(batch, count))
		for n := range jobs {
			jobs[n] = client.Job{Source: benchSource, Tenant: benchTenant, Type: workType, Payload: letter(time.Now(), from+n)[:64]}
		}
		for _, item := range to.EnqueueBatch(ctx, jobs) {
			if item.Err != nil {
				return item.Err
			}
		}
		from, count = from+len(jobs), count-len(jobs)
	}
	return nil
}

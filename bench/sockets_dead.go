package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/subscriber"
	"github.com/spillway/spillway/pkg/worker"
)

const (
	deadSources = 20
	workRate    = 200 // jobs/s of all sources: 10 of each
	notifyRate  = 40  // 2 of each
	deadWarm    = 5 * time.Second
	deadQuiet   = 15 * time.Second
	deadFor     = 60 * time.Second
	// catchUp outlasts a lease, for the job that ran in the notifier when it was killed, and what 60 s without it leave.
	catchUp = 90 * time.Second
)

// deadRun is what a run without a notifier has shown. Times are in milliseconds, memory in MiB.
type deadRun struct {
	quiet, dead, worst          float64
	waiting                     float64 // notifications that had not arrived when the notifier started
	late                        float64 // s from then to the last notification
	missed, twice, gaps, broken float64
	notifier, scheduler         float64
}

// socketsDead measures what jobs see of a notifier that is not there, and what its jobs do when it comes back.
func (b *bench) socketsDead(ctx context.Context, runs int) error {
	fmt.Printf("\nThe notifier is killed and not there for %v. %d sources, each with 10 jobs/s of 20 ms and 2 jobs/s of type notify, %d slots, %d runs.\n",
		deadFor, deadSources, slots, runs)
	fmt.Println("A wait is from when a job was due until its handler began; the first 5 s do not count. One websocket client comes back with its cursor.")
	var all []deadRun
	for range runs {
		r, err := b.deadOnce(ctx)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	column := func(of func(deadRun) float64) string {
		var values []float64
		for _, r := range all {
			values = append(values, of(r))
		}
		return show(values)
	}
	fmt.Printf("\n| | measured | asked |\n|---|---|---|\n")
	fmt.Printf("| wait p99, notifier alive, 15 s | %s ms | |\n", column(func(r deadRun) float64 { return r.quiet }))
	fmt.Printf("| wait p99, no notifier | %s ms | ≤ %s ms: max(1.1 ×, + 5 ms) in each run |\n",
		column(func(r deadRun) float64 { return r.dead }), column(func(r deadRun) float64 { return limit(r.quiet) }))
	fmt.Printf("| the second over the first | %s | |\n", column(func(r deadRun) float64 { return r.dead / r.quiet }))
	fmt.Printf("| the longest wait, no notifier | %s ms | |\n", column(func(r deadRun) float64 { return r.worst }))
	fmt.Printf("| notifications that waited; from the notifier's start to the last of them | %s; %s s | |\n",
		column(func(r deadRun) float64 { return r.waiting }), column(func(r deadRun) float64 { return r.late }))
	fmt.Printf("| notifications missed, of %.0f | %s | 0, or a gap |\n", float64(notifyRate)*(deadWarm+deadQuiet+deadFor).Seconds(), column(func(r deadRun) float64 { return r.missed }))
	fmt.Printf("| notifications that came twice; gaps; times the client came back | %s; %s; %s | |\n", column(func(r deadRun) float64 { return r.twice }),
		column(func(r deadRun) float64 { return r.gaps }), column(func(r deadRun) float64 { return r.broken }))
	fmt.Printf("| jobs lost | **0** of %.0f a run | 0 |\n", float64(workRate+notifyRate)*(deadWarm+deadQuiet+deadFor).Seconds())
	fmt.Printf("| notifier RSS, the higher of both; scheduler RSS | %s; %s MiB | |\n", column(func(r deadRun) float64 { return r.notifier }), column(func(r deadRun) float64 { return r.scheduler }))
	return nil
}

func (b *bench) deadOnce(ctx context.Context) (r deadRun, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	i, err := b.install("--notifiers", "0") // dev would start it again at once
	if i != nil {
		defer i.stop()
	}
	if err != nil {
		return r, err
	}
	n, err := i.newNotifier()
	if err != nil {
		return r, err
	}
	defer func() { n.stop() }()
	if err := n.start(ctx); err != nil {
		return r, err
	}
	for s := range deadSources {
		if err := i.register(sourceName(s), nil, workType, "notify"); err != nil {
			return r, err
		}
	}
	enqueue, err := client.Dial(i.File.Endpoints.Enqueue, client.WithToken(i.File.Tokens.Service))
	if err != nil {
		return r, err
	}
	defer enqueue.Close()

	in := &inbox{seen: make([]int, int(notifyRate*(deadWarm+deadQuiet+deadFor).Seconds()))}
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	reading.Go(func() { in.listen(ctx, i, n.websocket()) })
	if err := until(ctx, readyTime, "the client is subscribed", func() (bool, error) { return in.subscribed.Load(), nil }); err != nil {
		return r, err
	}

	waits := make([]atomic.Int64, int(workRate*(deadWarm+deadQuiet+deadFor).Seconds()))
	stopWork, err := i.work(ctx, func(ctx context.Context, job *worker.Job) error {
		now := time.Now()
		due, number, ok := opened(job.Payload)
		if !ok {
			return worker.Permanent(errors.New("no letter"))
		}
		waits[number].CompareAndSwap(0, int64(max(1, now.Sub(due)))) // an attempt after the first does not count
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
			return nil
		}
	})
	if err != nil {
		return r, err
	}
	defer stopWork()

	// Two senders and one death; whoever fails first ends the others.
	begun := time.Now()
	total := deadWarm + deadQuiet + deadFor
	var sending sync.WaitGroup
	var failed [3]error
	run := func(n int, f func() error) {
		sending.Go(func() {
			if failed[n] = f(); failed[n] != nil {
				cancel()
			}
		})
	}
	run(0, func() error {
		return openLoop(ctx, begun, workRate, total, func(n int, due time.Time) error {
			_, err := enqueue.Enqueue(ctx, client.Job{Source: sourceName(n), Tenant: benchTenant, Type: workType, Payload: letter(due, n)})
			return err
		})
	})
	run(1, func() error {
		return openLoop(ctx, begun, notifyRate, total, func(n int, due time.Time) error {
			job, err := client.Job{Source: sourceName(n), Tenant: benchTenant, Type: "notify"}.WithJSON(map[string]any{
				"channel": benchChannel, "class": "EVENT", "data": json.RawMessage(letter(due, n)),
			})
			if err == nil {
				_, err = enqueue.Enqueue(ctx, job)
			}
			return err
		})
	})
	run(2, func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(begun.Add(deadWarm + deadQuiet))):
		}
		var err error
		r.notifier, err = peak(n.cmd.Process.Pid)
		n.kill()
		return err
	})
	sending.Wait()
	for _, err := range failed {
		if err != nil && !errors.Is(err, context.Canceled) {
			return r, err
		}
	}
	if err := ctx.Err(); err != nil {
		return r, err
	}

	r.waiting = float64(len(in.seen)) - float64(in.distinct.Load())
	if r.waiting < notifyRate*deadFor.Seconds() {
		return r, fmt.Errorf("only %.0f notifications waited: somebody brought the others without a notifier", r.waiting)
	}
	back := time.Now()
	if err := n.start(ctx); err != nil {
		return r, err
	}
	// After a gap what is missing may never come, and catchUp bounds the wait.
	_ = until(ctx, catchUp, "every notification has arrived", func() (bool, error) { return in.distinct.Load() == int64(len(in.seen)), nil })
	if err := stopWork(); err != nil {
		return r, err
	}
	if err := i.intact(len(waits) + len(in.seen)); err != nil {
		return r, err
	}
	restarted, err := peak(n.cmd.Process.Pid)
	if err != nil {
		return r, err
	}
	r.notifier = max(r.notifier, restarted)
	if r.scheduler, err = peak(i.pid("scheduler")); err != nil {
		return r, err
	}
	cancel()
	reading.Wait()
	r.late, r.gaps, r.broken = in.last.Sub(back).Seconds(), float64(in.gaps), float64(in.broken)
	for _, times := range in.seen {
		if times == 0 {
			r.missed++
		} else {
			r.twice += float64(times - 1)
		}
	}
	if r.missed > 0 && in.gaps == 0 {
		return r, fmt.Errorf("%.0f notifications are missing without a gap", r.missed)
	}
	from := func(d time.Duration) int { return int(workRate * d.Seconds()) }
	p99 := func(part []atomic.Int64) (float64, float64) {
		sorted := make([]time.Duration, len(part))
		for n := range part {
			sorted[n] = time.Duration(part[n].Load())
		}
		slices.Sort(sorted)
		return at(sorted, .99), at(sorted, 1)
	}
	r.quiet, _ = p99(waits[from(deadWarm):from(deadWarm+deadQuiet)])
	r.dead, r.worst = p99(waits[from(deadWarm+deadQuiet):])
	return r, nil
}

// sourceName is the source of the n-th job.
func sourceName(n int) string { return fmt.Sprintf("source-%02d", n%deadSources) }

// inbox is what one websocket client has got.
type inbox struct {
	subscribed   atomic.Bool
	distinct     atomic.Int64
	seen         []int // how often each came; read it when listen has returned, as what follows
	gaps, broken int
	last         time.Time // when the last one came that had not come before
}

// listen reads until ctx ends. Each time its connection ends it comes back with its cursor.
func (in *inbox) listen(ctx context.Context, i *installation, url string) {
	cursor := ""
	for ctx.Err() == nil {
		if s, err := in.connect(ctx, i, url, cursor); err == nil {
			in.read(ctx, s)
			cursor = s.Cursor()
			s.Cut()
			in.broken++
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond): // a client that comes back does not hammer
		}
	}
	in.broken-- // the end is no accident
}

func (in *inbox) connect(ctx context.Context, i *installation, url, cursor string) (*subscriber.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	token, err := i.token("reader")
	if err != nil {
		return nil, err
	}
	return subscriber.Dial(ctx, url, subscriber.Config{Token: token, Channels: []string{benchChannel}, Cursor: cursor})
}

func (in *inbox) read(ctx context.Context, s *subscriber.Session) {
	for {
		e, err := s.Next(ctx)
		if err != nil {
			return
		}
		switch e.T {
		case subscriber.Sub:
			in.subscribed.Store(e.OK)
		case subscriber.Gap:
			in.gaps++
		case subscriber.Msg:
			if _, n, ok := opened(e.Data); ok && n < len(in.seen) {
				if in.seen[n]++; in.seen[n] == 1 {
					in.last = time.Now()
					in.distinct.Add(1)
				}
			}
		}
	}
}

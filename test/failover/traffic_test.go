package failover

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/worker"
)

const (
	// sources spread the jobs over all shards.
	sources = 24
	// answerLimit outlasts the service's own 20 s.
	answerLimit = 30 * time.Second
	// slots run what is short, longSlots what runs through a broker's death.
	slots, longSlots = 64, 128
	longLeast        = 5 * time.Second
	longMost         = 20 * time.Second // where brokers are away for as long
	longEmbedded     = 10 * time.Second
	shortWork        = 5 * time.Millisecond
	// floodType is the type of jobs that nobody keeps an account of.
	floodType = "flood"
)

// job is what the account knows of one.
type job struct {
	source   int
	long     bool
	sent     time.Time
	answered time.Time // zero: not yet
	accepted bool
	fate     string // of a call that failed: the reason
	started  []time.Time
	ended    int
}

// traffic is a generator, its workers, and their account.
type traffic struct {
	t       testing.TB
	client  *client.Client
	most    time.Duration      // that a long job takes
	stop    context.CancelFunc // of the generator
	sending sync.WaitGroup     // the generator and its calls
	working sync.WaitGroup
	halt    context.CancelFunc // of the workers

	mu        sync.Mutex
	jobs      []*job // a job's payload is its index
	cancelled []string
}

// begin sends rate short jobs a second and long ones, of at most most, until end,
// after a job of each kind of every source, so that all of them are registered.
func (w *world) begin(rate int, long float64, most time.Duration) *traffic {
	w.t.Helper()
	c, err := client.Dial(w.enqueue.grpc, client.WithToken(w.token))
	if err != nil {
		w.t.Fatal(err)
	}
	tr := &traffic{t: w.t, client: c, most: most}
	working, halt := context.WithCancel(context.Background())
	tr.halt = halt
	var schedulers []string
	for _, s := range w.schedulers {
		schedulers = append(schedulers, s.grpc)
	}
	for i, kind := range []string{"short", "short", "long"} {
		n := slots / 2
		if kind == "long" {
			n = longSlots
		}
		agent, err := worker.New(worker.Config{
			Schedulers: strings.Join(schedulers, ","), Token: w.token, Concurrency: n, Version: fmt.Sprint("failover-", i),
			Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		})
		if err != nil {
			w.t.Fatal(err)
		}
		agent.Handle(kind, tr.handle)
		if kind == "short" {
			agent.Handle(floodType, func(context.Context, *worker.Job) error { return nil })
		}
		tr.working.Go(func() {
			if err := agent.Run(working); err != nil {
				w.t.Errorf("worker: %v", err)
			}
		})
	}
	for source := range sources {
		for _, long := range []bool{false, true} {
			tr.enqueue(source, long)
		}
	}
	if a := tr.count(); a.accepted != 2*sources {
		w.t.Fatalf("before any fault only %d of %d jobs were accepted: %v", a.accepted, 2*sources, a.fates)
	}
	sending, stop := context.WithCancel(context.Background())
	tr.stop = stop
	tr.sending.Go(func() { tr.send(sending, float64(rate), long) })
	w.t.Cleanup(func() {
		stop()
		halt()
		tr.sending.Wait()
		tr.working.Wait()
		c.Close()
	})
	return tr
}

// send sends on a schedule, whatever the answers do.
func (tr *traffic) send(ctx context.Context, rate, long float64) {
	draw := rand.New(rand.NewPCG(*seed, 7))
	began := time.Now()
	for due := time.Duration(0); ; {
		due += time.Duration((0.5 + draw.Float64()) * float64(time.Second) / (rate + long))
		isLong, source := draw.Float64() < long/(rate+long), draw.IntN(sources)
		timer := time.NewTimer(time.Until(began.Add(due)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		tr.sending.Go(func() { tr.enqueue(source, isLong) })
	}
}

func (tr *traffic) enqueue(source int, long bool) {
	j := &job{source: source, long: long, sent: time.Now()}
	tr.mu.Lock()
	id := len(tr.jobs)
	tr.jobs = append(tr.jobs, j)
	tr.mu.Unlock()
	kind := "short"
	if long {
		kind = "long"
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerLimit)
	defer cancel()
	_, err := tr.client.Enqueue(ctx, client.Job{
		Source: fmt.Sprintf("failover-%02d", source), Type: kind, Payload: []byte(strconv.Itoa(id)), Key: fmt.Sprintf("%d-%d", *seed, id),
	})
	tr.mu.Lock()
	defer tr.mu.Unlock()
	j.answered, j.accepted = time.Now(), err == nil
	if err != nil {
		j.fate = client.Reason(err)
		if !client.Refused(err) {
			j.fate = "FATE_UNKNOWN"
		}
	}
}

// handle runs a job, and notes if its context ends before it is done.
func (tr *traffic) handle(ctx context.Context, run *worker.Job) error {
	id, err := strconv.Atoi(string(run.Payload))
	if err != nil {
		return worker.Permanent(err)
	}
	began := time.Now()
	tr.mu.Lock()
	j := tr.jobs[id]
	j.started = append(j.started, began)
	work := shortWork
	if j.long {
		work = longLeast + time.Duration(id)*time.Millisecond*997%(tr.most-longLeast)
	}
	tr.mu.Unlock()
	timer := time.NewTimer(work)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		tr.mu.Lock()
		tr.cancelled = append(tr.cancelled, fmt.Sprintf("job %d after %s of %s: %v", id, time.Since(began).Round(time.Millisecond), work, context.Cause(ctx)))
		tr.mu.Unlock()
		return context.Cause(ctx)
	}
	tr.mu.Lock()
	j.ended++
	tr.mu.Unlock()
	return nil
}

// running is how many handlers run now.
func (tr *traffic) running() (n int) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	for _, j := range tr.jobs {
		n += len(j.started) - j.ended
	}
	return n - len(tr.cancelled)
}

// account is what became of the jobs.
type account struct {
	sent, accepted, refused, unknown, lost, duplicates int
	cancelled                                          []string
	fates                                              map[string]int
}

// end stops sending, waits until what was accepted is done, at most for limit,
// and returns the account.
func (tr *traffic) end(limit time.Duration) account {
	tr.t.Helper()
	tr.stop()
	tr.sending.Wait()
	deadline := time.Now().Add(limit)
	a := tr.count()
	for a.lost > 0 && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
		a = tr.count()
	}
	for tr.running() > 0 && time.Now().Before(deadline) { // of unknown fate, and second runs
		time.Sleep(50 * time.Millisecond)
	}
	a = tr.count()
	tr.halt()
	tr.working.Wait()
	return a
}

func (tr *traffic) count() account {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	a := account{sent: len(tr.jobs), cancelled: tr.cancelled, fates: make(map[string]int)}
	for _, j := range tr.jobs {
		switch {
		case j.accepted:
			a.accepted++
			if j.ended == 0 {
				a.lost++
			}
		case j.fate == "FATE_UNKNOWN":
			a.unknown++
		default:
			a.refused++
		}
		if j.fate != "" {
			a.fates[j.fate]++
		}
		a.duplicates += max(0, len(j.started)-1)
	}
	return a
}

// back says when it worked again after a time, zero if it did not: first and last
// are over the sources, of which everyone has had jobs since.
type back struct {
	firstAccept, lastAccept time.Time
	firstGrant, lastGrant   time.Time
}

// since looks at the jobs that were sent after a moment, and at when jobs were
// granted that had been accepted after it.
func (tr *traffic) since(at time.Time) back {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	accepted, granted := make(map[int]time.Time), make(map[int]time.Time)
	for _, j := range tr.jobs {
		if j.sent.Before(at) || j.long {
			continue
		}
		if j.accepted && (accepted[j.source].IsZero() || j.answered.Before(accepted[j.source])) {
			accepted[j.source] = j.answered
		}
		if len(j.started) > 0 && (granted[j.source].IsZero() || j.started[0].Before(granted[j.source])) {
			granted[j.source] = j.started[0]
		}
	}
	var b back
	b.firstAccept, b.lastAccept = span(accepted)
	b.firstGrant, b.lastGrant = span(granted)
	return b
}

// span is the first and the last of the times; the last is zero while a source is
// missing.
func span(of map[int]time.Time) (first, last time.Time) {
	for _, t := range of {
		if first.IsZero() || t.Before(first) {
			first = t
		}
		if t.After(last) {
			last = t
		}
	}
	if len(of) < sources {
		last = time.Time{}
	}
	return first, last
}

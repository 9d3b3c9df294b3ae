package system

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/worker"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// tally is what handlers did, by job id.
type tally struct {
	mu    sync.Mutex
	runs  map[string]int
	since map[string]time.Time     // when the latest run began
	wait  map[string]time.Duration // from acceptance to the first run
	all   int
}

// add counts a run of a job and returns how many it had.
func (t *tally) add(id string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.runs == nil {
		t.runs, t.since, t.wait = map[string]int{}, map[string]time.Time{}, map[string]time.Duration{}
	}
	t.runs[id]++
	t.since[id] = time.Now()
	t.all++
	return t.runs[id]
}

// run counts a run of a job and what it had waited.
func (t *tally) run(job *worker.Job) int {
	n := t.add(job.ID)
	t.mu.Lock()
	defer t.mu.Unlock()
	if n == 1 {
		t.wait[job.ID] = time.Since(job.AcceptedAt)
	}
	return n
}

// handler runs each job for d.
func (t *tally) handler(d time.Duration) worker.Handler {
	return func(ctx context.Context, job *worker.Job) error {
		t.run(job)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return nil
		}
	}
}

func (t *tally) total() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}

func (t *tally) of(id string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.runs[id]
}

// waited is how long a job waited for its first run.
func (t *tally) waited(id string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.wait[id]
}

// again is the number of runs beyond the first of each job.
func (t *tally) again() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all - len(t.runs)
}

// nameIn makes the name of a source that belongs to a shard.
func nameIn(shard int, prefix string) string {
	for n := 0; ; n++ {
		if name := fmt.Sprint(prefix, n); envelope.Shard(name, shards) == shard {
			return name
		}
	}
}

// accepted is a job that enqueue has answered for.
type accepted struct {
	id, source string
	at         time.Time
}

// send enqueues n jobs of a source and returns their ids. None may be refused.
func (w *world) send(c *client.Client, source string, n int, change ...func(*client.Job)) (ids []string) {
	w.t.Helper()
	for n > 0 {
		jobs := make([]client.Job, min(n, 500))
		for i := range jobs {
			jobs[i] = client.Job{Source: source, Type: "tag"}
			for _, c := range change {
				c(&jobs[i])
			}
		}
		for _, item := range c.EnqueueBatch(w.ctx, jobs) {
			if item.Err != nil {
				w.t.Fatal(source, ": ", item.Err)
			}
			ids = append(ids, item.Result.JobID)
		}
		n -= len(jobs)
	}
	return ids
}

// traffic sends one job of each source every so often, until stop is called, which returns what was accepted. Errors are the caller's to judge: a
// job whose fate is unknown is in neither list.
func (w *world) traffic(c *client.Client, every time.Duration, sources ...string) (stop func() []accepted) {
	var mu sync.Mutex
	var list []accepted
	var calls sync.WaitGroup
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			for _, source := range sources {
				calls.Go(func() {
					at := time.Now()
					r, err := c.Enqueue(w.ctx, client.Job{Source: source, Type: "tag"})
					mu.Lock()
					defer mu.Unlock()
					if err == nil {
						list = append(list, accepted{r.JobID, source, at})
					}
				})
			}
		}
	}()
	return func() []accepted {
		close(end)
		<-ended
		calls.Wait()
		return list
	}
}

// drained waits until every accepted job has an outcome, and checks that it has one and ran (I1, I12).
func (w *world) drained(within time.Duration, ran *tally, ids ...string) *ledger {
	w.t.Helper()
	var l *ledger
	began := time.Now()
	missing := func() (n int, example string) {
		l = w.outcomes()
		for _, id := range ids {
			if len(l.settled[id]) == 0 {
				n, example = n+1, id
			}
		}
		return n, example
	}
	for n, id := missing(); n > 0; n, id = missing() {
		if time.Since(began) > within {
			w.t.Fatalf("%d of %d jobs have no outcome after %v, such as %s, which ran %d times", n, len(ids), within, id, ran.of(id))
		}
		time.Sleep(250 * time.Millisecond)
	}
	for _, id := range ids {
		if !one(l.settled[id]) || ran != nil && ran.of(id) == 0 {
			w.t.Errorf("%s ran %d times and has outcomes %v", id, ran.of(id), l.settled[id])
		}
	}
	return l
}

func idsOf(list []accepted) []string {
	ids := make([]string, len(list))
	for i := range list {
		ids[i] = list[i].id
	}
	return ids
}

// one reports whether the events say one thing: the same outcome of the same lease. An event may stand in the log twice, after a produce
// whose fate was unknown.
func one(events []*logv1.Settled) bool {
	for _, e := range events {
		if e.GetOutcome() != events[0].GetOutcome() || !proto.Equal(e.GetToken(), events[0].GetToken()) {
			return false
		}
	}
	return len(events) > 0
}

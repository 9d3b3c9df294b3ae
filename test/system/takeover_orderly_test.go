package system

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/worker"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
)

// judge watches what handlers do: no two runs of a job at a time and rising tokens (I5), and how many jobs of a source run together (I7).
type judge struct {
	tally
	mu      sync.Mutex
	wrong   []string
	last    map[string]worker.Token
	running map[string]int // by job
	busy    map[string]int // by source
	most    map[string]int // by source
}

// watch makes a handler that runs jobs for as long as of says.
func (j *judge) watch(of func(*worker.Job) time.Duration) worker.Handler {
	return func(ctx context.Context, job *worker.Job) error {
		j.run(job)
		j.mu.Lock()
		if j.last == nil {
			j.last, j.running, j.busy, j.most = map[string]worker.Token{}, map[string]int{}, map[string]int{}, map[string]int{}
		}
		if j.running[job.ID] > 0 {
			j.wrong = append(j.wrong, fmt.Sprintf("%v: %s of %s, accepted at %v, runs under %v while it runs under %v", time.Now().Format("04:05.000"), job.ID,
				job.Source, job.AcceptedAt.Format("04:05.000"), job.Token, j.last[job.ID]))
		}
		if last, again := j.last[job.ID]; again && !last.Before(job.Token) {
			j.wrong = append(j.wrong, fmt.Sprintf("%s runs under %v after %v", job.ID, job.Token, last))
		}
		j.last[job.ID] = job.Token
		j.running[job.ID]++
		j.busy[job.Source]++
		j.most[job.Source] = max(j.most[job.Source], j.busy[job.Source])
		j.mu.Unlock()
		defer func() {
			j.mu.Lock()
			defer j.mu.Unlock()
			j.running[job.ID]--
			j.busy[job.Source]--
		}()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(of(job)):
			return nil
		}
	}
}

// takes is for jobs that all run for d.
func takes(d time.Duration) func(*worker.Job) time.Duration {
	return func(*worker.Job) time.Duration { return d }
}

// verdict fails the test for what was wrong.
func (j *judge) verdict(t *testing.T) {
	t.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, wrong := range j.wrong[:min(len(j.wrong), 10)] {
		t.Error(wrong)
	}
}

// worst is the longest wait of jobs that were accepted from one time to another.
func (j *judge) worst(list []accepted, from, to time.Time) (worst time.Duration) {
	for _, job := range list {
		if !job.at.Before(from) && job.at.Before(to) {
			worst = max(worst, j.waited(job.id))
		}
	}
	return worst
}

// busySources limits how many jobs of a source run at a time.
func busySources(n int32) func(*automationv1.Source) {
	return func(s *automationv1.Source) { s.Quota = &automationv1.Quota{Concurrency: &n} }
}

// TestRunningJobsAreHandedOver: a scheduler stops in order while jobs run for longer than its stop. They go on under the next owner, which settles
// them; what waits behind them runs at once; the quota counts what runs (H6, I5, I7, I13).
func TestRunningJobsAreHandedOver(t *testing.T) {
	for _, others := range []int{0, 1} {
		t.Run(fmt.Sprint(others, " others"), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				var sources []string
				for shard := range shards {
					sources = append(sources, nameIn(shard, "s"))
					w.register(sources[shard], busySources(3))
				}
				w.enqueue(0)
				ran := &judge{}
				first := w.scheduler(0)
				for n := range others {
					w.scheduler(1 + n)
				}
				long := func(job *worker.Job) time.Duration {
					if string(job.Payload) == "long" {
						return 25 * time.Second
					}
					return 0
				}
				for range 2 {
					w.worker(8, ran.watch(long))
				}
				c := w.caller()
				defer c.Close()
				var running, waiting []string
				for _, source := range sources {
					running = append(running, w.send(c, source, 2, payload("long"))...)
				}
				w.until("they run", 20*time.Second, func() bool { return ran.total() == len(running) })
				time.Sleep(7 * time.Second)
				stopped := time.Now()
				if err := first.stop(); err != nil {
					t.Fatal(err)
				}
				took := time.Since(stopped)
				if others == 0 {
					w.scheduler(1)
				}
				began := time.Now()
				for _, source := range sources {
					waiting = append(waiting, w.send(c, source, 20)...)
				}
				within := time.Second
				if others == 0 {
					within = 10 * time.Second // workers look for a scheduler every few seconds when there is none
				}
				w.until("what waits has run", within, func() bool { return ran.total() == len(running)+len(waiting) })
				t.Logf("the stop took %v, what waited ran %v later", took, time.Since(began))
				l := w.drained(40*time.Second, &ran.tally, append(running, waiting...)...)
				if n := ran.again(); n != 0 || len(l.attempts) != 0 {
					t.Errorf("%d second runs, %d attempts used up", n, len(l.attempts))
				}
				for source, most := range ran.most {
					if most > 3 {
						t.Errorf("%d jobs of %s ran at a time", most, source)
					}
				}
				ran.verdict(t)
			})
		})
	}
}

// TestScaleOutAndIn: one scheduler, then three, then one again, under load and with jobs that run through all of it: nothing runs twice, and nothing
// waits for much longer than the group needs to form its generation (F5, F19, H28).
func TestScaleOutAndIn(t *testing.T) {
	for seed := range 3 {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				sources := w.onePerShard(fmt.Sprint("s", seed, "-"))
				w.enqueue(0)
				ran := &judge{}
				long := func(job *worker.Job) time.Duration {
					if string(job.Payload) == "long" {
						return 30 * time.Second
					}
					return time.Duration(5+seed*20) * time.Millisecond
				}
				processes := []*process{w.scheduler(0)}
				for range 3 {
					w.worker(16, ran.watch(long))
				}
				c := w.caller()
				defer c.Close()
				var ids []string
				for _, source := range sources {
					ids = append(ids, w.send(c, source, 4, payload("long"))...)
				}
				stop := w.traffic(c, 20*time.Millisecond, sources...)
				time.Sleep(3 * time.Second)
				steady := time.Now()
				time.Sleep(2 * time.Second)
				began := time.Now()
				for n := 1; n <= 2; n++ {
					processes = append(processes, w.scheduler(n))
				}
				w.until("three have shards", 10*time.Second, func() bool { return len(w.owners()) == 3 })
				time.Sleep(3 * time.Second)
				for _, p := range processes[1:] {
					if err := p.stop(); err != nil {
						t.Error(err)
					}
					time.Sleep(3 * time.Second)
				}
				ended := time.Now()
				time.Sleep(time.Second)
				list := stop()
				l := w.drained(60*time.Second, &ran.tally, append(ids, idsOf(list)...)...)
				if n := ran.again(); n != 0 || len(l.attempts) != 0 {
					t.Errorf("%d second runs, %d attempts used up", n, len(l.attempts))
				}
				ran.verdict(t)
				quiet, worst := ran.worst(list, steady, began), ran.worst(list, began, ended)
				if worst > 1500*time.Millisecond { // a heartbeat of 0.5 s tells of a rebalance, another one who is to join
					t.Errorf("a job waited %v", worst)
				}
				t.Logf("%d jobs, the longest wait %v before and %v meanwhile, %d fences", len(list), quiet, worst, l.fences)
			})
		})
	}
}

// TestTwoHandovers: two schedulers in a row stop in order while jobs run that the first one granted.
func TestTwoHandovers(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		sources := w.onePerShard("s")
		w.enqueue(0)
		ran := &judge{}
		first := w.scheduler(0)
		for range 2 {
			w.worker(8, ran.watch(takes(40*time.Second)))
		}
		c := w.caller()
		defer c.Close()
		var ids []string
		for _, source := range sources {
			ids = append(ids, w.send(c, source, 3)...)
		}
		w.until("they run", 5*time.Second, func() bool { return ran.total() == len(ids) })
		second := w.scheduler(1)
		w.until("both have shards", 10*time.Second, func() bool { return len(w.owners()) == 2 })
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		third := w.scheduler(2)
		w.until("two have shards", 10*time.Second, func() bool { return len(w.owners()) == 2 })
		if err := second.stop(); err != nil {
			t.Fatal(err)
		}
		w.until("one has all", 10*time.Second, func() bool { return len(w.owners()["scheduler-2"]) == shards })
		time.Sleep(time.Second)
		if err := third.stop(); err != nil {
			t.Fatal(err)
		}
		w.scheduler(0)
		l := w.drained(60*time.Second, &ran.tally, ids...)
		if n := ran.again(); n != 0 || len(l.attempts) != 0 {
			t.Errorf("%d second runs, %d attempts used up", n, len(l.attempts))
		}
		ran.verdict(t)
	})
}

// TestWorkerThatNeverShowsUp: a lease that was handed over and whose worker is gone ends after its TTL, and the job runs elsewhere; that is an
// attempt (H15).
func TestWorkerThatNeverShowsUp(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := nameIn(2, "s")
		w.register(source)
		w.enqueue(0)
		first := w.scheduler(0)
		lost, ran := &tally{}, &tally{}
		gone := w.worker(4, lost.handler(time.Minute))
		c := w.caller()
		defer c.Close()
		ids := w.send(c, source, 4)
		w.until("they run", 5*time.Second, func() bool { return lost.total() == len(ids) })
		began := time.Now()
		gone.kill()
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		w.worker(4, ran.handler(0))
		w.scheduler(1)
		w.until("they run elsewhere", 40*time.Second, func() bool { return ran.total() == len(ids) })
		if took := time.Since(began); took < 15*time.Second || took > 30*time.Second {
			t.Errorf("after %v", took)
		}
		if l := w.drained(5*time.Second, ran, ids...); len(l.attempts) != len(ids) {
			t.Errorf("%d attempts", len(l.attempts))
		}
	})
}

// TestCrashAfterAHandover: the owner that inherited leases dies. What runs goes on under a third one, and what waits on workers that nobody can ask
// waits for the quarantine (I5, H6).
func TestCrashAfterAHandover(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		sources := w.onePerShard("s")
		w.enqueue(0)
		ran := &judge{}
		first := w.scheduler(0)
		for range 2 {
			w.worker(8, ran.watch(takes(25*time.Second)))
		}
		c := w.caller()
		defer c.Close()
		var ids []string
		for _, source := range sources {
			ids = append(ids, w.send(c, source, 6)...) // more than there are slots
		}
		w.until("the slots are full", 5*time.Second, func() bool { return ran.total() == 16 })
		victim := w.scheduler(1)
		w.until("both have shards", 10*time.Second, func() bool { return len(w.owners()) == 2 })
		if err := first.stop(); err != nil {
			t.Fatal(err)
		}
		w.until("the second has all", 10*time.Second, func() bool { return len(w.owners()["scheduler-1"]) == shards })
		victim.kill()
		w.scheduler(2)
		w.drained(120*time.Second, &ran.tally, ids...)
		if n := ran.again(); n != 0 {
			t.Errorf("%d second runs", n)
		}
		ran.verdict(t)
	})
}

// TestScaleOutInQuarantine: right after a crash, members come: what waits in quarantine waits no longer than it would have, and what came after the
// crash does not wait for it, whoever owns it.
func TestScaleOutInQuarantine(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		sources := w.onePerShard("s")
		w.enqueue(0)
		ran := &judge{}
		victim := w.scheduler(0)
		w.worker(8, ran.watch(takes(5*time.Millisecond)))
		c := w.caller()
		defer c.Close()
		w.scheduler(1)
		w.until("both have shards", 20*time.Second, func() bool { return len(w.owners()) == 2 })
		theirs := w.owners()["scheduler-0"]
		stop := w.traffic(c, 50*time.Millisecond, sources...)
		time.Sleep(2 * time.Second)
		died := time.Now()
		victim.kill()
		w.until("the other has all shards", 15*time.Second, func() bool { return len(w.owners()["scheduler-1"]) == shards })
		took := time.Now()
		time.Sleep(3 * time.Second)
		w.scheduler(2)
		w.until("two have shards", 10*time.Second, func() bool { return len(w.owners()) == 2 })
		time.Sleep(2 * time.Second)
		list := stop()
		l := w.drained(60*time.Second, &ran.tally, idsOf(list)...)
		fresh := ran.worst(list, took.Add(time.Second), time.Now())
		old := ran.worst(list, died, took)
		if fresh > 1500*time.Millisecond || old > 38*time.Second {
			t.Errorf("what came after the takeover waited %v, what came before %v", fresh, old)
		}
		var others time.Duration
		for _, job := range list {
			if !slices.Contains(theirs, int32(envelope.Shard(job.source, shards))) {
				others = max(others, ran.waited(job.id))
			}
		}
		ran.verdict(t)
		t.Logf("%d jobs: fresh ones waited %v, those of other shards %v, those in quarantine %v; %d ran again, %d fences", len(list), fresh, others, old, ran.again(), l.fences)
	})
}

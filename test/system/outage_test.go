package system

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/worker"
)

// TestSuspendedOwnerResumes: a scheduler that is cut from the broker for 10 s keeps its engine and its running jobs, and goes on where it was
// when the group gives it its shards back: no fence, no second run, no cancelled job (H16, H34, F3).
func TestSuspendedOwnerResumes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		sources := w.onePerShard("s")
		w.enqueue(0)
		ran := &tally{}
		var cancelled atomic.Int64
		p := w.scheduler(0)
		w.worker(16, func(ctx context.Context, job *worker.Job) error {
			err := ran.handler(8*time.Second)(ctx, job)
			if err != nil {
				cancelled.Add(1)
			}
			return err
		})
		c := w.caller()
		defer c.Close()
		var ids []string
		for _, source := range sources {
			ids = append(ids, w.send(c, source, 6)...)
		}
		time.Sleep(5 * time.Second)
		before := w.outcomes().fences
		p.broker.cut()
		for _, source := range sources {
			ids = append(ids, w.send(c, source, 6)...)
		}
		time.Sleep(10 * time.Second)
		p.broker.mend()
		l := w.drained(60*time.Second, ran, ids...)
		if l.fences != before {
			t.Errorf("%d fences, %d before the cut: the shards were read again", l.fences, before)
		}
		if n := ran.again(); n != 0 || cancelled.Load() != 0 {
			t.Errorf("%d second runs, %d cancelled", n, cancelled.Load())
		}
	})
}

// TestSuspensionEnds: without the broker a scheduler renews leases for 9 s, not for ever: whoever owns its shards by then grants their jobs
// again 29 s after it took them (I5, H34).
func TestSuspensionEnds(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := nameIn(0, "s") // which scheduler-0 keeps when another comes
		w.register(source)
		w.enqueue(0)
		ran := &tally{}
		p := w.scheduler(0)
		var ended atomic.Pointer[time.Time]
		alone := w.worker(1, func(ctx context.Context, job *worker.Job) error {
			ran.run(job)
			<-ctx.Done()
			at := time.Now()
			ended.Store(&at)
			if !errors.Is(context.Cause(ctx), worker.ErrLeaseLost) {
				t.Errorf("it ended because of %v", context.Cause(ctx))
			}
			return ctx.Err()
		})
		c := w.caller()
		defer c.Close()
		ids := w.send(c, source, 1)
		w.until("it runs", time.Second, func() bool { return ran.total() == 1 })
		alone.peers.freeze() // it sees only the scheduler that is about to be cut off
		w.scheduler(1)
		w.until("both have shards", 20*time.Second, func() bool { return len(w.owners()) == 2 })
		cut := time.Now()
		p.broker.cut()
		w.worker(1, ran.handler(0))
		w.until("it runs again", time.Minute, func() bool { return ran.total() == 2 })
		again := time.Now()
		if at := ended.Load(); at == nil || !at.Before(again) || at.Sub(cut) > 26*time.Second {
			t.Errorf("the first run ended at %v, the second began %v after the cut", at, again.Sub(cut))
		}
		w.drained(10*time.Second, ran, ids...)
		t.Logf("the first run ended %v, the second began %v after the cut", ended.Load().Sub(cut), again.Sub(cut))
	})
}

// TestZombieIsDetached: a scheduler comes back to find that another has fenced its shards. It forgets them; what it could not write in time it
// does not write later, under whichever epoch (H5, I4, I5, F3).
func TestZombieIsDetached(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		sources := w.onePerShard("s")
		w.enqueue(0)
		ran := &tally{}
		zombie := w.scheduler(0)
		for range 2 {
			w.worker(8, ran.handler(50*time.Millisecond))
		}
		w.scheduler(1)
		w.until("both have shards", 20*time.Second, func() bool { return len(w.owners()) == 2 })
		theirs := w.owners()["scheduler-0"]
		c := w.caller()
		defer c.Close()
		stop := w.traffic(c, 100*time.Millisecond, sources...)
		time.Sleep(5 * time.Second)
		zombie.broker.cut()
		time.Sleep(10 * time.Second)
		if n := len(w.owners()["scheduler-1"]); n != shards {
			t.Errorf("the other has %d shards", n)
		}
		zombie.broker.mend()
		w.until("the shards are back", 20*time.Second, func() bool { return fmt.Sprint(w.owners()["scheduler-0"]) == fmt.Sprint(theirs) })
		time.Sleep(10 * time.Second)
		list := stop()
		l := w.drained(60*time.Second, ran, idsOf(list)...)
		if n := ran.again(); n > 16 {
			t.Errorf("%d jobs ran again, 16 were running", n)
		}
		t.Logf("%d jobs, %d ran again, %d late events, %d attempts", len(list), ran.again(), l.late, len(l.attempts))
	})
}

// TestBrokerStop: the broker is away for 5 s under load. Nothing is lost, nothing that runs is cancelled, no attempt is used up, and everything
// goes on by itself (F7, L1, H20).
func TestBrokerStop(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		sources := w.onePerShard("s")
		w.register("flood")
		w.enqueue(0)
		ran := &tally{}
		var cancelled atomic.Int64
		handler := func(ctx context.Context, job *worker.Job) error {
			d := 10 * time.Millisecond
			if string(job.Payload) == "long" {
				d = 9 * time.Second
			}
			err := ran.handler(d)(ctx, job)
			if err != nil {
				cancelled.Add(1)
			}
			return err
		}
		w.scheduler(0, small)
		for range 2 {
			w.worker(16, handler)
		}
		w.scheduler(1, small)
		w.until("both have shards", 20*time.Second, func() bool { return len(w.owners()) == 2 })
		c := w.caller()
		defer c.Close()
		var ids []string
		for _, source := range sources {
			ids = append(ids, w.send(c, source, 2, payload("long"))...)
		}
		stop := w.traffic(c, 50*time.Millisecond, sources...)
		for range 3 { // it spills, and is still draining when the broker stops
			ids = append(ids, w.send(c, "flood", 500)...)
		}
		time.Sleep(300 * time.Millisecond)
		w.broker.Stop()
		time.Sleep(5 * time.Second)
		w.broker.Resume()
		resumed := time.Now()
		before := ran.total()
		w.until("jobs run again", 10*time.Second, func() bool { return ran.total() > before+100 })
		t.Logf("running again %v after the broker", time.Since(resumed))
		time.Sleep(5 * time.Second)
		list := stop()
		l := w.drained(60*time.Second, ran, append(ids, idsOf(list)...)...)
		if n := ran.again(); n != 0 || cancelled.Load() != 0 || len(l.attempts) != 0 {
			t.Errorf("%d second runs, %d cancelled, %d attempts used up", n, cancelled.Load(), len(l.attempts))
		}
		t.Logf("%d jobs", len(ids)+len(list))
	})
}

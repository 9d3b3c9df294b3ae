package system

import (
	"fmt"
	"testing"
	"time"
)

// TestFirstOneBackIsPatient: all schedulers lose the broker for so long that the group forgets them. The first one back is given every shard, and leaves
// those of the others alone until they are back, too: everybody goes on where it was, and nothing waits for a quarantine (H16, H34).
func TestFirstOneBackIsPatient(t *testing.T) {
	for _, late := range []time.Duration{0, 300 * time.Millisecond, 1500 * time.Millisecond} {
		t.Run(fmt.Sprint(late), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				sources := w.onePerShard("s")
				w.enqueue(0)
				ran := &judge{}
				replicas := []*process{w.scheduler(0)}
				for range 2 {
					w.worker(16, ran.watch(takes(8*time.Second)))
				}
				replicas = append(replicas, w.scheduler(1), w.scheduler(2))
				w.until("three have shards", 20*time.Second, func() bool { return len(w.owners()) == 3 })
				c := w.caller()
				defer c.Close()
				var ids []string
				for _, source := range sources {
					ids = append(ids, w.send(c, source, 12)...) // more than there are slots
				}
				time.Sleep(3 * time.Second)
				before := w.outcomes().fences
				for _, p := range replicas {
					p.broker.cut()
				}
				time.Sleep(13 * time.Second)
				mended, total := time.Now(), ran.total() // before: the first ones back may grant what is left while the last is away
				for n, p := range replicas {
					if n > 0 {
						time.Sleep(late)
					}
					p.broker.mend()
				}
				w.until("jobs are granted again", 15*time.Second, func() bool { return ran.total() > total+8 })
				t.Logf("granting %v after the first one was back", time.Since(mended))
				w.until("three have shards", 20*time.Second, func() bool { return len(w.owners()) == 3 })
				l := w.drained(60*time.Second, &ran.tally, ids...)
				if took := time.Since(mended); took > 25*time.Second {
					t.Errorf("it took %v", took)
				}
				if l.fences != before {
					t.Errorf("%d fences, %d before: a shard was taken from a replica that came back", l.fences, before)
				}
				if n := ran.again(); n != 0 || len(l.attempts) != 0 {
					t.Errorf("%d second runs, %d attempts used up", n, len(l.attempts))
				}
				ran.verdict(t)
			})
		})
	}
}

// TestPatienceEnds: a replica that is lost together with the broker does not come back: its shards are taken all the same.
func TestPatienceEnds(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		sources := w.onePerShard("s")
		w.enqueue(0)
		ran := &judge{}
		first := w.scheduler(0)
		w.worker(16, ran.watch(takes(0)))
		second := w.scheduler(1)
		w.until("both have shards", 20*time.Second, func() bool { return len(w.owners()) == 2 })
		first.broker.cut()
		second.kill()
		time.Sleep(13 * time.Second)
		first.broker.mend()
		mended := time.Now()
		w.until("it has all shards", 12*time.Second, func() bool { return len(w.owners()["scheduler-0"]) == shards })
		t.Logf("it has all shards %v after the broker was back", time.Since(mended))
		c := w.caller()
		defer c.Close()
		var ids []string
		for _, source := range sources {
			ids = append(ids, w.send(c, source, 10)...)
		}
		w.until("fresh jobs run", 2*time.Second, func() bool { return ran.total() == len(ids) })
		w.drained(5*time.Second, &ran.tally, ids...)
	})
}

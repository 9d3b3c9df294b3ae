package system

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/worker"
)

// TestZombies: one of three schedulers is cut off from the broker, or from everybody, for half, one and a half and ten times a session, under load and
// with jobs that run through it; then it comes back. What it decided by then harms nobody: no job runs twice at a time, tokens rise, nothing is lost,
// and only what was running may run again (F3, F9, I1, I5).
func TestZombies(t *testing.T) {
	for seed, away := range []time.Duration{3 * time.Second, 9 * time.Second, time.Minute} {
		for _, alone := range []bool{false, true} {
			if alone && seed != 1 {
				continue // it makes no difference that one of them does not show
			}
			t.Run(fmt.Sprintf("%v alone %v", away, alone), func(t *testing.T) {
				bubble(t, func(t *testing.T, w *world) {
					random := rand.New(rand.NewPCG(uint64(seed), 7))
					sources := w.onePerShard("s")
					w.enqueue(0)
					ran := &judge{}
					of := func(job *worker.Job) time.Duration {
						if string(job.Payload) == "long" {
							return 12 * time.Second
						}
						return 15 * time.Millisecond
					}
					replicas := []*process{w.scheduler(0)}
					for range 3 {
						w.worker(16, ran.watch(of))
					}
					replicas = append(replicas, w.scheduler(1), w.scheduler(2))
					w.until("three have shards", 20*time.Second, func() bool { return len(w.owners()) == 3 })
					c := w.caller()
					defer c.Close()
					stop := w.traffic(c, 50*time.Millisecond, sources...)
					var ids []string
					long := func(rounds int) {
						for range rounds {
							for _, source := range sources {
								ids = append(ids, w.send(c, source, 1, payload("long"))...)
							}
							time.Sleep(time.Duration(random.IntN(2000)) * time.Millisecond)
						}
					}
					long(3)
					zombie := replicas[random.IntN(3)]
					cut := time.Now()
					zombie.broker.cut()
					if alone {
						zombie.peers.cut()
					}
					long(2)
					time.Sleep(time.Until(cut.Add(away)))
					zombie.broker.mend()
					zombie.peers.mend()
					back := time.Now()
					long(2)
					w.until("three have shards", 30*time.Second, func() bool { return len(w.owners()) == 3 })
					time.Sleep(3 * time.Second)
					end := time.Now()
					time.Sleep(3 * time.Second)
					list := stop()
					l := w.drained(90*time.Second, &ran.tally, append(ids, idsOf(list)...)...)
					ran.verdict(t)
					if n := ran.again(); n > 48 {
						t.Errorf("%d jobs ran again, 48 may have been running", n)
					}
					if worst := ran.worst(list, end, end.Add(time.Hour)); worst > time.Second {
						t.Errorf("a job waited %v when all was well again", worst)
					}
					t.Logf("%s: %d jobs, %d ran again, %d attempts, %d late events, %d fences; waits: %v while it was away, %v after", zombie.name,
						len(list)+len(ids), ran.again(), len(l.attempts), l.late, l.fences, ran.worst(list, cut, back), ran.worst(list, back, end))
				})
			})
		}
	}
}

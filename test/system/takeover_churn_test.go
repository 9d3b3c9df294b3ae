package system

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/worker"
)

// TestTakeoversInAnyOrder: schedulers stop, die, are cut off from the log, come back and come anew, at random, while jobs of milliseconds and of half a
// minute run. No job runs twice at a time, tokens rise, nothing is lost, and no attempt is used up by an owner that left in order (F1, F3, F5, F19,
// I1, I5). CHURN_SEED runs one seed.
func TestTakeoversInAnyOrder(t *testing.T) {
	seeds := []uint64{1, 2, 13} // 13: a worker that came back in the middle of a rebalance ran a job twice
	if text := os.Getenv("CHURN_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{seed}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				random := rand.New(rand.NewPCG(seed, 11))
				sources := w.onePerShard("s")
				w.enqueue(0)
				ran := &judge{}
				of := func(job *worker.Job) time.Duration {
					if string(job.Payload) == "long" {
						return 30 * time.Second
					}
					return 10 * time.Millisecond
				}
				var replicas [3]*process
				replicas[0] = w.scheduler(0)
				for range 3 {
					w.worker(16, ran.watch(of))
				}
				c := w.caller()
				defer c.Close()
				var ids []string
				stop := w.traffic(c, 100*time.Millisecond, sources...)
				cut, crashes := [3]bool{}, 0
				for range 25 {
					n := random.IntN(3)
					p := replicas[n]
					did := "waits"
					switch act := random.IntN(6); {
					case p == nil:
						replicas[n], _ = w.startScheduler(n)
						did = "starts"
					case cut[n]:
						p.broker.mend()
						p.peers.mend()
						cut[n] = false
						did = "is back"
					case act < 2:
						if err := p.stop(); err != nil {
							t.Error(err)
						}
						replicas[n] = nil
						did = "stops"
					case act == 2:
						p.kill()
						replicas[n] = nil
						crashes++
						did = "dies"
					case act == 3:
						p.broker.cut()
						if random.IntN(2) == 0 {
							p.peers.cut()
						}
						cut[n] = true
						crashes++
						did = "is cut off"
					}
					t.Logf("%v: scheduler-%d %s", time.Now().Format("04:05.0"), n, did)
					if random.IntN(2) == 0 {
						ids = append(ids, w.send(c, sources[random.IntN(len(sources))], 1, payload("long"))...)
					}
					time.Sleep(time.Duration(500+random.IntN(4500)) * time.Millisecond)
				}
				for n, p := range replicas {
					if p != nil {
						p.broker.mend()
						p.peers.mend()
					} else {
						replicas[n], _ = w.startScheduler(n)
					}
				}
				w.until("all three have shards", 60*time.Second, func() bool { return len(w.owners()) == 3 })
				list := stop()
				l := w.drained(120*time.Second, &ran.tally, append(ids, idsOf(list)...)...)
				ran.verdict(t)
				if n := ran.again(); n > 48*crashes {
					t.Errorf("%d jobs ran again after %d crashes", n, crashes)
				}
				t.Logf("%d jobs, %d ran again, %d attempts, %d late events, %d fences, %d crashes", len(list)+len(ids), ran.again(), len(l.attempts), l.late,
					l.fences, crashes)
			})
		})
	}
}

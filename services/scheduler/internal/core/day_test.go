package core

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestHour is an hour of a small company: ten steady sources, floods of short and of hanging jobs, keys spread over
// tenants, holds and demotions, with three engines. Every job comes to its end, and who floods nobody and is not held
// waits for nobody.
func TestHour(t *testing.T) {
	const replicas, hour = 3, time.Hour
	w := newWorld(t, 11, replicas, 32, 32)
	for i := range 10 {
		w.load(simLoad{source: fmt.Sprint("steady", i), name: "steady", prio: Priority(1 + i%3), rate: 1, to: hour, replica: i % replicas,
			took: func(rng *rand.Rand, _ time.Duration) time.Duration {
				return time.Duration(10+rng.IntN(90)) * time.Millisecond
			}})
		w.load(simLoad{source: fmt.Sprint("switched", i), prio: Default, rate: .5, to: hour, replica: i % replicas, took: fixed(50 * time.Millisecond)})
	}
	for at := 2 * time.Minute; at < hour-5*time.Minute; at += 4 * time.Minute {
		l := simLoad{source: fmt.Sprint("flood", w.rng.IntN(4)), prio: Default, from: at, to: at + 20*time.Second}
		l.replica = int(l.source[5]-'0') % replicas
		switch w.rng.IntN(3) {
		case 0:
			l.rate, l.took = 1000, fixed(20*time.Millisecond)
		case 1:
			l.rate, l.took = 20, fixed(10*time.Second)
		default:
			for i := range 20 { // the same, spread over tenants
				l.tenant, l.rate, l.took = fmt.Sprint("tenant", i), 50, fixed(20*time.Millisecond)
				w.load(l)
			}
			continue
		}
		w.load(l)
	}
	sequence := int64(0)
	for at := time.Minute; at < hour-time.Minute; at += 90 * time.Second {
		w.after(at, func() {
			sequence++
			name := fmt.Sprint("switched", w.rng.IntN(10))
			c := Control{Sequence: sequence, Switches: []Switch{
				{Scope: Scope{Kind: ScopeSource, Source: name}, Verb: Hold, Until: w.clock().Add(20 * time.Second)},
				{Scope: Scope{Kind: ScopeSource, Source: "flood0"}, Verb: Demote, To: Bulk, Until: w.clock().Add(time.Minute)},
			}}
			for _, r := range w.engines {
				if _, err := r.e.Apply(w.clock(), c); err != nil {
					t.Error(err)
				}
			}
		})
	}
	w.run(hour + 2*time.Minute)
	for name, s := range w.stats {
		if s.done != s.sent {
			t.Errorf("%s: %d of %d done", name, s.done, s.sent)
		}
	}
	steady := w.stat("steady")
	t.Logf("%d jobs; steady sources' p99 %v, max %v", w.jobs, steady.quantile(.99), steady.quantile(1))
	if steady.quantile(.99) > 10*time.Millisecond {
		t.Errorf("steady sources' p99 %v", steady.quantile(.99))
	}
	for _, r := range w.engines {
		if err := audit(r.e); err != nil {
			t.Error(err)
		}
	}
}

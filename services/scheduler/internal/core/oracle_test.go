package core

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// maxMin is the oracle: it fills every source's glass at the same speed, in small steps, until it has what it wants or
// nothing is left. Slow and obviously right.
func maxMin(wants, weights []float64, total float64) []float64 {
	const steps = 100000
	got := make([]float64, len(wants))
	for left := total; left > 1e-9; {
		active := 0.0
		for i := range wants {
			if got[i] < wants[i] {
				active += weights[i]
			}
		}
		if active == 0 {
			break
		}
		drop := min(total/steps, left)
		for i := range wants {
			if got[i] < wants[i] {
				d := min(drop*weights[i]/active, wants[i]-got[i])
				got[i] += d
				left -= d
			}
		}
	}
	return got
}

// jain is Jain's index of fairness: 1 = all equal.
func jain(x []float64) float64 {
	sum, squares := 0.0, 0.0
	for _, v := range x {
		sum += v
		squares += v * v
	}
	return sum * sum / (float64(len(x)) * squares)
}

func TestLevelIsMaxMin(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 200 {
		n := 1 + rng.IntN(8)
		ds, wants, weights := make([]demand, n), make([]float64, n), make([]float64, n)
		for i := range ds {
			wants[i], weights[i] = float64(rng.IntN(40)), []float64{.5, 1, 3}[rng.IntN(3)]
			ds[i] = demand{want: wants[i], weight: weights[i]}
		}
		slots := float64(1 + rng.IntN(64))
		want := maxMin(wants, weights, slots)
		l := level(ds, slots)
		for i := range wants {
			if got := min(wants[i], l*weights[i]); math.Abs(got-want[i]) > .05 {
				t.Fatalf("wants %v weights %v slots %g: level %g gives %g, want %g", wants, weights, slots, l, got, want[i])
			}
		}
	}
}

// held is the worker-seconds that a source is charged for: from grant to report.
func (w *world) held(source string) float64 {
	s := w.stat(source)
	return (s.run + time.Duration(s.done)*2*w.delay).Seconds()
}

// shares runs sources of these weights and loads (slots wanted; 0 = far too many) for 15 s, and returns the
// worker-seconds that each had of the last 10.
func shares(t *testing.T, seed uint64, replicas int, weights, loads []float64) (had []float64, total float64) {
	w := newWorld(t, seed, replicas, 32, 32)
	sources := map[string]Policy{}
	for i, x := range weights {
		sources[fmt.Sprint("s", i)] = Policy{MaxPriority: Critical, Weight: int32(x * 100)}
	}
	for _, r := range w.engines {
		if _, err := r.e.Apply(w.clock(), Control{Sources: sources}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range weights {
		mean := time.Duration(5+w.rng.IntN(60)) * time.Millisecond
		rate := .6 * 64 / mean.Seconds()
		if loads[i] > 0 {
			rate = loads[i] / mean.Seconds()
		}
		w.load(simLoad{
			source: fmt.Sprint("s", i), prio: Default, rate: rate, to: 15 * time.Second, replica: i % replicas,
			took: func(rng *rand.Rand, _ time.Duration) time.Duration {
				return time.Duration(float64(mean) * (.5 + rng.Float64()))
			},
		})
	}
	w.run(5 * time.Second)
	had = make([]float64, len(weights))
	for i := range had {
		had[i] = -w.held(fmt.Sprint("s", i))
	}
	w.run(15 * time.Second)
	for i := range had {
		had[i] += w.held(fmt.Sprint("s", i))
		total += had[i]
	}
	return had, total
}

func TestSharesAgainstOracle(t *testing.T) {
	for _, replicas := range []int{1, 3, 8} {
		t.Run(fmt.Sprint("equal/", replicas), func(t *testing.T) {
			ones := []float64{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
			had, total := shares(t, 1, replicas, ones, make([]float64, len(ones)))
			t.Logf("Jain %.4f, used %.1f %%, worker-seconds %.1f", jain(had), total/6.4, had)
			if jain(had) < .98 {
				t.Errorf("Jain %.4f, want ≥ 0.98: %.1f", jain(had), had)
			}
		})
		for seed := uint64(1); seed <= 3; seed++ {
			t.Run(fmt.Sprint("weighted/", replicas, "/", seed), func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 9))
				n := 4 + rng.IntN(5)
				weights, loads, wants := make([]float64, n), make([]float64, n), make([]float64, n)
				for i := range n {
					weights[i], wants[i] = []float64{1, 2, 4}[rng.IntN(3)], 1e9 // none so light that two slots, its due, are more than its share
					if i%3 == 2 {                                               // a source that wants little, so the rest share more
						loads[i] = .5 + rng.Float64()
						wants[i] = loads[i] * 10
					}
				}
				had, total := shares(t, seed, replicas, weights, loads)
				want := maxMin(wants, weights, total)
				worst := 0.0
				for i := range had {
					if loads[i] == 0 { // what the modest had is their arrivals' chance
						worst = max(worst, math.Abs(had[i]-want[i])/want[i])
					}
				}
				t.Logf("worst error %.1f %%, used %.1f %%, weights %v, loads %.1f\nhad  %.1f\nwant %.1f", worst*100, total/6.4, weights, loads, had, want)
				if worst > .05 {
					t.Errorf("share error %.1f %%, want ≤ 5 %%", worst*100)
				}
			})
		}
	}
}

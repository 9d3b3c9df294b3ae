package core

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/spillway/spillway/services/scheduler/internal/core/ramp"
)

// stock is a lane that never ends: its jobs wait in the engine, and each ends as soon as it was granted.
type stock struct {
	b              *bench
	depth          int // jobs that wait
	waiting, total int
}

// run lets d go by and returns how many were granted in it.
func (s *stock) run(d time.Duration) int {
	before := s.total
	for end := s.b.now.Add(d); s.b.now.Before(end); {
		for ; s.waiting < s.depth; s.waiting++ {
			j := s.b.job("s", "x")
			j.FromLane = true // or it would be spilled for its rate
			s.b.offer(j, Queue, "")
		}
		s.b.wait(10 * time.Millisecond)
		for _, l := range s.b.grants() {
			s.b.e.Settled(s.b.now, l.Job.ID, s.b.e.Done(s.b.now, "w", Result{Token: l.Token, JobID: l.Job.ID, Kind: Success}).Token)
			s.waiting, s.total = s.waiting-1, s.total+1
		}
		s.b.e.Credit(s.b.now, "w", 64, int64(s.total))
	}
	return s.total - before
}

// TestRampsBesideAQuota: a ramp is a second limit. The quota's debt is neither forgiven by it nor asked for again, whatever its rate is.
func TestRampsBesideAQuota(t *testing.T) {
	for _, c := range []struct {
		rate      float64
		low, high int // jobs in 60 s of a quota of 10/s whose burst of 10,000 is used up
	}{{0, 590, 610}, {5, 590, 610}, {10, 590, 610}, {50, 590, 610}, {2000, 590, 610}} {
		b := newBench(t, Config{})
		b.join(64)
		rate, burst := 10.0, int32(10_000)
		control := Control{Sources: map[string]Policy{"s": {MaxPriority: Critical, Quota: Quota{Rate: &rate, Burst: &burst}}}}
		apply := func() {
			if _, err := b.e.Apply(b.now, control); err != nil {
				t.Fatal(err)
			}
		}
		apply()
		run := (&stock{b: b, depth: 200}).run
		if n := run(5 * time.Second); n < 10_000 {
			t.Fatalf("%d jobs of the burst", n)
		}
		if c.rate > 0 {
			control.Switches = []Switch{{Scope: Scope{Kind: ScopeSource, Source: "s"}, Verb: Resume, Rate: c.rate, At: b.now}}
			apply()
		}
		if n := run(time.Minute); n < c.low || n > c.high {
			t.Errorf("%g/s: %d jobs in a minute, want %d to %d", c.rate, n, c.low, c.high)
		}
		control.Switches = nil
		apply()
		if n := run(10 * time.Second); n > 150 {
			t.Errorf("%g/s: %d jobs in 10 s after the ramp", c.rate, n)
		}
	}
}

// What was held comes back at the ramp, whoever it was held for: no window within a step has more grants than the step's burst and rate allow, a step
// is used up, whatever the clock of the resume said, and a hold ends the ramp half-way.
func TestResumeRamps(t *testing.T) {
	outer := t
	rapid.Check(t, func(t *rapid.T) {
		scope := rapid.SampledFrom([]Scope{{Kind: ScopeSource, Source: "s"}, {Kind: ScopeTenant, Tenant: "x"}, {Kind: ScopeFlow, Source: "s", Tenant: "x"}}).Draw(t, "scope")
		rate := rapid.SampledFrom([]float64{.05, .5, 3, 16, 30}).Draw(t, "rate")
		thrown := rapid.SampledFrom([]time.Duration{-15 * time.Second, 0, 40 * time.Millisecond, 3 * time.Second}).Draw(t, "thrown")
		b := newBench(outer, Config{TTL: time.Hour}) // no job ends
		b.join(10_000)
		apply := func(s Switch) {
			s.Scope = scope
			if _, err := b.e.Apply(b.now, Control{Switches: []Switch{s}}); err != nil {
				t.Fatal(err)
			}
		}
		from := b.now.Add(thrown)
		apply(Switch{Verb: Resume, Rate: rate, At: from})
		waiting := 0
		step := func() int {
			for ; waiting < 16; waiting++ {
				j := b.job("s", "x")
				j.FromLane = true // or it would be spilled for its rate
				b.offer(j, Queue, "")
			}
			b.wait(10 * time.Millisecond)
			granted := len(b.grants())
			waiting -= granted
			return granted
		}
		for range rapid.IntRange(1, 3).Draw(t, "steps") {
			now, rises := ramp.Rate(rate, max(0, b.now.Sub(from)))
			var at []time.Time
			begun := b.now
			for b.now.Add(10 * time.Millisecond).Before(from.Add(rises)) {
				for range step() {
					at = append(at, b.now)
				}
			}
			for i := range at {
				for j := range at[i:] {
					if d := at[i+j].Sub(at[i]); float64(j+1) > float64(ramp.Burst(now))+now*d.Seconds()+1e-6 {
						t.Fatalf("%d grants in %v at %g/s", j+1, d, now)
					}
				}
			}
			if d := b.now.Sub(begun); float64(len(at)) < now*(d-rampGrid/2).Seconds()-2 { // half of it at half the rate
				t.Fatalf("%d grants in %v at %g/s", len(at), d, now)
			}
			step() // the rate rises in it
		}
		apply(Switch{Verb: Hold})
		waiting = 1 << 20 // nothing more is offered
		for range 200 {
			if n := step(); n != 0 {
				t.Fatalf("%d granted after the hold", n)
			}
		}
	})
}

// What comes in beyond a ramp waits in the lane, as what is beyond a quota does.
func TestRampSpills(t *testing.T) {
	b := newBench(t, Config{})
	if _, err := b.e.Apply(b.now, Control{Switches: []Switch{{Scope: Scope{Kind: ScopeSource, Source: "s"}, Verb: Resume, Rate: 5, At: b.now}}}); err != nil {
		t.Fatal(err)
	}
	for range 12 { // 2 s of the rate, and the burst
		b.offer(b.job("s", "x"), Queue, "")
	}
	b.offer(b.job("s", "x"), Spill, ReasonOverRate)
}

// TestSlowRampIsPaidForAtTheNewRate: with two jobs at 0.01/s nothing would start for 200 s, and then everything. It also ends: what the quota allows
// is allowed when the ramp is over, at its end and after ramp.Longest.
func TestSlowRampIsPaidForAtTheNewRate(t *testing.T) {
	b := newBench(t, Config{})
	b.join(64)
	quota := Policy{MaxPriority: Critical, Quota: Quota{Rate: new(float64)}}
	*quota.Quota.Rate = 100
	begun := b.now
	control := Control{
		Sources:  map[string]Policy{"s": quota},
		Switches: []Switch{{Scope: Scope{Kind: ScopeSource, Source: "s"}, Verb: Resume, Rate: .01, At: begun}},
	}
	if _, err := b.e.Apply(b.now, control); err != nil {
		t.Fatal(err)
	}
	lane := &stock{b: b, depth: 16}
	until := func(after time.Duration) int {
		lane.run(begun.Add(after).Sub(b.now))
		return lane.total
	}
	// 0.01 × (2ⁿ − 1) × 10 s jobs in n steps, and the burst.
	for _, c := range []struct {
		steps     int
		low, high int
	}{{5, 3, 6}, {7, 12, 17}, {10, 98, 107}, {12, 400, 418}} {
		if n := until(time.Duration(c.steps) * ramp.Step); n < c.low || n > c.high {
			t.Errorf("%d jobs in %d steps, want %d to %d", n, c.steps, c.low, c.high)
		}
	}
	before := until(20 * ramp.Step) // the ramp is above the quota
	if n := until(21*ramp.Step) - before; n < 980 || n > 1010 {
		t.Errorf("%d jobs in 10 s of a quota of 100/s", n)
	}
	before = until(ramp.Longest)
	if n := until(ramp.Longest+10*time.Second) - before; n < 980 || n > 1010 {
		t.Errorf("%d jobs in the first 10 s after the ramp with a quota of 100/s", n)
	}
}

// Where ramps overlap the slowest counts, and a tenant's hold is a hold under its source's ramp.
func TestRampsOverlap(t *testing.T) {
	for name, c := range map[string]struct {
		over      Switch
		low, high int
	}{
		"a slower one":         {Switch{Verb: Resume, Rate: 2}, 18, 22},
		"a faster one":         {Switch{Verb: Resume, Rate: 50}, 98, 102},
		"a hold":               {Switch{Verb: Hold}, 0, 0},
		"a demotion":           {Switch{Verb: Demote, To: Bulk}, 98, 102},
		"one that ended":       {Switch{Verb: Resume, Rate: 2, At: origin.Add(-time.Hour)}, 98, 102},
		"one to come":          {Switch{Verb: Resume, Rate: 2, At: origin.Add(time.Minute)}, 18, 22},
		"one of a wrong clock": {Switch{Verb: Resume, Rate: 2, At: origin.Add(time.Hour)}, 98, 102},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, Config{TTL: time.Hour})
			b.join(1000)
			c.over.Scope = Scope{Kind: ScopeTenant, Tenant: "x"}
			if c.over.At.IsZero() {
				c.over.At = b.now
			}
			of := Switch{Scope: Scope{Kind: ScopeSource, Source: "s"}, Verb: Resume, Rate: 10, At: b.now}
			if _, err := b.e.Apply(b.now, Control{Switches: []Switch{of, c.over}}); err != nil {
				t.Fatal(err)
			}
			total, waiting := 0, 0
			for range 999 { // until the first step
				for ; waiting < 16; waiting++ {
					j := b.job("s", "x")
					j.FromLane = true
					if c.over.Verb == Hold {
						b.offer(j, Spill, ReasonHeld)
					} else {
						b.offer(j, Queue, "")
					}
				}
				b.wait(10 * time.Millisecond)
				n := len(b.grants())
				total, waiting = total+n, waiting-n
			}
			if total < c.low || total > c.high {
				t.Errorf("%d jobs in 10 s, want %d to %d", total, c.low, c.high)
			}
		})
	}
}

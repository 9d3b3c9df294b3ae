package core

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// In any stretch of time at most rate × time + a second's worth passes, at least one; and whoever waits as long as told is let through.
func TestBucketModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Float64Range(0.01, 100_000).Draw(t, "rate")
		burst := max(rate, 1)
		var b bucket
		now := time.Duration(0)
		var passed []time.Duration
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			now += time.Duration(rapid.Int64Range(0, int64(2*float64(time.Second)/rate)+1).Draw(t, "pause"))
			before := b
			wait := b.take(rate, now)
			if wait == 0 {
				passed = append(passed, now)
				continue
			}
			if wait < longestWait {
				later := before
				if again := later.take(rate, now+wait); again != 0 {
					t.Fatalf("told to wait %v, and then %v more", wait, again)
				}
			}
		}
		for i, from := range passed {
			for j := i; j < len(passed); j++ {
				if most := rate*(passed[j]-from).Seconds() + burst + 1e-6; float64(j-i+1) > most {
					t.Fatalf("%d passed within %v, at most %v may", j-i+1, passed[j]-from, most)
				}
			}
		}
	})
}

// A rate that is lowered takes the burst of the higher one away; a clock that goes back costs nothing.
func TestBucketWhoseRateChanges(t *testing.T) {
	var b bucket
	if b.take(1000, 0) != 0 {
		t.Fatal("a full bucket refuses")
	}
	n := 0
	for b.take(10, 0) == 0 {
		n++
	}
	if n != 9 {
		t.Errorf("%d more at once at 10 a second", n)
	}
	if wait := b.take(10, -time.Hour); wait <= 0 || wait > time.Second {
		t.Errorf("a clock that went back: wait %v", wait)
	}
	if wait := b.take(0.0001, time.Second); wait > longestWait {
		t.Errorf("told to wait %v", wait)
	}
}

// A backlog of jobs over the quota is through in the time that the quota says, and each of them asks a few times at most: without places in a line
// all of them would come for every token.
func TestJobsOverTheQuotaStandInLine(t *testing.T) {
	for _, c := range []struct {
		rate       float64
		jobs       int
		mostAsked  int // in all
		mostWithin time.Duration
	}{
		{50, 500, 2 * 500, 12 * time.Second},
		{50, 3000, 5 * 3000, 70 * time.Second}, // a minute of work: more than the line holds
		{0.5, 10, 4 * 10, 40 * time.Second},
	} {
		view := &registry{sources: map[string]*Source{"crm": {PublishRate: c.rate}}, replicas: 1}
		a := NewAdmission(start, 1<<30)
		returns := make([]time.Duration, c.jobs) // when each comes, all at first
		asked, end := 0, time.Duration(0)
		for len(returns) > 0 {
			next := 0
			for i, at := range returns {
				if at < returns[next] {
					next = i
				}
			}
			now := returns[next]
			asked++
			r := a.Admit(start.Add(now), Caller{Job: true}, draftOf("crm", 1), view)
			if r == nil {
				end = now
				returns = slices.Delete(returns, next, next+1)
				continue
			}
			returns[next] = now + r.Retry
		}
		if asked > c.mostAsked || end > c.mostWithin {
			t.Errorf("%d jobs at %v a second asked %d times, at most %d, and were through after %v, at most %v", c.jobs, c.rate, asked, c.mostAsked, end, c.mostWithin)
		}
	}
}

// Calls are told when the next token comes: nobody knows whether they come back.
func TestCallsStandInNoLine(t *testing.T) {
	view := &registry{sources: map[string]*Source{"crm": {PublishRate: 10, Principals: anyone}}, replicas: 1}
	a := NewAdmission(start, 1<<30)
	for a.Admit(start, svc, draftOf("crm", 1), view) == nil {
	}
	for range 100 {
		if r := a.Admit(start, svc, draftOf("crm", 1), view); r.Retry != time.Second/10 {
			t.Fatalf("told to wait %v", r.Retry)
		}
	}
}

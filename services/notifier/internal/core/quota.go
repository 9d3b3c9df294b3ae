package core

import (
	"math"
	"time"
)

// bucket admits notifications of one source: tokens flow in at a rate, each notification takes one, and at most a second's worth is there at
// once after a pause. The rate may change between any two calls. The zero value is full.
type bucket struct {
	spent float64       // tokens that are missing
	at    time.Duration // when spent was right, on the clock of the admission
}

// longestWait bounds what a caller is told to wait at a tiny rate: nobody waits longer without looking again.
const longestWait = time.Hour

// take takes a token at now, or says how long until there will be one. rate is above 0, in tokens per second. A bucket holds at least one, so that
// a source with less than one a second can publish at all.
func (b *bucket) take(rate float64, now time.Duration) (wait time.Duration) {
	capacity := math.Max(rate, 1)
	spent := math.Min(math.Max(b.spent-rate*max(now-b.at, 0).Seconds(), 0), capacity)
	b.spent, b.at = spent, now
	// The part of a billionth absorbs what adding many small parts loses.
	if missing := spent + 1 - capacity; missing > 1e-9 {
		return max(time.Duration(math.Min(math.Ceil(missing/rate*float64(time.Second)), float64(longestWait))), 1)
	}
	b.spent = spent + 1
	return 0
}

// line gives those that were refused and will certainly come back, which are jobs, each a time of its own to do so, one token apart: else all of a
// backlog would come for every single token. A caller who may never come back has no place in it. The zero value is empty.
type line struct {
	last time.Duration // the latest time that was given away, on the clock of the admission
}

// longestLine bounds the times that are given away. Who would come later comes then and asks again, so a backlog of n jobs asks n times in it; the
// quota may be raised meanwhile, too.
const longestLine = 30 * time.Second

// place is how long to stay away, at least wait; rate is above 0, in tokens per second.
func (l *line) place(rate float64, now, wait time.Duration) time.Duration {
	gap := time.Duration(math.Min(float64(time.Second)/rate, float64(longestLine)))
	at := max(l.last+gap, now+wait)
	if at > now+longestLine {
		return max(wait, longestLine)
	}
	l.last = at
	return at - now
}

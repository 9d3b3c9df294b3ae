// Package ramp is how work comes back after a resume: at a rate that doubles.
//
// The rate depends on nothing but the record of the resume, so an owner that takes over goes on where the one before it was.
package ramp

import (
	"math"
	"time"
)

const (
	// Step is how long a ramp keeps a rate before it doubles.
	Step = 10 * time.Second
	// End is the rate, in jobs a second, at which a ramp is over: more than an engine grants.
	End = 1e6
	// Longest is when a ramp is over whatever it began with.
	Longest = 10 * time.Minute

	// A burst is a small part of a second, for a wave is what a ramp is to prevent, and never less than two jobs: with one, what the clock is late
	// would be lost each time.
	burstsPerSecond = 20
	leastBurst      = 2
)

// Rate is the rate, in jobs a second, after a time since the resume that asked for begin, and the time at which it rises next; zeros when the
// ramp is over. after is not negative: where clocks differ, a resume of the future has just come.
func Rate(begin float64, after time.Duration) (rate float64, rises time.Duration) {
	if after >= Longest {
		return 0, 0
	}
	steps := after / Step
	if rate = begin * math.Exp2(float64(steps)); rate >= End {
		return 0, 0
	}
	return rate, (steps + 1) * Step
}

// Burst is how many jobs may start at once at a rate.
func Burst(rate float64) int32 { return int32(max(leastBurst, rate/burstsPerSecond)) }

package core

import (
	"math"
	"time"
)

const (
	// rampStep is how long a ramp keeps a rate before it doubles.
	rampStep = 10 * time.Second
	// A ramp is over at rampEnd jobs a second, which is more than an engine grants, and after rampLongest, whatever it began with.
	rampEnd     = 1e6
	rampLongest = 10 * time.Minute
	// A ramp's burst is a small part of a second, for a wave is what it is to prevent, and never less than two: with one, what the clock is late
	// would be lost each time.
	rampBursts    = 20
	rampLeastJobs = 2
)

// ramp is the rate at which work may come back at t after a resume at from, and when it rises next; 0 when the ramp is over. It depends on
// nothing but the record of the resume, so a new owner goes on where the one before it was.
func ramp(from moment, rate float64, t moment) (float64, moment) {
	if from < t-rampLongest {
		return 0, never
	}
	steps := max(0, t-from) / rampStep
	if rate *= math.Exp2(float64(steps)); rate >= rampEnd {
		return 0, never
	}
	return rate, from + (steps+1)*rampStep
}

// within is the quota while work comes back at a rate; 0 = no ramp.
func (q Quota) within(rate float64) Quota {
	if rate == 0 || q.Rate != nil && *q.Rate <= rate {
		return q
	}
	burst := int32(max(rampLeastJobs, rate/rampBursts))
	if q.Burst != nil {
		burst = min(burst, *q.Burst)
	}
	q.Rate, q.Burst = &rate, &burst
	return q
}

package core

import (
	"math"
	"time"
)

// Rate is the generic cell rate algorithm: arrivals keep to PerSecond, with up to Burst at once after a pause. The state of a limited stream is
// one number, its theoretical arrival time; limits may change between arrivals without touching it.
type Rate struct {
	// PerSecond is above 0.
	PerSecond float64
	// Burst is at least 1; smaller counts as 1.
	Burst float64
}

// longestGap bounds the time between two arrivals, so that tiny rates do not overflow: a hundred days.
const longestGap = float64(100 * 24 * time.Hour)

// Take asks for one arrival at now, both times in the stream's own nanoseconds. When it conforms, next is the new state and wait is 0; else next
// is the old state and wait says how long until one would conform.
func (r Rate) Take(state, now int64) (next int64, wait time.Duration) {
	gap := math.Min(float64(time.Second)/r.PerSecond, longestGap)
	tolerance := gap * (math.Max(r.Burst, 1) - 1)
	if early := state - now; float64(early) > tolerance {
		return state, time.Duration(math.Ceil(float64(early) - tolerance))
	}
	return max(state, now) + int64(math.Ceil(gap)), 0
}

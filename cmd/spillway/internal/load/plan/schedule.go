package plan

import (
	"math"
	"time"
)

// Schedule says when the jobs of one flow are due, as durations since the
// start of the run. It is fixed before the run: no answer and no delay changes
// it, which is what makes the load open-loop.
type Schedule struct {
	// Start is when the flow begins, End when it has ended (exclusive).
	Start, End time.Duration
	// Rate is in jobs per second.
	Rate float64
	// Phase, from 0 to 1, shifts the flow within the gap between two of its
	// jobs, so that many flows of one rate do not send in the same instant.
	Phase float64
}

// At is when job k is due.
func (s Schedule) At(k int) time.Duration {
	return s.Start + time.Duration((float64(k)+s.Phase)/s.Rate*float64(time.Second))
}

// Count is how many jobs are due before End.
func (s Schedule) Count() int { return s.Due(s.End) }

// Due is how many jobs are due before t.
func (s Schedule) Due(t time.Duration) int {
	t = min(t, s.End)
	if t <= s.Start {
		return 0
	}
	n := int(math.Ceil((t-s.Start).Seconds()*s.Rate - s.Phase))
	// The division above and the multiplication in At round differently:
	// settle the last job by At, which is the definition.
	n = max(n, 0)
	for n > 0 && s.At(n-1) >= t {
		n--
	}
	for s.At(n) < t {
		n++
	}
	return n
}

// Run is a whole run: every flow with its schedule.
type Run struct {
	// Seed is drawn once per run; ids, tenants and hangs follow from it.
	Seed uint64
	// Quiet is how long the flows that are not floods run alone at first.
	Quiet time.Duration
	// For is the sending time after it, with all flows.
	For time.Duration
	// Flows and Schedules are parallel.
	Flows     []Flow
	Schedules []Schedule
}

// NewRun lays the flows out in time: all but the floods send from the start,
// the floods from the end of the quiet phase, and all until its end plus for.
func NewRun(seed uint64, flows []Flow, quiet, sending time.Duration) Run {
	r := Run{Seed: seed, Quiet: quiet, For: sending, Flows: flows, Schedules: make([]Schedule, len(flows))}
	for i, f := range flows {
		s := Schedule{End: quiet + sending, Rate: f.Rate}
		if f.Flood() {
			s.Start = quiet
		}
		// Multiples of the golden ratio spread any number of flows evenly.
		_, s.Phase = math.Modf(float64(i) * math.Phi)
		r.Schedules[i] = s
	}
	return r
}

// Jobs is how many jobs the run will send.
func (r Run) Jobs() int {
	n := 0
	for _, s := range r.Schedules {
		n += s.Count()
	}
	return n
}

package core

import "time"

// Pace is how often something may happen: Rate a second, Burst at once. It is full at first, has an owner and no lock.
type Pace struct {
	// Rate is how much comes back in a second; Burst is what there is at most.
	Rate, Burst float64

	used float64 // of Burst
	at   time.Time
}

// Take takes one, and tells whether there was one to take.
func (p *Pace) Take(now time.Time) bool {
	if passed := now.Sub(p.at).Seconds(); passed > 0 {
		p.used = max(0, p.used-passed*p.Rate)
		p.at = now
	}
	if p.used+1 > p.Burst {
		return false
	}
	p.used++
	return true
}

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
	p.refill(now)
	if p.used+1 > p.Burst {
		return false
	}
	p.used++
	return true
}

// Full tells whether there is as much as there can be: nothing happened for as long as all of it needs to come back.
func (p *Pace) Full(now time.Time) bool {
	p.refill(now)
	return p.used == 0
}

func (p *Pace) refill(now time.Time) {
	if passed := now.Sub(p.at).Seconds(); passed > 0 {
		p.used = max(0, p.used-passed*p.Rate)
		p.at = now
	}
}

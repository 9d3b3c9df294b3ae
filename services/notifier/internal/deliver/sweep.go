package deliver

import (
	"context"
	"sync"
	"time"

	"github.com/spillway/spillway/services/notifier/internal/core"
)

const (
	// A session whose socket was full is tried again at the next tick, which is at most backoffMin away, and then after a time that doubles from twice
	// that to backoffMax while it takes nothing; backoffMin again once it has.
	backoffMin = 5 * time.Millisecond
	backoffMax = 250 * time.Millisecond
	// slots of backoffMin each are more than backoffMax.
	slots = 64
	// apart is how long a session may have been out of the sweeper's hands for its stall to be the same one.
	apart = 2 * backoffMax
)

// sweeper tries the sockets that were full again, all of them with one goroutine: whoever reads again gets what it lacks from the ring, and whoever takes
// nothing for the stall time is closed. A stalled session is one pointer here.
type sweeper struct {
	room *Room
	wake chan struct{}

	mu sync.Mutex
	in []*session
}

func newSweeper(r *Room) sweeper { return sweeper{room: r, wake: make(chan struct{}, 1)} }

// add puts a session into the sweeper's hands, if it is not there.
func (w *sweeper) add(s *session) {
	if !s.swept.CompareAndSwap(false, true) {
		return
	}
	w.mu.Lock()
	w.in = append(w.in, s)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *sweeper) run(ctx context.Context) error {
	var wheel [slots][]*session
	turning, slot := 0, 0
	tick := time.NewTimer(backoffMin)
	defer tick.Stop()
	put := func(s *session, now time.Time) {
		at := (slot + int(w.delay(s, now)/backoffMin)) % slots
		wheel[at] = append(wheel[at], s)
		turning++
	}
	for {
		if turning == 0 {
			select {
			case <-w.wake:
			case <-ctx.Done():
				return nil
			}
		}
		tick.Reset(backoffMin)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		now := time.Now()
		w.mu.Lock()
		in := w.in
		w.in = nil
		w.mu.Unlock()
		for _, s := range in {
			if now.Sub(s.tried) > apart { // another stall than the last one
				s.since, s.backoff = now, 0
			}
			put(s, now)
		}
		slot = (slot + 1) % slots
		due := wheel[slot]
		wheel[slot] = nil
		turning -= len(due)
		for _, s := range due {
			if s.tried = now; !w.retry(s, now) {
				put(s, now)
			}
		}
	}
}

// delay is how long to wait until the next try: short again for who has taken something.
func (w *sweeper) delay(s *session, now time.Time) time.Duration {
	if taken := s.conn.LastTaken(); taken.After(s.taken) || s.backoff == 0 {
		s.taken, s.backoff = taken, backoffMin
	} else {
		s.backoff = min(2*s.backoff, backoffMax)
	}
	return s.backoff
}

// retry gives the socket what it began and what is owed, and then the turn to the actors of the partitions in which the session is behind. false: it
// stays here.
func (w *sweeper) retry(s *session, now time.Time) (done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		s.swept.Store(false)
		return true
	}
	clear, err := s.conn.Flush()
	switch {
	case err != nil:
		s.end(0, "")
	case clear && s.settle() && s.conn.Waiting() == 0:
		// Those whose sockets are full again come back by add, so they must be let go first.
		s.swept.Store(false)
		behind := false
		for _, t := range s.seats {
			if t.behind() {
				behind = true
				if !t.part.try(post{kind: retry, session: s}) {
					w.add(s) // its mailbox is full
				}
			}
		}
		if behind {
			w.stalled(s, now)
		}
		return true
	default:
		w.stalled(s, now)
	}
	if s.closed.Load() {
		s.swept.Store(false)
		return true
	}
	return false
}

// stalled closes a session that has taken nothing for too long. The caller holds s.mu.
func (w *sweeper) stalled(s *session, now time.Time) {
	since := s.since
	if taken := s.conn.LastTaken(); taken.After(since) {
		since = taken
	}
	if now.Sub(since) >= w.room.cfg.StallAfter {
		s.end(core.CloseSlow, core.CloseSlow.Reason())
	}
}

package deliver

import (
	"context"
	"time"

	"github.com/spillway/spillway/services/notifier/internal/core"
	"github.com/spillway/spillway/services/notifier/internal/deliver/frame"
)

// clockTick is how exact the times of sessions are; one goroutine looks at all of them, which at 20,000 takes a few milliseconds.
const clockTick = time.Second

// clock ends the sessions whose time is over, pings the others, and tells them their cursors.
func (r *Room) clock(ctx context.Context) error {
	tick := time.NewTicker(clockTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		now := time.Now()
		for _, s := range r.all() {
			r.look(s, now)
		}
	}
}

func (r *Room) look(s *session, now time.Time) {
	age := time.Duration(s.age(now))
	who := s.who.Load()
	if who == nil {
		if age >= r.cfg.HelloWithin {
			s.close(core.CloseLate)
		}
		return
	}
	switch {
	case !now.Before(who.Expires.Add(r.cfg.Grace)):
		s.close(core.CloseExpired)
	case age-time.Duration(s.heard.Load()) >= 2*r.cfg.PingEvery+clockTick:
		s.close(core.CloseSilent)
	case age-s.pinged >= r.cfg.PingEvery:
		// The cursor with it keeps that of a client that hears nothing from growing older than the ring.
		if s.offer([]byte(frame.Ping), s.cursorFrame(-1, 0)) {
			s.told.Store(int64(age))
		}
		s.pinged = age // one that was not taken is as good: its sender is behind, and the sweeper has it
	case s.stale.Load() && s.due(now):
		s.stale.Store(false) // before the cursor is made: what comes later makes it stale again
		if s.offer(s.cursorFrame(-1, 0)) {
			s.told.Store(int64(age))
		} else {
			s.stale.Store(true)
		}
	}
}

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
	// Whoever lags has not read yet what it was asked. It is the sweeper's to judge, which closes who takes nothing.
	if s.lags() {
		s.lagged = age
	}
	switch {
	case !now.Before(who.Expires.Add(r.cfg.Grace)):
		s.close(core.CloseExpired)
	case age-max(time.Duration(s.heard.Load()), s.lagged) >= 2*r.cfg.PingEvery+clockTick:
		s.close(core.CloseSilent)
	case age-s.pinged >= r.cfg.PingEvery:
		// The cursor with it keeps that of a client that hears nothing from growing older than the ring, and that of one that catches up from
		// staying where it began. What is not taken is owed, and so the first that is sent when there is room: who reads is asked.
		frames := [][]byte{[]byte(frame.Ping), s.cursorFrame(-1, 0)}
		for _, f := range frames[s.offer(frames...):] {
			s.say(f)
		}
		s.told.Store(int64(age))
		s.pinged = age
	case s.stale.Load() && s.due(now):
		s.stale.Store(false) // before the cursor is made: what comes later makes it stale again
		if s.offer(s.cursorFrame(-1, 0)) == 1 {
			s.told.Store(int64(age))
		} else {
			s.stale.Store(true)
		}
	}
}

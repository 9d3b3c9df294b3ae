package dispatch

import (
	"context"
	"sync"
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

// Session is the stream of one worker. Receive and Next may be called at the same time, each from one goroutine.
type Session struct {
	loop   *Loop
	worker string
	who    frame.Identity
	slots  int32
	opened time.Time
	end    time.Time // when it is asked to open another stream
	told   bool      // Farewell was sent; guarded by Loop.mu

	ready chan struct{} // 1-deep: the outbox has something, or the session has ended
	done  chan struct{} // closed when the session has ended

	mu  sync.Mutex // taken after Loop.mu, never before it
	out outbox
	err error // why the session has ended
}

// Worker is the id of the session's worker.
func (s *Session) Worker() string { return s.worker }

// Done is closed when the session has ended; Err says why.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err is why the session has ended, nil while it has not.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Next waits for the next frame to write. It fails when the session has ended or ctx has.
func (s *Session) Next(ctx context.Context) (*frame.ToWorker, error) {
	for {
		now := time.Now()
		s.mu.Lock()
		f, err := s.out.take(now), s.err
		s.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case f != nil:
			if old := stale(f, now); len(old) > 0 {
				s.loop.withdraw(s, old)
			}
			s.loop.meter.granted(ctx, f.Leases)
			return f, nil
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Farewell asks the worker to open another stream; this one goes on until it has.
func (s *Session) Farewell(f frame.Farewell) {
	now := time.Now()
	s.put(now, func(o *outbox) { o.last(now).Farewell = &f })
}

// settled adds an answer that may wait, and reports whether it is the first one that does.
func (s *Session) settled(now time.Time, t core.Token) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	first = len(s.out.frames) == 0
	f := s.out.last(now)
	f.Settled = append(f.Settled, t)
	return first
}

// put changes the outbox and wakes the writer.
func (s *Session) put(now time.Time, change func(*outbox)) {
	s.mu.Lock()
	change(&s.out)
	s.out.urgent = true
	slow := s.out.over(now)
	s.mu.Unlock()
	if slow {
		s.fail(frame.ErrSlow)
		return
	}
	wake(s.ready)
}

// fail ends the session; only the first reason counts. Its worker's leases live on until their TTL.
func (s *Session) fail(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err, s.out = err, outbox{}
	}
	s.mu.Unlock()
	if first {
		close(s.done)
		wake(s.ready)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

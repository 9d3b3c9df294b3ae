package dispatch

import (
	"math/rand/v2"
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

// bindingLasts is how long a worker's id stays its caller's after its stream has ended: as long as a lease of it can be alive anywhere
// (TTL + 9 s, the quarantine).
const bindingLasts = 9 * time.Second

// Open begins the session of a worker, in place of an older one of the same worker. What the worker says it holds is compared with what
// the engine thinks: leases that it does not name go back, those of a former owner are inherited, others are lost.
func (l *Loop) Open(who frame.Identity, hello frame.Hello) (*Session, error) {
	now := time.Now()
	s := &Session{
		loop: l, worker: hello.Worker.ID, who: who, slots: hello.Worker.Concurrency, opened: now, ready: make(chan struct{}, 1), done: make(chan struct{}),
		end: now.Add(l.cfg.MaxAge - rand.N(l.cfg.MaxAge/10+1)), // not all at once after a restart
		out: outbox{slots: hello.Worker.Concurrency},
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.sessions[s.worker]
	slots := l.slots[who.Subject] + s.slots
	if old != nil {
		slots -= old.slots
	}
	bound, known := l.bindings[s.worker]
	switch {
	case l.leaving != nil:
		return nil, frame.ErrStopping
	case known && bound.who != who:
		return nil, frame.ErrNotAllowed
	case slots > l.cfg.SlotsPerCaller:
		return nil, frame.ErrTooManySlots
	}
	if old != nil {
		l.leave(now, old)
		old.fail(frame.ErrReplaced)
	}
	l.sessions[s.worker], l.bindings[s.worker], l.slots[who.Subject] = s, binding{who: who}, slots
	l.engine.Join(now, hello.Worker)

	var named []core.Token
	for _, h := range hello.Held {
		if _, owned := l.shards[h.Token.Shard]; owned {
			named = append(named, h.Token)
		}
	}
	unknown := map[core.Token]bool{}
	for _, t := range l.engine.Reconcile(now, s.worker, named, l.ownsShard) {
		unknown[t] = true
	}
	lost := l.inherit(now, s.worker, hello.Held, unknown)
	s.put(now, func(o *outbox) {
		f := o.last(now)
		f.Welcome = &frame.Welcome{Replica: l.cfg.Replica, TTL: l.cfg.TTL, RenewEvery: l.cfg.RenewEvery}
		f.Owned, f.Topology, f.Lost = l.owned(), l.topology, lost
	})
	wake(l.wake)
	return s, nil
}

// inherit makes leases of former owners the engine's, or hears that their workers have them. Those that are unknown and cannot be inherited are
// lost. What is not owned here is left alone.
func (l *Loop) inherit(now time.Time, worker string, held []frame.HeldLease, unknown map[core.Token]bool) (lost []core.Token) {
	for _, h := range held {
		if !l.owns(h.Token) || h.Token.Epoch == l.shards[h.Token.Shard] && !unknown[h.Token] {
			continue
		}
		if !l.engine.Inherit(now, worker, h.Source, h.JobID, h.Token, h.StartedAt) && unknown[h.Token] {
			lost = append(lost, h.Token)
		}
	}
	return lost
}

// Close ends the session. The worker's leases run on until they expire or it comes back.
func (s *Session) Close() {
	l := s.loop
	l.mu.Lock()
	if l.sessions[s.worker] == s {
		l.leave(time.Now(), s)
	}
	l.mu.Unlock()
	s.fail(frame.ErrClosed)
	wake(l.wake)
}

// leave takes a session's slots out of the engine. It is called with the engine locked.
func (l *Loop) leave(now time.Time, s *Session) {
	delete(l.sessions, s.worker)
	l.engine.Leave(now, s.worker)
	l.bindings[s.worker] = binding{who: s.who, until: now.Add(l.cfg.TTL + bindingLasts)}
	if l.slots[s.who.Subject] -= s.slots; l.slots[s.who.Subject] <= 0 {
		delete(l.slots, s.who.Subject)
	}
}

// Receive applies a frame of the worker. It fails when the session has ended.
func (s *Session) Receive(f frame.FromWorker) error {
	l := s.loop
	var settlements []core.Settlement
	var refused, renewed, lost []core.Token

	l.mu.Lock()
	if l.sessions[s.worker] != s {
		l.mu.Unlock()
		return s.Err()
	}
	now, e := time.Now(), l.engine
	for _, t := range f.Latest {
		e.Latest(now, s.worker, t.Priority, t.Tag)
	}
	if f.Hello != nil {
		lost = l.claim(now, s, f.Hello)
	}
	for _, r := range f.Results {
		if !l.owns(r.Token) {
			continue // the worker keeps it for the shard's next owner
		}
		switch st := e.Done(now, s.worker, r); st.Kind {
		case core.Refused:
			refused = append(refused, r.Token)
		case core.Repeated:
		default:
			settlements = append(settlements, st)
		}
	}
	for _, r := range f.Returns {
		for _, t := range r.Tokens {
			e.Return(now, s.worker, t, r.Reason, min(r.Free, s.slots), r.Seen)
		}
	}
	if f.Credit != nil {
		e.Credit(now, s.worker, min(f.Credit.Free, s.slots), f.Credit.Seen)
	}
	if f.Tickets > 0 {
		e.Ticket(now, s.worker, min(f.Tickets, s.slots))
	}
	if len(f.Started) > 0 {
		e.Started(now, s.worker, f.Started)
	}
	if len(f.Renew) > 0 && l.ports.Gate.Renews(now) {
		ok, gone := e.Renew(now, s.worker, l.mine(f.Renew))
		renewed, lost = append(renewed, ok...), append(lost, gone...)
	}
	if f.Draining {
		e.Drain(now, s.worker)
	}
	acknowledged := len(l.holds) > 0 && l.decideHolds(now)
	l.mu.Unlock()

	for _, st := range settlements {
		l.ports.Settler.Settle(st)
	}
	if len(refused)+len(renewed)+len(lost) > 0 {
		s.put(now, func(o *outbox) {
			out := o.last(now)
			out.Refused, out.Renewed, out.Lost = append(out.Refused, refused...), append(out.Renewed, renewed...), append(out.Lost, lost...)
		})
	}
	if len(refused) > 0 {
		l.log.Warn("results of stale leases refused", "worker_id", s.worker, "count", len(refused), "reason", core.ReasonStaleLease)
	}
	if acknowledged {
		l.ports.Beat.Poke()
	}
	wake(l.wake)
	return nil
}

// claim takes a worker's answer to Owned: leases that the engine does not know are inherited, or lost; those that were handed over as the
// worker's, and that it does not name, go back. What was granted on this stream and is not named is not given back: it may have been granted while
// the answer was on its way.
func (l *Loop) claim(now time.Time, s *Session, hello *frame.Hello) (lost []core.Token) {
	var tokens []core.Token
	for _, h := range hello.Held {
		if l.owns(h.Token) {
			tokens = append(tokens, h.Token)
		}
	}
	if len(tokens) > 0 {
		unknown := map[core.Token]bool{}
		_, gone := l.engine.Renew(now, s.worker, tokens)
		for _, t := range gone {
			unknown[t] = true
		}
		lost = l.inherit(now, s.worker, hello.Held, unknown)
	}
	if a := hello.Answers; a != nil && len(a.Shards) == len(a.Epochs) {
		for i, shard := range a.Shards {
			if epoch, owned := l.shards[shard]; owned && epoch == a.Epochs[i] {
				l.engine.Answered(now, s.worker, shard, epoch, tokens, s.opened)
			}
		}
	}
	return lost
}

func (l *Loop) owns(t core.Token) bool { return l.ownsShard(t.Shard) }

// ownsShard reports whether the shard is this replica's, and not handed over: then what a worker does not name is not decided yet.
func (l *Loop) ownsShard(shard int32) bool {
	_, owned := l.shards[shard]
	return owned
}

// mine is the tokens of owned shards.
func (l *Loop) mine(tokens []core.Token) []core.Token {
	all := true
	for _, t := range tokens {
		all = all && l.owns(t)
	}
	if all {
		return tokens
	}
	var mine []core.Token
	for _, t := range tokens {
		if l.owns(t) {
			mine = append(mine, t)
		}
	}
	return mine
}

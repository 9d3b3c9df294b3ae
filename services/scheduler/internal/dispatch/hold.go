package dispatch

import (
	"slices"
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// holdWait is how long a hold waits for leases that are neither started nor back before it is acknowledged all the same: they count as
// running then. It leaves 300 ms of the switch's 500 for the log and the beat.
const holdWait = 200 * time.Millisecond

// hold is a control state with newly held scopes that is not acknowledged yet.
type hold struct {
	before   int64 // the sequence that may be acknowledged while it is undecided
	scopes   []core.Scope
	deadline time.Time
}

// Apply gives the engine a control state. An error leaves everything as it was. A state that holds something is acknowledged when no
// lease of it is undecided any more; the engine's revocations go out at once, not with the next tick.
func (l *Loop) Apply(c core.Control) (core.Changes, error) {
	l.mu.Lock()
	now := time.Now()
	changes, err := l.engine.Apply(now, c)
	if err == nil {
		if len(changes.Held) > 0 {
			l.holds = append(l.holds, hold{before: l.applied, scopes: slices.Clone(changes.Held), deadline: now.Add(holdWait)})
		}
		l.applied = c.Sequence
	}
	l.mu.Unlock()
	if err != nil {
		return core.Changes{}, err
	}
	l.tick()
	l.acknowledge()
	wake(l.wake)
	return changes, nil
}

// Acknowledged is the highest sequence of the control log whose holds are decided: nothing that it holds will start any more. -1: none.
func (l *Loop) Acknowledged() int64 { return l.acknowledged.Load() }

// acknowledge looks whether holds are decided and tells status at once if one is.
func (l *Loop) acknowledge() {
	l.mu.Lock()
	changed := l.decideHolds(time.Now())
	l.mu.Unlock()
	if changed {
		l.ports.Beat.Poke()
	}
}

// decideHolds drops the holds that are decided, in order, and reports whether a higher sequence is acknowledged now. It is called with
// the engine locked.
func (l *Loop) decideHolds(now time.Time) bool {
	for len(l.holds) > 0 {
		h := &l.holds[0]
		if now.Before(h.deadline) && slices.ContainsFunc(h.scopes, func(s core.Scope) bool { return len(l.engine.Undecided(s)) > 0 }) {
			break
		}
		l.holds = l.holds[1:]
	}
	sequence := l.applied
	if len(l.holds) > 0 {
		sequence = l.holds[0].before
	}
	if sequence <= l.acknowledged.Load() {
		return false
	}
	l.acknowledged.Store(sequence)
	return true
}

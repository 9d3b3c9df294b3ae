package dispatch

import (
	"maps"
	"slices"
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

// Own sets the shards that this replica owns, with their epochs, and tells every worker, who answers with the leases of them that it
// holds. Results and renewals of other shards are not answered, so that workers keep them for the next owner; grants of them that were not
// written yet are taken back. A shard must be attached to the engine before it is named here, and be taken from here before it is detached.
func (l *Loop) Own(shards map[int32]int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own(time.Now(), maps.Clone(shards))
}

func (l *Loop) own(now time.Time, shards map[int32]int64) {
	l.shards = shards
	for _, s := range l.sessions {
		s.mu.Lock()
		gone := s.out.remove(func(g *frame.Granted) bool {
			epoch, owned := shards[g.Token.Shard]
			return !owned || epoch != g.Token.Epoch
		})
		s.mu.Unlock()
		for _, g := range gone {
			l.engine.Withdraw(now, s.worker, g.Token, g.Ticket)
		}
		s.put(now, func(o *outbox) { o.last(now).Owned = l.owned() })
	}
}

// owned is what workers are told of the shards, in their order.
func (l *Loop) owned() *frame.Owned {
	o := &frame.Owned{Shards: slices.Sorted(maps.Keys(l.shards))}
	for _, shard := range o.Shards {
		o.Epochs = append(o.Epochs, l.shards[shard])
	}
	return o
}

// HandOver ends, in one step, all that this replica does for shards that go to others, and names the leases that are left: no grant of them that
// was not written yet is sent, no renewal or result of them is answered from here on. Nothing of them may be granted when it is called. Own takes
// it back.
func (l *Loop) HandOver(shards []int32) map[int32][]core.Held {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	left := maps.Clone(l.shards)
	maps.DeleteFunc(left, func(shard int32, _ int64) bool { return slices.Contains(shards, shard) })
	l.own(now, left)
	held := make(map[int32][]core.Held, len(shards))
	for _, shard := range shards {
		held[shard] = l.engine.Held(now, shard)
	}
	return held
}

// withdraw takes back grants that were too old to be sent.
func (l *Loop) withdraw(s *Session, stale []frame.Granted) {
	l.mu.Lock()
	if l.sessions[s.worker] == s { // else its leases went back, or will when the worker does not name them
		now := time.Now()
		for _, g := range stale {
			l.engine.Withdraw(now, s.worker, g.Token, g.Ticket)
		}
	}
	l.mu.Unlock()
	wake(l.wake)
}

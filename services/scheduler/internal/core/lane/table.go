// Package lane decides which (source, type) of a shard writes to which lane of the spill topic.
//
// Purpose: a lane of its own makes the backlog of a (source, type) the difference of two offsets, and holding it a matter of not
// reading. There are L lanes a shard and never more, so they are lent: taken at the first spill, freed a minute after they ran empty.
//
// Model: lane 0 is the common lane. It is handed out when all others are taken, mixes sources and never belongs to one. Lanes 1 to
// L-1 belong to at most one (source, type) at a time, and a (source, type) has at most one of them.
//
// Guarantees: a lane that still holds records is never given to another owner. Non-goals: reading, writing, and telling anybody; the
// shell commits a lane's owner before the first write to it. Cost: O(1) for a known owner, O(L) to take or free.
package lane

import "time"

// Common is the number of the lane that is shared by all who find no other.
const Common = 0

// Linger is how long a lane stays taken after its last record was completed. A minute outlives the marks that replicas of enqueue may
// still act on, so that a source that spills now and then does not change its lane each time.
const Linger = time.Minute

// Key is who a lane belongs to.
type Key struct{ Source, Type string }

// slot is one lane. The zero value is free.
type slot struct {
	owner   Key
	taken   bool
	drained time.Time // when its last record was completed; zero while it holds any, or may
}

// Table is the lanes of one shard. New makes one. Not safe for concurrent use.
type Table struct {
	slots []slot // by number; slots[Common] stays free
	byKey map[Key]int
}

// New returns a table of n lanes, all of them free. n is at least 1.
func New(n int) *Table {
	return &Table{slots: make([]slot, max(n, 1)), byKey: make(map[Key]int)}
}

// Restore says that the commit metadata names owner for a lane. It reports false when the lane is the common one, does not exist, or
// the owner has another already: then the lane keeps no owner, and what it holds is read as a stranger's.
func (t *Table) Restore(number int, owner Key) bool {
	if _, has := t.byKey[owner]; has || number <= Common || number >= len(t.slots) || t.slots[number].taken {
		return false
	}
	t.slots[number] = slot{owner: owner, taken: true}
	t.byKey[owner] = number
	return true
}

// Take returns the lane of owner, and whether it was taken just now: then its owner is to be committed before the first write. Common
// means that no lane is free.
func (t *Table) Take(owner Key) (number int, fresh bool) {
	if number, has := t.byKey[owner]; has {
		t.slots[number].drained = time.Time{}
		return number, false
	}
	for number := Common + 1; number < len(t.slots); number++ {
		if !t.slots[number].taken {
			t.slots[number] = slot{owner: owner, taken: true}
			t.byKey[owner] = number
			return number, true
		}
	}
	return Common, false
}

// Of returns the lane that owner has.
func (t *Table) Of(owner Key) (number int, has bool) {
	number, has = t.byKey[owner]
	return number, has
}

// Owner returns who has a lane.
func (t *Table) Owner(number int) (Key, bool) {
	if number < 0 || number >= len(t.slots) {
		return Key{}, false
	}
	return t.slots[number].owner, t.slots[number].taken
}

// Drained says whether a taken lane holds nothing that is unfinished, and reports whether it has been so for Linger: then the shell
// may Free it.
func (t *Table) Drained(now time.Time, number int, empty bool) (linger bool) {
	s := &t.slots[number]
	switch {
	case !s.taken || !empty:
		s.drained = time.Time{}
		return false
	case s.drained.IsZero():
		s.drained = now
	}
	return now.Sub(s.drained) >= Linger
}

// Free takes a lane from its owner.
func (t *Table) Free(number int) {
	if s := t.slots[number]; s.taken {
		delete(t.byKey, s.owner)
		t.slots[number] = slot{}
	}
}

// Count returns how many lanes are taken and how many are free, without the common one.
func (t *Table) Count() (taken, free int) {
	return len(t.byKey), len(t.slots) - 1 - len(t.byKey)
}

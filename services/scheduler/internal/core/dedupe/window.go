// Package dedupe remembers the ids of settled jobs, so that the same job does not run twice within a window.
package dedupe

import "time"

// ID is a job's id.
type ID = [16]byte

// Window remembers ids, each up to a time, within a byte budget: the oldest give way. The zero value remembers none.
type Window struct {
	ids  map[ID]entry
	ring []place // by time, from head
	head int
}

type entry struct {
	until  int32 // seconds of engine time
	digest uint32
}

type place struct {
	id    ID
	until int32
}

// entryBytes is what one remembered id costs: a map slot at the usual load, and its place in the ring.
const entryBytes = 24*3/2 + 20

// Add remembers id up to a time; it returns how many younger than their window had to give way.
func (w *Window) Add(t time.Duration, id ID, digest uint32, upTo time.Duration, budget int) (evicted int64) {
	w.Expire(t)
	until := int32(upTo / time.Second)
	if w.ids == nil {
		w.ids = make(map[ID]entry)
	}
	w.ids[id] = entry{until: until, digest: digest}
	w.ring = append(w.ring, place{id: id, until: until})
	for len(w.ids)*entryBytes > budget {
		w.pop()
		evicted++
	}
	return evicted
}

// Find reports whether id is remembered, and its payload's digest.
func (w *Window) Find(t time.Duration, id ID) (digest uint32, ok bool) {
	v, ok := w.ids[id]
	return v.digest, ok && v.until >= int32(t/time.Second)
}

// Expire forgets what is past its window, the ring's order being that of time as long as the window stays the same;
// after a window was shortened, ids stay up to the old one.
func (w *Window) Expire(t time.Duration) {
	now := int32(t / time.Second)
	for w.head < len(w.ring) && w.ring[w.head].until < now {
		w.pop()
	}
}

func (w *Window) pop() {
	first := w.ring[w.head]
	if v, ok := w.ids[first.id]; ok && v.until == first.until {
		delete(w.ids, first.id)
	}
	w.head++
	if w.head > 64 && w.head*2 > len(w.ring) { // amortised: each copy moves at most as many as were dropped
		w.ring = w.ring[:copy(w.ring, w.ring[w.head:])]
		w.head = 0
	}
}

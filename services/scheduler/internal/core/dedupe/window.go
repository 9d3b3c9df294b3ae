// Package dedupe remembers the ids of settled jobs, so that the same job does not run twice within a window.
package dedupe

import "time"

// ID is a job's id.
type ID = [16]byte

// Window remembers ids, each up to a time, within a byte budget: the oldest give way. The zero value remembers none.
type Window struct {
	ids map[ID]entry
	// ring holds the ids by time, in blocks of equal size: from head in the first block to tail in the last. Growing moves nothing.
	ring       []*block
	head, tail int
}

type entry struct {
	until  int32 // seconds of engine time
	digest uint32
}

type place struct {
	id    ID
	until int32
}

// blockPlaces is how many ids a block of the ring holds: small enough for a source with a handful of keys.
const blockPlaces = 64

type block [blockPlaces]place

// entryBytes is what one remembered id costs: a map slot at its usual load, and its place in the ring (TestEntryBytes).
const entryBytes = 64

// Add remembers id up to a time; it returns how many younger than their window had to give way.
func (w *Window) Add(t time.Duration, id ID, digest uint32, upTo time.Duration, budget int) (evicted int64) {
	w.Expire(t)
	until := int32(upTo / time.Second)
	if w.ids == nil {
		w.ids = make(map[ID]entry)
	}
	w.ids[id] = entry{until: until, digest: digest}
	if len(w.ring) == 0 || w.tail == blockPlaces {
		w.ring, w.tail = append(w.ring, new(block)), 0
	}
	w.ring[len(w.ring)-1][w.tail] = place{id: id, until: until}
	w.tail++
	for w.Bytes() > budget {
		w.pop()
		evicted++
	}
	return evicted
}

// Bytes is what the window takes of memory.
func (w *Window) Bytes() int { return len(w.ids) * entryBytes }

// Evict has the oldest give way, so that at least so many bytes are free, and returns how many did.
func (w *Window) Evict(bytes int) (evicted int64) {
	for least := w.Bytes() - bytes; w.Bytes() > max(0, least); evicted++ {
		w.pop()
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
	for len(w.ring) > 0 && w.ring[0][w.head].until < now {
		w.pop()
	}
}

// pop forgets the oldest. The ring is not empty.
func (w *Window) pop() {
	first := w.ring[0][w.head]
	if v, ok := w.ids[first.id]; ok && v.until == first.until {
		delete(w.ids, first.id)
	}
	w.head++
	if len(w.ring) == 1 && w.head == w.tail {
		w.ring, w.head, w.tail = nil, 0, 0
		return
	}
	if w.head == blockPlaces {
		w.ring[0] = nil
		w.ring, w.head = w.ring[1:], 0
	}
}

// places is how many ids the ring holds, those that were told again twice.
func (w *Window) places() int {
	return len(w.ring)*blockPlaces - w.head - (blockPlaces-w.tail)*min(1, len(w.ring))
}

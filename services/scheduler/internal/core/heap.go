package core

import (
	"time"
)

// item is what a heap holds: a pointer that knows its place, so that it can be moved or taken out in O(log n).
type item[T any] interface {
	comparable
	before(T) bool
	// slot is where the item's place is kept: 1 + its index, 0 = in no heap. An item is in at most one heap.
	slot() *int32
}

// heap is a binary min-heap of items that know their place.
type heap[T item[T]] struct{ a []T }

func (h *heap[T]) len() int { return len(h.a) }

// top is the first item; the heap must not be empty.
func (h *heap[T]) top() T { return h.a[0] }

func (h *heap[T]) push(x T) {
	h.a = append(h.a, x)
	*x.slot() = int32(len(h.a))
	h.up(len(h.a) - 1)
}

// remove takes x out; x must be in this heap.
func (h *heap[T]) remove(x T) {
	i, last := int(*x.slot())-1, len(h.a)-1
	*x.slot() = 0
	var none T
	moved := h.a[last]
	h.a[last] = none
	h.a = h.a[:last]
	if i == last {
		return
	}
	h.a[i] = moved
	*moved.slot() = int32(i + 1)
	h.fix(moved)
}

// fix restores the order after x's key changed; x must be in this heap.
func (h *heap[T]) fix(x T) {
	i := int(*x.slot()) - 1
	if h.up(i) == i {
		h.down(i)
	}
}

func (h *heap[T]) up(i int) int {
	x := h.a[i]
	for i > 0 {
		parent := (i - 1) / 2
		y := h.a[parent]
		if !x.before(y) {
			break
		}
		h.a[i] = y
		*y.slot() = int32(i + 1)
		i = parent
	}
	h.a[i] = x
	*x.slot() = int32(i + 1)
	return i
}

func (h *heap[T]) down(i int) {
	x := h.a[i]
	for {
		child := 2*i + 1
		if child >= len(h.a) {
			break
		}
		if child+1 < len(h.a) && h.a[child+1].before(h.a[child]) {
			child++
		}
		y := h.a[child]
		if !y.before(x) {
			break
		}
		h.a[i] = y
		*y.slot() = int32(i + 1)
		i = child
	}
	h.a[i] = x
	*x.slot() = int32(i + 1)
}

// moment is engine time: since the first now the engine was told. It never goes back.
type moment = time.Duration

// never is later than every moment.
const never moment = 1<<63 - 1

// timer wakes one job, source or flow; exactly one of the three is set.
type timer struct {
	at   moment
	idx  int32
	job  *Job
	src  *source
	flow *flow
}

func (t *timer) before(u *timer) bool { return t.at < u.at }
func (t *timer) slot() *int32         { return &t.idx }

// arm sets the timer, whether or not it was set; never disarms it.
func (e *Engine) arm(t *timer, at moment) {
	switch {
	case at == never:
		if t.idx != 0 {
			e.timers.remove(t)
		}
	case t.idx != 0:
		t.at = at
		e.timers.fix(t)
	default:
		t.at = at
		e.timers.push(t)
	}
}

// seen remembers settled ids for a window, within a byte budget; the oldest give way.
type seen struct {
	ids  map[JobID]seenJob
	ring []seenID // by time, from head
	head int
}

type seenJob struct {
	until  int32 // seconds of engine time
	digest uint32
}

type seenID struct {
	id    JobID
	until int32
}

// seenBytes is what one remembered id costs: a map slot at the usual load, and its place in the ring.
const seenBytes = 24*3/2 + 20

// add remembers id up to a time; it returns how many younger than their window had to give way.
func (s *seen) add(t moment, id JobID, digest uint32, upTo moment, budget int) (evicted int64) {
	s.expire(t)
	until := int32(upTo / time.Second)
	if s.ids == nil {
		s.ids = make(map[JobID]seenJob)
	}
	s.ids[id] = seenJob{until: until, digest: digest}
	s.ring = append(s.ring, seenID{id: id, until: until})
	for len(s.ids)*seenBytes > budget {
		s.pop()
		evicted++
	}
	return evicted
}

// find reports whether id was settled within its window.
func (s *seen) find(t moment, id JobID) (digest uint32, ok bool) {
	v, ok := s.ids[id]
	return v.digest, ok && v.until >= int32(t/time.Second)
}

// expire forgets what is past its window, the ring's order being that of time as long as the window stays the same;
// after a window was shortened, ids stay up to the old one.
func (s *seen) expire(t moment) {
	now := int32(t / time.Second)
	for s.head < len(s.ring) && s.ring[s.head].until < now {
		s.pop()
	}
}

func (s *seen) pop() {
	first := s.ring[s.head]
	if v, ok := s.ids[first.id]; ok && v.until == first.until {
		delete(s.ids, first.id)
	}
	s.head++
	if s.head > 64 && s.head*2 > len(s.ring) { // amortised: each copy moves at most as many as were dropped
		s.ring = s.ring[:copy(s.ring, s.ring[s.head:])]
		s.head = 0
	}
}

package core

import (
	"hash/fnv"
	"iter"
	"sort"
)

// EntryOverhead is what an entry counts beside its frame: itself, the room that the ring has to grow, and the rounding of allocations.
const EntryOverhead = 160

// Entry is one notification in the form in which it is sent.
type Entry struct {
	// Offset is that of its record.
	Offset int64
	// Channel is what it is addressed to.
	Channel Channel
	// Frame is the whole websocket frame, shared by all that get it; nobody writes into it.
	Frame []byte
	// Expires is when it is not delivered any more, in milliseconds since 1970. 0: never.
	Expires int64
}

// Expired tells whether the entry is not delivered any more, at a time in milliseconds since 1970.
func (e *Entry) Expired(now int64) bool { return e.Expires != 0 && now >= e.Expires }

// Ring keeps the newest records of one partition, at most so many bytes of them. It has an owner and no lock. Append is O(1), finding an offset
// O(log n).
//
// Invariants: every notification of the partition with an offset in [Start, Next) is in it, and Missed is true for every channel of one below Start
// (TestTheRingHoldsTheNewestThatFit, deliver's TestNothingIsMissedInSilence).
type Ring struct {
	entries    []Entry // a circle, the oldest at head
	head, size int
	bytes, max int64
	floor      int64 // the first offset that it ever knew
	start      int64
	next       int64
	lost       [lostBuckets]int64 // by hash of the channel: the offset after the newest entry that was dropped
}

// lostBuckets is how finely the ring remembers which channels have lost something: 32 KiB. Two channels that share a bucket share its gaps.
const lostBuckets = 4096

// NewRing returns an empty ring that begins at an offset and keeps at most max bytes, each entry counted with EntryOverhead. The newest entry is
// kept in any case.
func NewRing(max, start int64) *Ring { return &Ring{max: max, floor: start, start: start, next: start} }

// Start is the first offset of which the ring knows everything.
func (r *Ring) Start() int64 { return r.start }

// Next is the offset from which on it knows nothing yet.
func (r *Ring) Next() int64 { return r.next }

// Bytes is what it holds.
func (r *Ring) Bytes() int64 { return r.bytes }

// Len is how many entries it holds.
func (r *Ring) Len() int { return r.size }

// Append adds an entry whose offset is Next or later, and drops the oldest that do not fit any more.
func (r *Ring) Append(e Entry) {
	r.Skip(e.Offset + 1)
	if r.size == len(r.entries) {
		r.grow()
	}
	r.entries[(r.head+r.size)%len(r.entries)] = e
	r.size++
	r.bytes += weight(&e)
	for r.bytes > r.max && r.size > 1 {
		oldest := &r.entries[r.head]
		r.bytes -= weight(oldest)
		r.start = oldest.Offset + 1
		r.lost[lostIn(oldest.Channel)] = r.start
		*oldest = Entry{}
		r.head = (r.head + 1) % len(r.entries)
		r.size--
	}
}

// Missed tells whether the ring may have dropped, or never had, a notification of the channel at or above an offset. Then only a gap is honest; else
// the entries From that offset are all that there is.
func (r *Ring) Missed(c Channel, from int64) bool { return from < r.floor || r.lost[lostIn(c)] > from }

func lostIn(c Channel) int {
	h := fnv.New32a()
	h.Write([]byte(c))
	return int(h.Sum32() % lostBuckets)
}

// Skip says that nothing is to be delivered below an offset that is not in the ring.
func (r *Ring) Skip(next int64) { r.next = max(r.next, next) }

// Reset empties the ring: it begins anew at an offset, because what lies before it cannot be read.
func (r *Ring) Reset(start int64) { *r = *NewRing(r.max, start) }

// From goes through the entries at or above an offset, in order. The ring must not change meanwhile.
func (r *Ring) From(offset int64) iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		i := 0
		if offset > r.start {
			i = sort.Search(r.size, func(i int) bool { return r.at(i).Offset >= offset })
		}
		for ; i < r.size; i++ {
			if !yield(r.at(i)) {
				return
			}
		}
	}
}

func (r *Ring) at(i int) *Entry { return &r.entries[(r.head+i)%len(r.entries)] }

func (r *Ring) grow() {
	larger := make([]Entry, max(16, 2*len(r.entries)))
	for i := range r.size {
		larger[i] = *r.at(i)
	}
	r.entries, r.head = larger, 0
}

func weight(e *Entry) int64 { return int64(len(e.Frame)) + EntryOverhead }

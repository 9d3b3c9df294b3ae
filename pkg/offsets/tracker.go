package offsets

import (
	"math/bits"
	"slices"
)

// Limit is the most offsets that may lie between the lowest incomplete one and
// the next one to be read. 4,096 keeps the worst case of the metadata within a
// small multiple of what fits into it, while one partition may still have more
// work in flight than a whole pool of workers has slots.
const Limit = 4096

// Verdict is a tracker's answer to a record that was read.
type Verdict uint8

const (
	// Fresh: the offset is now incomplete; the caller works on its record and
	// calls Done.
	Fresh Verdict = iota + 1
	// Completed: the offset was done before the last restart. Drop the record.
	Completed
	// Seen: the offset lies below the next one to be read, it was added before
	// or belongs to a gap. Drop the record.
	Seen
	// Full: the window has no room for the offset. Nothing changed; keep the
	// record and offer it again once Low has moved.
	Full
)

// Tracker is the window of one partition. The zero value is not usable; New
// makes one. It is not safe for concurrent use.
type Tracker struct {
	limit int64
	// low is the lowest incomplete offset, or next when nothing is incomplete.
	low int64
	// next is the lowest offset that was never added. low ≤ next ≤ low+limit.
	next int64
	// done holds one bit per offset of [low, next) in a ring of len(done)*64
	// offsets, which is at least limit; bits outside of the window are stale.
	done []uint64
	// ahead are the completed runs that the reader has not reached, restored from
	// metadata or skipped: ascending, apart from each other, none wholly below next.
	ahead []span
	// pending counts the incomplete offsets of the window.
	pending int
	version uint64
}

// span is the half-open interval [first, next) of offsets.
type span struct{ first, next int64 }

// New returns the tracker of a partition whose committed offset is next and
// whose completed runs above it are done. limit bounds the window (Limit in
// production); it must be at least 1.
func New(next int64, done Ranges, limit int) *Tracker {
	limit = max(limit, 1)
	words := 1
	for words*64 < limit {
		words *= 2
	}
	t := &Tracker{limit: int64(limit), low: next, next: next, done: make([]uint64, words)}
	for first, end := range done.Spans(next) {
		if n := len(t.ahead); n > 0 && t.ahead[n-1].next == first {
			t.ahead[n-1].next = end
		} else if end > first {
			t.ahead = append(t.ahead, span{first, end})
		}
	}
	t.settle()
	return t
}

// Add takes the offset of a record that was read. Records come in ascending
// order; the offsets that were skipped since the one before are gaps and count
// as complete. See Verdict for what the caller does next.
func (t *Tracker) Add(offset int64) Verdict {
	switch {
	case offset < t.next:
		return Seen
	case t.low == t.next:
		// Nothing is incomplete: a jump pins nothing, whatever its length.
		t.low = offset
	case offset-t.low >= t.limit:
		return Full
	default:
		for o := t.next; o < offset; o++ {
			t.set(o)
		}
	}
	verdict := Fresh
	if t.wasDone(offset) {
		verdict = Completed
		t.set(offset)
	} else {
		t.clear(offset)
		t.pending++
	}
	t.next = offset + 1
	t.settle()
	t.version++
	return verdict
}

// Done completes an offset. It reports whether the offset was incomplete until
// now: false for one that was never added, is a gap or was done before.
func (t *Tracker) Done(offset int64) bool {
	if offset < t.low || offset >= t.next || t.get(offset) {
		return false
	}
	t.set(offset)
	t.pending--
	t.settle()
	t.version++
	return true
}

// Skip completes an offset that was not read yet: Add will find it Completed, also after a restart from Ranges. One that was read is Done.
func (t *Tracker) Skip(offset int64) {
	if offset < t.next {
		t.Done(offset)
		return
	}
	i, covered := slices.BinarySearchFunc(t.ahead, offset, func(s span, offset int64) int {
		switch {
		case s.next <= offset:
			return -1
		case s.first > offset:
			return 1
		}
		return 0
	})
	if covered {
		return
	}
	t.ahead = slices.Insert(t.ahead, i, span{offset, offset + 1})
	if i+1 < len(t.ahead) && t.ahead[i+1].first == offset+1 {
		t.ahead[i].next = t.ahead[i+1].next
		t.ahead = slices.Delete(t.ahead, i+1, i+2)
	}
	if i > 0 && t.ahead[i-1].next == offset {
		t.ahead[i-1].next = t.ahead[i].next
		t.ahead = slices.Delete(t.ahead, i, i+1)
	}
	t.settle()
	t.version++
}

// settle restores the invariant of low after a change: it moves low over
// completed offsets, and drops or swallows what was restored below next.
func (t *Tracker) settle() {
	for t.low < t.next {
		// The bits of one word from low on; beyond next they are stale.
		shift := uint(t.low) & 63
		run := int64(bits.TrailingZeros64(^(t.done[t.word(t.low)] >> shift)))
		run = min(run, 64-int64(shift), t.next-t.low)
		t.low += run
		if run == 0 || (run < 64-int64(shift) && t.low < t.next) {
			break
		}
	}
	for len(t.ahead) > 0 {
		s := t.ahead[0]
		if s.next > t.next && (s.first > t.next || t.low < t.next) {
			break // still to be read, and low cannot jump to its end
		}
		t.ahead = t.ahead[1:]
		if t.low == t.next && s.first <= t.next && s.next > t.next {
			t.low, t.next = s.next, s.next
		}
	}
}

// wasDone reports whether a restored run covers offset, which is at or above
// next. Runs wholly below it are dropped by settle once next has passed them.
func (t *Tracker) wasDone(offset int64) bool {
	for _, s := range t.ahead {
		if offset < s.first {
			return false
		}
		if offset < s.next {
			return true
		}
	}
	return false
}

// Low is the offset to commit: the lowest incomplete one, or the next one to be
// read when nothing is incomplete.
func (t *Tracker) Low() int64 { return t.low }

// Next is the lowest offset that was not added yet: where reading goes on.
func (t *Tracker) Next() int64 { return t.next }

// Window is the number of offsets between the lowest incomplete one and the next
// one to be read: 0 when nothing is incomplete, at most the limit.
func (t *Tracker) Window() int { return int(t.next - t.low) }

// Pending is the number of incomplete offsets.
func (t *Tracker) Pending() int { return t.pending }

// Oldest is the lowest incomplete offset, the one that holds Low back; false
// when nothing is incomplete.
func (t *Tracker) Oldest() (int64, bool) { return t.low, t.low < t.next }

// Version changes whenever Low or Ranges may have changed: a committer compares
// it with the version it committed last.
func (t *Tracker) Version() uint64 { return t.version }

// Ranges returns the completed runs above Low, ascending and canonical. Together
// with Low they restore the tracker: New(Low(), Ranges(), limit).
func (t *Tracker) Ranges() Ranges {
	var out Ranges
	end := t.low // end of the last run, or Low
	add := func(first, next int64) {
		if n := len(out); n > 0 && first == end {
			out[n-1].Length += next - first
		} else {
			out = append(out, Range{Gap: first - end, Length: next - first})
		}
		end = next
	}
	for o := t.low; o < t.next; {
		shift := uint(o) & 63
		left := min(64-int64(shift), t.next-o)
		word := t.done[t.word(o)] >> shift
		if word&1 == 0 {
			o += min(int64(bits.TrailingZeros64(word)), left)
			continue
		}
		run := min(int64(bits.TrailingZeros64(^word)), left)
		add(o, o+run)
		o += run
	}
	for _, s := range t.ahead {
		if s.next > t.next {
			add(max(s.first, t.next), s.next)
		}
	}
	return out
}

func (t *Tracker) word(offset int64) int { return int(offset>>6) & (len(t.done) - 1) }

func (t *Tracker) get(offset int64) bool {
	return t.done[t.word(offset)]&(1<<(uint(offset)&63)) != 0
}

func (t *Tracker) set(offset int64) { t.done[t.word(offset)] |= 1 << (uint(offset) & 63) }

func (t *Tracker) clear(offset int64) { t.done[t.word(offset)] &^= 1 << (uint(offset) & 63) }

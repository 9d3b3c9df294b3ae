package offsets

import "iter"

// Range is one run of completed offsets, written relative to what precedes it:
// Gap incomplete offsets (counted from the committed offset for the first range,
// from the end of the range before for the others), then Length completed ones.
// Both are at least 1 in a canonical list.
type Range struct {
	Gap, Length int64
}

// Ranges is a list of completed runs above a committed offset, ascending. It is
// relative to that offset and means nothing without it.
type Ranges []Range

// Spans yields every run as the half-open interval [first, next) of offsets, for
// the committed offset low.
func (r Ranges) Spans(low int64) iter.Seq2[int64, int64] {
	return func(yield func(first, next int64) bool) {
		at := low
		for _, x := range r {
			first := at + x.Gap
			at = first + x.Length
			if !yield(first, at) {
				return
			}
		}
	}
}

// Contains reports whether offset lies in one of the runs above low.
func (r Ranges) Contains(low, offset int64) bool {
	for first, next := range r.Spans(low) {
		if offset < first {
			return false
		}
		if offset < next {
			return true
		}
	}
	return false
}

// Len is the number of completed offsets in all runs.
func (r Ranges) Len() int64 {
	var n int64
	for _, x := range r {
		n += x.Length
	}
	return n
}

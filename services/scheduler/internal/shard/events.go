package shard

import (
	"slices"

	"github.com/spillway/spillway/pkg/offsets"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

// count adds one job to the outcome's count.
func count(c *offsets.Counts, outcome jobv1.Outcome) {
	switch outcome {
	case jobv1.Outcome_OUTCOME_SUCCEEDED:
		c.Succeeded++
	case jobv1.Outcome_OUTCOME_DEAD:
		c.Dead++
	case jobv1.Outcome_OUTCOME_EXPIRED:
		c.Expired++
	case jobv1.Outcome_OUTCOME_PURGED:
		c.Purged++
	case jobv1.Outcome_OUTCOME_CANCELLED:
		c.Cancelled++
	case jobv1.Outcome_OUTCOME_SUPERSEDED:
		c.Superseded++
	}
}

// events is which events of a shard's outcomes are still needed. It answers what to commit for outcomes: the lowest event that can
// still matter, and the counts of all below it.
//
// Events that are not needed any more are kept as runs, because one event can be needed for as long as a lane is held: memory is in
// proportion to the events that are needed, not to those since the lowest of them.
type events struct {
	list   []event        // ascending, apart from each other; no two runs beside each other, and the first is needed
	next   int64          // above all that were added
	counts offsets.Counts // of everything below the low; Fence is not kept up
	fences []int64        // ascending: the last one below the low, if it is known, and all above
}

// event is one that is needed, or a run of those that are not.
type event struct {
	first, last int64
	done        bool
	outcome     jobv1.Outcome  // of one: unspecified if it is not terminal, or another one came first
	counts      offsets.Counts // of a run
}

// add says that an event is at offset, above those that were added before. Adding one again changes nothing.
func (l *events) add(offset int64, outcome jobv1.Outcome) {
	if offset < l.next {
		return
	}
	l.list = append(l.list, event{first: offset, last: offset, outcome: outcome})
	l.next = offset + 1
}

// at finds the event at offset, or the run that it is in.
func (l *events) at(offset int64) (i int, has bool) {
	return slices.BinarySearchFunc(l.list, offset, func(e event, offset int64) int {
		switch {
		case e.last < offset:
			return -1
		case e.first > offset:
			return 1
		}
		return 0
	})
}

// uncounted says that the event, which is needed, tells of no new outcome.
func (l *events) uncounted(offset int64) {
	if i, has := l.at(offset); has && !l.list[i].done {
		l.list[i].outcome = jobv1.Outcome_OUTCOME_UNSPECIFIED
	}
}

// done says that nobody needs the event any more.
func (l *events) done(offset int64) {
	i, has := l.at(offset)
	if !has || l.list[i].done {
		return
	}
	e := &l.list[i]
	e.done = true
	count(&e.counts, e.outcome)
	if i+1 < len(l.list) && l.list[i+1].done {
		e.last = l.list[i+1].last
		e.counts.Add(l.list[i+1].counts)
		l.list = slices.Delete(l.list, i+1, i+2)
	}
	if i > 0 && l.list[i-1].done {
		l.list[i-1].last = l.list[i].last
		l.list[i-1].counts.Add(l.list[i].counts)
		l.list = slices.Delete(l.list, i, i+1)
	}
	if l.list[0].done {
		l.counts.Add(l.list[0].counts)
		l.list = slices.Delete(l.list, 0, 1)
	}
}

// low is the lowest event that is still needed, or the offset after the last.
func (l *events) low() int64 {
	if len(l.list) > 0 {
		return l.list[0].first
	}
	return l.next
}

// fenced says that there is a fence at offset.
func (l *events) fenced(offset int64) {
	if n := len(l.fences); n == 0 || l.fences[n-1] < offset {
		l.fences = append(l.fences, offset)
	}
}

// account is what to commit beside low.
func (l *events) account() offsets.Counts {
	low, counts := l.low(), l.counts
	for len(l.fences) > 1 && l.fences[1] < low {
		l.fences = l.fences[1:]
	}
	if counts.Fence = 0; len(l.fences) > 0 && l.fences[0] < low {
		counts.Fence = l.fences[0]
	}
	return counts
}

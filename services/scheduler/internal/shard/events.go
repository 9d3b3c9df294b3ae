package shard

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

// Counts is the ledger's running account of a shard: how many distinct jobs have each outcome. It travels in the commit metadata of
// outcomes, as the numbers in the order of the fields, separated by commas.
type Counts struct{ Succeeded, Dead, Expired, Purged, Cancelled, Superseded int64 }

func (c *Counts) add(outcome jobv1.Outcome) {
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

func (c *Counts) merge(d Counts) {
	c.Succeeded += d.Succeeded
	c.Dead += d.Dead
	c.Expired += d.Expired
	c.Purged += d.Purged
	c.Cancelled += d.Cancelled
	c.Superseded += d.Superseded
}

// String is the form in the commit metadata.
func (c Counts) String() string {
	return fmt.Sprintf("%d,%d,%d,%d,%d,%d", c.Succeeded, c.Dead, c.Expired, c.Purged, c.Cancelled, c.Superseded)
}

// ParseCounts reads what String wrote. The empty text is a shard that has settled nothing.
func ParseCounts(text string) (Counts, error) {
	if text == "" {
		return Counts{}, nil
	}
	parts := strings.Split(text, ",")
	var n [6]int64
	if len(parts) < len(n) {
		return Counts{}, fmt.Errorf("shard: not the counts of a ledger: %.100q", text)
	}
	for i := range n { // a later release may write more of them
		v, err := strconv.ParseInt(parts[i], 10, 64)
		if err != nil || v < 0 {
			return Counts{}, fmt.Errorf("shard: not the counts of a ledger: %.100q", text)
		}
		n[i] = v
	}
	return Counts{n[0], n[1], n[2], n[3], n[4], n[5]}, nil
}

// events is which events of a shard's outcomes are still needed. It answers what to commit for outcomes: the lowest event that can
// still matter, and the counts of all below it.
//
// Events that are not needed any more are kept as runs, because one event can be needed for as long as a lane is held: memory is in
// proportion to the events that are needed, not to those since the lowest of them.
type events struct {
	list   []event // ascending, apart from each other; no two runs beside each other, and the first is needed
	next   int64   // above all that were added
	counts Counts  // of everything below the low
}

// event is one that is needed, or a run of those that are not.
type event struct {
	first, last int64
	done        bool
	outcome     jobv1.Outcome // of one: unspecified if it is not terminal, or another one came first
	counts      Counts        // of a run
}

// add says that an event is at offset, above those that were added before. Adding one again changes nothing.
func (l *events) add(offset int64, outcome jobv1.Outcome) {
	if offset < l.next {
		return
	}
	l.list = append(l.list, event{first: offset, last: offset, outcome: outcome})
	l.next = offset + 1
}

// done says that nobody needs the event any more.
func (l *events) done(offset int64) {
	i, has := slices.BinarySearchFunc(l.list, offset, func(e event, offset int64) int {
		switch {
		case e.last < offset:
			return -1
		case e.first > offset:
			return 1
		}
		return 0
	})
	if !has || l.list[i].done {
		return
	}
	e := &l.list[i]
	e.done = true
	e.counts.add(e.outcome)
	if i+1 < len(l.list) && l.list[i+1].done {
		e.last = l.list[i+1].last
		e.counts.merge(l.list[i+1].counts)
		l.list = slices.Delete(l.list, i+1, i+2)
	}
	if i > 0 && l.list[i-1].done {
		l.list[i-1].last = l.list[i].last
		l.list[i-1].counts.merge(l.list[i].counts)
		l.list = slices.Delete(l.list, i, i+1)
	}
	if l.list[0].done {
		l.counts.merge(l.list[0].counts)
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

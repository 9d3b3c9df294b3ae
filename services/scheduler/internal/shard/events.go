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
	for i, part := range parts {
		v, err := strconv.ParseInt(part, 10, 64)
		if err != nil || v < 0 || len(parts) != len(n) {
			return Counts{}, fmt.Errorf("shard: not the counts of a ledger: %.100q", text)
		}
		n[i] = v
	}
	return Counts{n[0], n[1], n[2], n[3], n[4], n[5]}, nil
}

// events is which events of a shard's outcomes are still needed. It answers what to commit for outcomes: the lowest event that can
// still matter, and the counts of all below it. Bound: the events of unsettled or uncommitted jobs, 24 bytes each.
type events struct {
	list   []event // ascending by offset
	next   int64   // above all that were added
	counts Counts  // of everything below the low
}

type event struct {
	offset  int64
	outcome jobv1.Outcome // unspecified: not terminal, or another one came first
	done    bool
}

// add says that an event is at offset. Adding one twice changes nothing.
func (l *events) add(offset int64, outcome jobv1.Outcome) {
	i, has := l.find(offset)
	if has || offset < l.low() {
		return
	}
	l.list = slices.Insert(l.list, i, event{offset: offset, outcome: outcome})
	l.next = max(l.next, offset+1)
}

// done says that nobody needs the event any more.
func (l *events) done(offset int64) {
	if i, has := l.find(offset); has {
		l.list[i].done = true
	}
	n := 0
	for n < len(l.list) && l.list[n].done {
		l.counts.add(l.list[n].outcome)
		n++
	}
	l.list = slices.Delete(l.list, 0, n)
}

// low is the lowest event that is still needed, or the offset after the last.
func (l *events) low() int64 {
	if len(l.list) > 0 {
		return l.list[0].offset
	}
	return l.next
}

func (l *events) find(offset int64) (int, bool) {
	return slices.BinarySearchFunc(l.list, offset, func(e event, offset int64) int {
		switch {
		case e.offset < offset:
			return -1
		case e.offset > offset:
			return 1
		}
		return 0
	})
}

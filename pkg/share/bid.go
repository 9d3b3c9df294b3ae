package share

import "time"

const (
	// TicketValidity is how long a ticket keeps its slot. It covers a round trip
	// and a scheduling delay of the replica; longer would let a stopped replica
	// idle the slots it was given.
	TicketValidity = 20 * time.Millisecond

	// TagSlack is how far below the tag of the latest grant, in worker-seconds, a
	// bid may claim to be. Without the bound a replica whose flows were idle for
	// long would win every slot until its tags have caught up.
	TagSlack = 0.25

	// CreditNear and CreditFar are the longest time a replica's view of the open
	// slots may be out of date: near when few slots are open, because then a wrong
	// view costs a bounced grant or an idle slot; far otherwise.
	CreditNear = time.Millisecond
	// CreditFar is the far one.
	CreditFar = 50 * time.Millisecond

	// Priorities is the number of priorities; a Priority is below it.
	Priorities = 5
)

// Priority is a job's urgency: 0 is bulk, 4 is critical.
type Priority uint8

// Bid is what a replica would grant next to this worker if it had a slot.
// N = 0 withdraws what was bid before.
type Bid struct {
	N        int      // jobs it could grant at once, ≥ 0
	Rank     int      // 0 goes first; scheduling order over priorities and floors
	Priority Priority // of the job it would grant first
	Tag      float64  // fair-order tag of that job's source, worker-seconds
}

// Before reports whether b is served before o. Equal bids are not before each
// other.
func (b Bid) Before(o Bid) bool {
	if b.Rank != o.Rank {
		return b.Rank < o.Rank
	}
	if b.Priority != o.Priority {
		return b.Priority > o.Priority
	}
	return b.Tag < o.Tag
}

// Grant is what the worker reads of a lease to decide whether it has a slot.
type Grant struct {
	Ticket   bool // granted against a ticket; false: into an open slot
	Priority Priority
	Tag      float64
}

// Credit tells one replica about the open slots.
type Credit struct {
	Free int   // open slots
	Seen int64 // open grants of this replica received since its stream opened
}

// Tag is the tag of the latest grant of one priority.
type Tag struct {
	Priority Priority
	Value    float64
}

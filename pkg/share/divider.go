package share

import "time"

// Divider divides the slots of one worker. The zero value is not usable: New.
// Invariant: 0 ≤ running, 0 ≤ held, running + held ≤ slots (TestDividerModel).
type Divider struct {
	slots   int
	running int // accepted and not yet freed
	held    int // Σ replica.tickets
	closing bool

	v        [Priorities]float64 // tag of the latest grant; may fall, never a maximum
	hasV     [Priorities]bool
	served   uint64 // counts tickets given, to break ties by who waited longest
	replicas []*replica
}

// replica is what the worker knows of one scheduler with an open stream.
type replica struct {
	id      string
	bid     Bid
	suspect bool        // let a ticket expire and was not heard since
	tickets []time.Time // when each unspent ticket ends, oldest first
	unsent  int         // tickets given and not yet taken by the stream's writer
	served  uint64

	seen    int64 // open grants received
	told    Credit
	untold  bool                // nothing was told on this stream yet
	since   time.Time           // when its view became wrong; zero: right
	toldV   [Priorities]float64 // tags as this replica knows them
	toldHas [Priorities]bool
}

// believes is the number of open slots that the replica counts with: what it
// was told, less the open grants that came after.
func (r *replica) believes() int { return r.told.Free - int(r.seen-r.told.Seen) }

// New returns the divider of a worker with that many slots, all free.
func New(slots int) *Divider { return &Divider{slots: max(0, slots)} }

// Free is the number of open slots: neither running nor held by a ticket.
func (d *Divider) Free() int {
	if d.closing {
		return 0
	}
	return max(0, d.slots-d.running-d.held)
}

// Running is the number of jobs accepted and not yet freed.
func (d *Divider) Running() int { return d.running }

// Held is the number of slots kept for tickets.
func (d *Divider) Held() int { return d.held }

// Open begins a stream to replica id. A stream under the same id that was not
// closed is replaced, with its bid and tickets.
func (d *Divider) Open(now time.Time, id string) {
	d.Close(now, id)
	d.replicas = append(d.replicas, &replica{id: id, untold: true, since: now})
}

// Close ends the stream of replica id: its bid and tickets are void at once,
// their slots are offered to the others. What it granted runs on.
func (d *Divider) Close(now time.Time, id string) {
	for i, r := range d.replicas {
		if r.id != id {
			continue
		}
		d.held -= len(r.tickets)
		d.replicas = append(d.replicas[:i], d.replicas[i+1:]...)
		d.settle(now)
		return
	}
}

// Bid takes the bid of replica id, in place of its former one, and offers it
// the open slots. A bid of a replica without a stream is ignored.
func (d *Divider) Bid(now time.Time, id string, b Bid) {
	r := d.find(id)
	if r == nil {
		return
	}
	if b.Priority < Priorities && d.hasV[b.Priority] {
		b.Tag = max(b.Tag, d.v[b.Priority]-TagSlack)
	}
	r.bid, r.suspect = b, false
	d.settle(now)
}

// Grant takes a job of replica id if there is a slot for it and reports whether
// there was; if not, the job is to be returned as not started. The bid that
// rides on a lease is passed to Bid afterwards.
func (d *Divider) Grant(now time.Time, id string, g Grant) bool {
	r := d.find(id)
	if r != nil {
		r.suspect = false
		if !g.Ticket {
			r.seen++
		}
	}
	free := d.Free()
	switch {
	case g.Ticket && r != nil && len(r.tickets) > 0:
		d.spend(r, 1)
	case free > 0:
	case r != nil && r.unsent > 0:
		// The replica's bid came with this grant and has just been given the slot: as if the grant had come first.
		r.tickets = r.tickets[:len(r.tickets)-1]
		r.unsent--
		r.bid.N++
		d.held--
	case r != nil && len(r.tickets) > 0:
		d.spend(r, 1) // an open grant that crossed the replica's own ticket
	default:
		d.settle(now)
		return false
	}
	d.running++
	if g.Priority < Priorities {
		d.v[g.Priority], d.hasV[g.Priority] = g.Tag, true
	}
	d.settle(now)
	return true
}

// Freed gives n slots of finished or returned jobs back and offers them.
func (d *Divider) Freed(now time.Time, n int) {
	d.running = max(0, d.running-n)
	d.settle(now)
}

// Pass gives back n tickets that replica id had no work for, together with its
// bid, and offers their slots to the others.
func (d *Divider) Pass(now time.Time, id string, n int) {
	r := d.find(id)
	if r == nil {
		return
	}
	r.suspect, r.bid = false, Bid{}
	d.spend(r, min(max(0, n), len(r.tickets)))
	d.settle(now)
}

// Drain takes all slots that are not running out of the division for good.
func (d *Divider) Drain(now time.Time) {
	d.closing = true
	for _, r := range d.replicas {
		d.spend(r, len(r.tickets))
		r.bid, r.unsent = Bid{}, 0
	}
	d.settle(now)
}

// Tick ends the tickets whose time is over and offers their slots. The replica
// is suspect from then on: all its tickets end with the first one, because a
// replica that let one lapse is stopped or far away.
func (d *Divider) Tick(now time.Time) {
	for _, r := range d.replicas {
		if len(r.tickets) > 0 && !now.Before(r.tickets[0]) {
			d.spend(r, len(r.tickets))
			r.suspect, r.unsent = true, 0
		}
	}
	d.settle(now)
}

// Next is the earliest time at which Tick has a ticket to end; zero: never.
func (d *Divider) Next() time.Time {
	var next time.Time
	for _, r := range d.replicas {
		if len(r.tickets) > 0 && (next.IsZero() || r.tickets[0].Before(next)) {
			next = r.tickets[0]
		}
	}
	return next
}

// Due is when replica id has to be written to, because of a ticket or of credit; zero: not at all. It may be in the
// past.
func (d *Divider) Due(id string) time.Time {
	r := d.find(id)
	if r == nil {
		return time.Time{}
	}
	return d.due(r)
}

// Frame is what Take hands to the writer of one stream.
type Frame struct {
	Tickets int    // 0: none
	Credit  Credit // valid if HasCredit
	// HasCredit: the replica's view of the open slots is wrong and this mends it.
	HasCredit bool
	Tags      []Tag // tags that changed since the last frame of this stream
}

// Take hands over what is to be written to replica id, whether or not it is due
// yet, so that it rides on a frame that is written anyway. tags is appended to
// and may be nil. What is taken counts as told: a stream that fails to write it
// is closed.
func (d *Divider) Take(id string, tags []Tag) Frame {
	f := Frame{Tags: tags}
	r := d.find(id)
	if r == nil {
		return f
	}
	f.Tickets, r.unsent = r.unsent, 0
	if r.untold || r.believes() != d.Free() {
		f.Credit, f.HasCredit = d.tell(r), true
	}
	for p := range Priority(Priorities) {
		if d.hasV[p] && (!r.toldHas[p] || r.toldV[p] != d.v[p]) {
			r.toldV[p], r.toldHas[p] = d.v[p], true
			f.Tags = append(f.Tags, Tag{p, d.v[p]})
		}
	}
	return f
}

// Tell is the credit of replica id as of now, told or not: it rides on every
// Return.
func (d *Divider) Tell(id string) Credit {
	r := d.find(id)
	if r == nil {
		return Credit{}
	}
	return d.tell(r)
}

func (d *Divider) tell(r *replica) Credit {
	r.told = Credit{Free: d.Free(), Seen: r.seen}
	r.untold, r.since = false, time.Time{}
	return r.told
}

// due is when replica r has to be written to; zero: nothing to write.
func (d *Divider) due(r *replica) time.Time {
	switch {
	case r.since.IsZero() && r.unsent == 0:
		return time.Time{}
	case r.untold:
		return r.since
	case r.unsent > 0:
		return r.tickets[len(r.tickets)-r.unsent].Add(-TicketValidity)
	}
	few := max(1, d.slots/4)
	if d.Free() <= few || r.believes() <= few {
		return r.since.Add(CreditNear)
	}
	return r.since.Add(CreditFar)
}

// settle restores the two rules after any change: no slot is open while a bid
// stands, and every replica with a wrong view has a time by which it is told.
func (d *Divider) settle(now time.Time) {
	for free := d.Free(); free > 0; free-- {
		b := d.best()
		if b == nil {
			break
		}
		b.bid.N--
		b.tickets = append(b.tickets, now.Add(TicketValidity))
		b.unsent++
		d.held++
		d.served++
		b.served = d.served
	}
	free := d.Free()
	for _, r := range d.replicas {
		switch {
		case r.untold:
		case r.believes() == free:
			r.since = time.Time{}
		case r.since.IsZero():
			r.since = now
		}
	}
}

func (d *Divider) best() *replica {
	var b *replica
	for _, r := range d.replicas {
		if r.bid.N <= 0 || r.suspect {
			continue
		}
		if b == nil || r.bid.Before(b.bid) || !b.bid.Before(r.bid) && r.served < b.served {
			b = r
		}
	}
	return b
}

// spend removes the n oldest tickets of r.
func (d *Divider) spend(r *replica, n int) {
	d.held -= n
	r.tickets = r.tickets[:copy(r.tickets, r.tickets[n:])]
	r.unsent = min(r.unsent, len(r.tickets))
}

func (d *Divider) find(id string) *replica {
	for _, r := range d.replicas {
		if r.id == id {
			return r
		}
	}
	return nil
}

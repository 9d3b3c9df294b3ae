package core

import (
	"math"
	"time"

	"github.com/spillway/spillway/pkg/share"

	"github.com/spillway/spillway/services/scheduler/internal/core/heap"
)

// The decision: who is granted next, to which worker, and what to bid for when no slot is open. scheduling.md §6 is the
// rule; the names here are its names.

// choice is the part that goes first of a class.
type choice struct {
	part *part
	rank uint8
}

// before orders choices of one pool as bids are ordered.
func (c choice) before(d choice) bool { return c.bid(1).Better(d.bid(1)) }

func (c choice) bid(n int32) Bid {
	return Bid{N: n, Rank: c.rank, Priority: c.part.line.prio, Tag: c.part.line.f}
}

// Next returns the next decision; call it until Idle. It must not be called while grants are fenced.
func (e *Engine) Next(now time.Time) Action {
	t := e.advance(now)
	for {
		for e.outAt < len(e.out) {
			a := e.out[e.outAt]
			e.out[e.outAt] = Action{}
			e.outAt++
			if e.workers[a.Worker] != nil {
				return a
			}
		}
		e.out, e.outAt = e.out[:0], 0
		if len(e.dirty) == 0 {
			return Action{Kind: Idle, Until: e.wake()}
		}
		p := e.dirty[len(e.dirty)-1]
		if a, ok := e.decide(t, p); ok {
			return a
		}
		p.dirty = false
		e.dirty = e.dirty[:len(e.dirty)-1]
	}
}

// decide grants one job of the pool, or, when none can be, leaves bids and passes in out.
func (e *Engine) decide(t moment, p *pool) (Action, bool) {
	if len(p.groups) == 0 {
		return Action{}, false
	}
	for {
		p.rank()
		var first choice
		for _, c := range p.classes {
			if c.open() == 0 {
				continue
			}
			if ch := p.best(t, c); ch.part != nil && (first.part == nil || ch.before(first)) {
				first = ch
			}
		}
		if first.part == nil {
			break
		}
		j := first.part.queues.Top().first
		if j.expired(e, t) {
			e.dequeue(t, j)
			e.expire(t, j)
			continue
		}
		w, ticket := e.pick(t, first.part.class)
		if w == nil {
			continue // the only open slots were tickets past their time
		}
		return e.grant(t, p, first, w, ticket), true
	}
	for _, g := range p.groups {
		e.offer(t, p, g)
	}
	return Action{}, false
}

// pick chooses the worker: a holder of a ticket, else one at random weighted by its open slots.
func (e *Engine) pick(t moment, c *class) (w *worker, ticket bool) {
	open := int32(0)
	for _, g := range c.groups {
		for len(g.holders) > 0 {
			w := g.holders[len(g.holders)-1]
			if t < w.ticketsEnd {
				return w, true
			}
			w.setTickets(0)
		}
		open += g.open
	}
	if open == 0 {
		return nil, false
	}
	n := int32(e.rng.Uint64N(uint64(open)))
	for _, g := range c.groups {
		if n >= g.open {
			n -= g.open
			continue
		}
		// Rejection: slots differ little between workers of one type set, so two or three tries are the rule.
		for range 16 {
			w = g.avail[e.rng.Uint64N(uint64(len(g.avail)))]
			if int32(e.rng.Uint64N(uint64(w.slots))) < w.open {
				break
			}
		}
		return w, false
	}
	return nil, false
}

// offer tells a group's workers what this replica would do with a slot, and gives tickets back that it cannot use.
func (e *Engine) offer(t moment, p *pool, g *group) {
	var first choice
	idle := true
	for _, c := range g.classes {
		idle = idle && c.empty()
		if ch := p.best(t, c); ch.part != nil && (first.part == nil || ch.before(first)) {
			first = ch
		}
	}
	for len(g.holders) > 0 {
		w := g.holders[len(g.holders)-1]
		n := w.tickets
		w.setTickets(0)
		if t < w.ticketsEnd {
			w.setBid(Bid{})
			e.out = append(e.out, Action{Kind: Pass, Worker: w.id, N: n})
		}
	}
	if first.part == nil {
		if idle && g.bidders > 0 {
			for _, w := range g.workers {
				if w.bid.N > 0 {
					e.tell(w, Bid{})
				}
			}
		}
		return
	}
	bid := first.bid(0)
	list := g.lacking
	if g.base.N == 0 || bid.Better(g.base) {
		list = g.workers
	}
	for _, w := range list {
		w.lacking = false
	}
	g.lacking = g.lacking[:0]
	g.base = bid
	g.base.N = 1
	for _, w := range list {
		if w.draining || w.bid.N > 0 && !bid.Better(w.bid) {
			continue
		}
		bid.N = min(p.wanted(first), w.slots)
		if bid.N > 0 {
			e.tell(w, bid)
		}
	}
}

func (e *Engine) tell(w *worker, b Bid) {
	w.setBid(b)
	e.out = append(e.out, Action{Kind: Demand, Worker: w.id, Bid: b})
}

// wanted is how many slots the choice and what follows it could use now, beyond those that are open.
func (p *pool) wanted(ch choice) int32 {
	l := ch.part.line
	h := &ch.part.class.heaps[l.prio]
	n := float64(l.queued)
	if l.zone == within {
		n = min(n, math.Floor(p.fair(l))-float64(l.run)) + float64(h[within].Len()-1)
	} else {
		s := p.slots - p.k(l.prio)
		n = min(n, math.Ceil(p.bands[l.prio].level*l.src.weight)-float64(l.run), max(1, s-p.allBorrowed()))
		n += float64(h[within].Len())
	}
	return int32(max(0, min(n, p.slots)-float64(ch.part.class.open())))
}

// rank orders the priorities: critical first up to its floor, then those with fewer slots than their floors, then
// by urgency, critical beyond its floor last.
func (p *pool) rank() {
	for i := range p.ranked {
		q := Priority(i)
		b := &p.bands[q]
		r := uint8(0)
		switch below := b.running() < b.floor; {
		case q == Critical && !below:
			r = 6
		case q != Critical && below:
			r = 1
		case q != Critical:
			r = 5 - uint8(q) // high 2, default 3, low 4, bulk 5
		}
		x := ranked{rank: r, prio: q}
		at := i
		for ; at > 0 && (x.rank < p.ranked[at-1].rank || x.rank == p.ranked[at-1].rank && x.prio > p.ranked[at-1].prio); at-- {
			p.ranked[at] = p.ranked[at-1]
		}
		p.ranked[at] = x
	}
}

// best is the part of a class that goes first among those that are allowed.
func (p *pool) best(t moment, c *class) choice {
	for _, r := range p.ranked {
		h := &c.heaps[r.prio]
		if h[within].Len()+h[over].Len() == 0 {
			continue
		}
		p.sift(t, h, r.prio)
		tight := p.tight(r)
		var w, o *part
		if h[within].Len() > 0 && (r.rank <= 1 || !tight) {
			w = h[within].Top()
		}
		if h[over].Len() > 0 && !tight && p.room(r.prio) {
			o = h[over].Top()
		}
		switch {
		case w == nil && o == nil:
			continue
		case w == nil || o != nil && o.Before(w):
			return choice{part: o, rank: r.rank}
		}
		return choice{part: w, rank: r.rank}
	}
	return choice{}
}

// sift makes the tops of both heaps belong there: a line whose fair share shrank is over, one over its level is full.
func (p *pool) sift(t moment, h *[zones]heap.Heap[*part], q Priority) {
	for h[within].Len() > 0 {
		l := h[within].Top().line
		if l.fit() == within {
			break
		}
		l.rezone(over)
	}
	if h[over].Len() == 0 {
		return
	}
	b := &p.bands[q]
	for h[over].Len() > 0 {
		l := h[over].Top().line
		if l.fit() == within {
			l.rezone(within)
			continue
		}
		l.lend(t, true)
		if t >= b.levelT {
			p.relevel(t, q)
		}
		if p.leveled(l, b) {
			break
		}
		l.rezone(full)
	}
}

// leveled reports whether a borrower may have one slot more of its level. The last, fractional one it may have only while
// its tag is not ahead of what waits at other replicas: there no common order of tags shares it out, and a source that
// always had it would get up to a slot too much.
func (p *pool) leveled(l *line, b *band) bool {
	n, most := float64(l.run+1), b.level*l.src.weight
	if n <= most {
		return true
	}
	return n <= math.Ceil(most) && (!b.far.Queued || l.f <= b.far.LeastTag+share.TagSlack)
}

// least is the least tag queued in a priority, here or as other replicas said.
func (p *pool) least(q Priority) (tag float64, ok bool) {
	tag, ok = p.ownLeast(q)
	if far := &p.bands[q].far; far.Queued && (!ok || far.LeastTag < tag) {
		tag, ok = far.LeastTag, true
	}
	return tag, ok
}

func (p *pool) ownLeast(q Priority) (tag float64, ok bool) {
	for _, c := range p.classes {
		for z := range c.heaps[q] {
			if h := &c.heaps[q][z]; h.Len() > 0 && (!ok || h.Top().line.f < tag) {
				tag, ok = h.Top().line.f, true
			}
		}
	}
	return tag, ok
}

// grant makes the lease, charges for it, and takes the slot.
func (e *Engine) grant(t moment, p *pool, ch choice, w *worker, ticket bool) Action {
	part, l := ch.part, ch.part.line
	q := part.queues.Top()
	j := q.first
	e.dequeue(t, j)
	j.book(e, t)
	sh := e.shards[j.Shard]
	sh.counter++
	tag := l.f
	part.v = q.tag
	e.begin(t, j, w.id, Token{Shard: j.Shard, Epoch: sh.epoch, Counter: sh.counter}, t+e.cfg.TTL, l, q)
	j.lease.ticket = ticket
	j.lease.charged = j.strand.pair.estimate()
	l.charge(q, j.lease.charged)
	p.bands[l.prio].v = tag
	if j.FromLane {
		j.strand.pair.drawn++
	}
	f := q.flow
	for _, l := range [...]*limiter{&f.limit, &f.ramp, &f.src.limit, &f.src.ramp} {
		l.take(t)
	}
	e.check(t, f)
	if ticket {
		w.setTickets(w.tickets - 1)
	} else {
		w.sent++
		w.setOpen()
	}
	a := Action{Kind: Grant, Worker: w.id, Bid: e.ride(t, p, w)}
	a.Lease = Lease{
		Job: j, Token: j.lease.token, Attempt: j.Attempts + 1, TTL: e.cfg.TTL, RunTimeout: j.lease.timeout,
		Waits: j.waits, Priority: l.prio, Tag: tag, Ticket: ticket,
	}
	return a
}

// ride is the bid that goes with a grant.
func (e *Engine) ride(t moment, p *pool, w *worker) Bid {
	p.rank()
	var first choice
	idle := true
	for _, c := range w.group.classes {
		idle = idle && c.empty()
		if ch := p.best(t, c); ch.part != nil && (first.part == nil || ch.before(first)) {
			first = ch
		}
	}
	bid := w.bid // what waits and may not run now may run when the slot is free; then a Pass costs one round trip
	switch {
	case idle:
		bid = Bid{}
	case first.part != nil:
		bid = first.bid(min(p.wanted(first), w.slots))
	}
	w.setBid(bid)
	return bid
}

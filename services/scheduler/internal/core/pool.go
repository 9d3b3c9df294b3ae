package core

import (
	"math"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core/heap"
)

// kind is a job type. Types that some worker announces together are in one pool; types that exactly the same
// workers announce are in one class. A type without workers is a pool of its own.
type kind struct {
	name  string
	pool  *pool
	class *class
}

// class is the types that the same groups of workers run: its parts are comparable by tag alone.
type class struct {
	groups []*group
	heaps  [Priorities][zones]heap.Heap[*part] // what may run now, but for lending
}

func (c *class) parts(p Priority) int {
	h := &c.heaps[p]
	return h[within].Len() + h[over].Len() + h[full].Len()
}

func (c *class) empty() bool {
	for p := range c.heaps {
		if c.parts(Priority(p)) > 0 {
			return false
		}
	}
	return true
}

// open is the slots that its workers are known to have free, tickets included.
func (c *class) open() (n int32) {
	for _, g := range c.groups {
		n += g.open + g.tickets
	}
	return n
}

// group is the workers that announce the same types.
type group struct {
	key     string
	types   []string
	classes []*class
	workers []*worker
	avail   []*worker // open > 0
	holders []*worker // tickets > 0
	open    int32     // Σ open, where positive
	tickets int32     // Σ tickets
	slots   int32     // Σ slots of workers that do not drain
	bidders int       // workers with a standing bid
	base    Bid       // every worker not in lacking has an equal or better standing bid; N = 0: none need have
	lacking []*worker
}

// worker is one connected worker process.
type worker struct {
	id       string
	group    *group
	place    int // in group.workers
	slots    int32
	draining bool

	free, open    int32 // open = free − (sent − seen), not below 0: without it a quarter of all grants come back
	sent, seen    int64 // open grants on this stream
	avail, holder int   // 1 + place in group.avail, group.holders
	tickets       int32
	ticketsEnd    moment
	bid           Bid // as the worker knows it
	lacking       bool
}

// ticketTTL is how long a ticket is valid; the worker's clock for it started a little earlier.
const ticketTTL = 20 * time.Millisecond

// band is one priority of a pool.
type band struct {
	run    int     // own unsettled leases
	weight float64 // of own active lines
	floor  float64 // slots; Σ of the five is S, unless S < 5
	x      float64 // Σ line.x: slots that sources within their share could use now
	m1     float64 // mean of x over 1 s
	m10    float64 // mean of x over 10 s
	vr     float64 // mean of (x − m)² over 10 s
	v      float64 // tag of the latest grant, anyone's; may fall
	far    PriorityLoad
	phi    float64 // fair share per weight
	n      float64 // N: mean + 3 σ of what everybody within their share needs
	level  float64 // borrowers may run on level × weight each
	levelT moment  // level is valid until then
}

func (b *band) running() float64 { return float64(b.run) + float64(b.far.Running) }

// need is what others than a priority keep; row Priorities is critical at rank 6.
type need struct {
	of  [Priorities]float64 // N(q), at most floor(q) where §6 says so; 0 for itself
	sum float64
	m   float64 // N(p) + sum
}

// pool is the workers whose types overlap, and everything that waits for them.
type pool struct {
	name     string
	kinds    []*kind
	classes  []*class
	groups   []*group
	slots    float64 // S
	reserve  float64
	bands    [Priorities]band
	needs    [Priorities + 1]need
	run      int
	staffed  moment   // when it got its first slot
	borrowed int      // leases of borrowers; with those of other replicas ≤ S − K when a borrower is granted one
	c, c0    float64  // expected back within 2 ms from own borrowers, from others
	far      farAway  // other replicas' part
	lines    []*line  // active: had work in the last 10 s
	sweep    int      // next of lines to look at
	borrows  []*line  // own borrowers
	demands  []demand // scratch of level
	sampled  moment   // last sample of x
	dirty    bool     // in Engine.dirty
	told     moment   // last summary due
	toldRuns [Priorities]int
	busy     bool // was in fast summaries
	ranked   [Priorities]ranked
}

type ranked struct {
	rank uint8
	prio Priority
}

type farAway struct {
	borrowed float64
	c, c0    float64
	borrows  []demand
}

func (p *pool) open() float64 {
	n := int32(0)
	for _, g := range p.groups {
		n += g.open + g.tickets
	}
	return float64(n)
}

// setOpen keeps the group's sums and lists in step with the worker's free slots.
func (w *worker) setOpen() {
	n := int32(0)
	if !w.draining {
		n = max(0, int32(min(int64(w.free)-(w.sent-w.seen), math.MaxInt32)))
	}
	g := w.group
	g.open += n - w.open
	w.open = n
	if (n > 0) != (w.avail != 0) {
		g.avail = toggle(g.avail, w, &w.avail, func(o *worker) *int { return &o.avail })
	}
}

func (w *worker) setTickets(n int32) {
	g := w.group
	g.tickets += n - w.tickets
	w.tickets = n
	if (n > 0) != (w.holder != 0) {
		g.holders = toggle(g.holders, w, &w.holder, func(o *worker) *int { return &o.holder })
	}
}

// setBid records what the worker now takes for this replica's bid.
func (w *worker) setBid(b Bid) {
	g := w.group
	if (b.N > 0) != (w.bid.N > 0) {
		if b.N > 0 {
			g.bidders++
		} else {
			g.bidders--
		}
	}
	w.bid = b
	if !w.lacking && g.base.N > 0 && (b.N == 0 || g.base.Better(b)) {
		w.lacking = true
		g.lacking = append(g.lacking, w)
	}
}

// Join makes a worker known, or changes its types and concurrency; it has no open slot until Credit. Leases that
// it holds from before stay valid.
func (e *Engine) Join(now time.Time, w Worker) {
	t := e.advance(now)
	e.drop(t, w.ID)
	types := append([]string(nil), w.Types...)
	sort.Strings(types)
	key := strings.Join(types, "\x00")
	g, fresh := e.groups[key], false
	if g == nil {
		g, fresh = &group{key: key, types: types}, true
		e.groups[key] = g
	}
	x := &worker{id: w.ID, group: g, place: len(g.workers), slots: max(0, w.Concurrency)}
	g.workers = append(g.workers, x)
	g.slots += x.slots
	g.base = Bid{}
	e.workers[w.ID] = x
	if fresh {
		e.repool(t)
	}
	e.resize(e.poolOf(g))
}

// Leave drops a worker's bids, tickets and slots when its stream ends. Its leases run on until they expire.
func (e *Engine) Leave(now time.Time, id string) {
	t := e.advance(now)
	if g := e.drop(t, id); g != nil {
		e.resize(e.poolOf(g))
	}
}

// drop forgets a worker, and its group with the last one; it returns the group if that goes on.
func (e *Engine) drop(t moment, id string) *group {
	w := e.workers[id]
	if w == nil {
		return nil
	}
	delete(e.workers, id)
	g := w.group
	w.free, w.sent, w.seen = 0, 0, 0
	w.setOpen()
	w.setTickets(0)
	w.setBid(Bid{})
	if !w.draining {
		g.slots -= w.slots
	}
	last := len(g.workers) - 1
	g.workers[w.place] = g.workers[last]
	g.workers[w.place].place = w.place
	g.workers = g.workers[:last]
	g.lacking, g.base = nil, Bid{}
	for _, o := range g.workers {
		o.lacking = false
	}
	if last == 0 {
		delete(e.groups, g.key)
		e.repool(t)
		return nil
	}
	return g
}

// Drain stops granting to a worker that says it is draining, and takes its slots out of the pool.
func (e *Engine) Drain(now time.Time, id string) {
	e.advance(now)
	w := e.workers[id]
	if w == nil || w.draining {
		return
	}
	w.draining = true
	w.group.slots -= w.slots
	w.setOpen()
	w.setTickets(0)
	w.setBid(Bid{})
	e.resize(e.poolOf(w.group))
}

// Credit tells how many slots of the worker are free, and how many open grants it had seen on this stream by then.
func (e *Engine) Credit(now time.Time, id string, free int32, seen int64) {
	e.advance(now)
	if w := e.workers[id]; w != nil {
		e.credit(w, free, seen)
	}
}

func (e *Engine) credit(w *worker, free int32, seen int64) {
	w.free, w.seen = min(max(0, free), w.slots), max(w.seen, min(seen, w.sent))
	w.setOpen()
	e.touch(e.poolOf(w.group))
}

// Ticket gives this replica n slots of the worker for 20 ms.
func (e *Engine) Ticket(now time.Time, id string, n int32) {
	t := e.advance(now)
	w := e.workers[id]
	if w == nil || w.draining || n <= 0 {
		return
	}
	bid := w.bid
	bid.N = max(0, bid.N-n)
	w.setBid(bid)
	w.setTickets(min(w.tickets+n, w.slots))
	w.ticketsEnd = t + ticketTTL
	e.touch(e.poolOf(w.group))
}

// Latest tells the tag of the latest grant of a priority at a worker (the v of its frames).
func (e *Engine) Latest(now time.Time, id string, prio Priority, tag float64) {
	e.advance(now)
	if w := e.workers[id]; w != nil && prio < Priorities && !math.IsNaN(tag) && !math.IsInf(tag, 0) {
		e.poolOf(w.group).bands[prio].v = tag
	}
}

// repool computes pools and classes anew, when a set of types was met for the first time or lost its last worker,
// and sorts every queued and running job in again. It is the one operation that costs as much as there are jobs.
func (e *Engine) repool(t moment) {
	old := e.pools
	e.pools = make(map[string]*pool, len(old))
	e.dirty = e.dirty[:0]
	groups := make([]*group, 0, len(e.groups))
	for _, g := range e.groups {
		groups = append(groups, g)
		for _, typ := range g.types {
			e.kindOf(typ)
		}
	}
	sort.Slice(groups, func(i, j int) bool { return groups[i].key < groups[j].key })
	names := make([]string, 0, len(e.kinds))
	for name := range e.kinds {
		names = append(names, name)
	}
	sort.Strings(names)
	root := make(map[string]string, len(names)) // the smallest name that a type overlaps with
	for _, n := range names {
		root[n] = n
	}
	find := func(n string) string {
		for root[n] != n {
			n = root[n]
		}
		return n
	}
	for _, g := range groups {
		g.classes = nil
		for _, typ := range g.types {
			a, b := find(g.types[0]), find(typ)
			root[max(a, b)] = min(a, b)
		}
	}
	clear(e.pools) // kindOf may have made some
	by := make(map[string]*class)
	for _, n := range names {
		k := e.kinds[n]
		p := e.pools[find(n)]
		if p == nil {
			p = e.newPool(find(n))
			if was := old[p.name]; was != nil {
				for q := range p.bands {
					b := &was.bands[q]
					p.bands[q] = band{m1: b.m1, m10: b.m10, vr: b.vr, v: b.v, far: b.far}
				}
				p.far, p.sampled = was.far, was.sampled
			}
		}
		k.pool, p.kinds = p, append(p.kinds, k)
		key := p.name
		var of []*group
		for i, g := range groups {
			if j := sort.SearchStrings(g.types, n); j < len(g.types) && g.types[j] == n {
				key += "\x00" + strconv.Itoa(i)
				of = append(of, g)
			}
		}
		c := by[key]
		if c == nil {
			c = &class{groups: of}
			by[key] = c
			p.classes = append(p.classes, c)
			for _, g := range of {
				g.classes = append(g.classes, c)
			}
		}
		k.class = c
	}
	for _, g := range groups {
		p := e.poolOf(g)
		p.groups = append(p.groups, g)
	}
	e.resort(t)
	for _, p := range e.pools {
		e.resize(p)
	}
}

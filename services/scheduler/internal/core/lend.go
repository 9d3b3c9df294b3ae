package core

import (
	"cmp"
	"math"
	"slices"
	"sort"
	"time"
)

// Lending: how much of the pool may be given to sources beyond their fair share. Jobs cannot be taken back, so what is
// lent is what comes back soon, and a part of what the others need is never lent (scheduling.md §1, §6).

const (
	sampleEvery = 10 * time.Millisecond // of x
	borrowTime  = time.Second           // a borrower stays one for so long after it was beyond its share last
	activeTime  = 10 * time.Second      // a source's weight counts for so long after its last work
	farTime     = time.Second           // another replica's summary counts for so long
	backWithin  = 0.002                 // seconds: a slot that comes back within it needs not be kept
	knownAfter  = 16                    // finished jobs from which a pair's durations are trusted
)

// demand is a borrower's claim: at most want slots, in proportion to weight.
type demand struct{ want, weight float64 }

// fair is the slots that the line may use as of right.
func (p *pool) fair(l *line) float64 { return max(2, p.bands[l.prio].phi*l.src.weight) }

// refresh computes what follows from slots, weights and averages: shares per weight, N, and what each priority must
// leave to the others. Five by five; it runs when one of them changed, and every 10 ms.
func (p *pool) refresh() {
	weight := 0.0
	for i := Priorities - 1; i >= 0; i-- {
		b := &p.bands[i]
		own := b.weight + b.far.ActiveWeight
		weight += own
		b.phi = 0
		if own > 0 {
			b.phi = max(p.slots/weight, b.floor/own)
		}
		b.n = b.mean() + b.far.Mean + 3*math.Sqrt(b.variance()+b.far.Variance)
	}
	for row := range p.needs {
		n := &p.needs[row]
		q := Priority(min(row, int(Critical)))
		*n = need{}
		for i := range p.bands {
			r := Priority(i)
			if r == q {
				continue
			}
			b := &p.bands[r]
			n.of[r] = b.n
			if row != Priorities && (r == Critical || r < q) {
				n.of[r] = min(b.n, b.floor)
			}
			n.sum += n.of[r]
		}
		n.m = p.bands[q].n + n.sum
	}
}

// resize takes a changed number of slots into account.
func (e *Engine) resize(p *pool) {
	n := int32(0)
	for _, g := range p.groups {
		n += g.slots
	}
	if p.slots == 0 && n > 0 {
		p.staffed = e.last
	}
	p.slots = float64(n)
	shares := [Priorities]float64{Bulk: 1, Low: 2, Default: 4, High: 8}
	rest := p.slots
	for q := Bulk; q < Critical; q++ {
		p.bands[q].floor = max(1, math.Floor(p.slots/2*shares[q]/15))
		rest -= p.bands[q].floor
	}
	p.bands[Critical].floor = max(1, min(math.Floor(p.slots/2), rest))
	p.refresh()
	e.touch(p)
}

func (b *band) mean() float64 { return max(b.m1, b.m10) }

// variance is at least that of a Poisson arrival with this mean.
func (b *band) variance() float64 { return max(b.vr, b.mean()) }

func (p *pool) back() float64 { return p.c + p.c0 + p.far.c + p.far.c0 }

func (p *pool) allBorrowed() float64 { return float64(p.borrowed) + p.far.borrowed }

// k is K: the slots that borrowers of a priority must leave.
func (p *pool) k(q Priority) float64 {
	m := p.needs[p.row(q)].m
	return min(max(m-p.back(), max(1, p.slots/32, p.reserve*m)), p.slots/2)
}

// row is the priority's row of needs: critical beyond its floor sees all of the others' needs.
func (p *pool) row(q Priority) int {
	if b := &p.bands[Critical]; q == Critical && b.running() >= b.floor {
		return Priorities
	}
	return int(q)
}

// tight reports whether a priority must leave the open slots to what others need.
func (p *pool) tight(r ranked) bool {
	n := &p.needs[p.row(r.prio)]
	k := n.sum - p.back()
	if k <= 0 {
		return false
	}
	kept, all := 0.0, 0.0
	for i := range p.bands {
		run := p.bands[i].running()
		all += run
		if Priority(i) != r.prio {
			kept += min(run, n.of[i])
		}
	}
	open := p.open() - 1
	return open < k && (all-kept+1 > p.slots-k || open < k-kept)
}

// room reports whether one slot more may be lent to a source of the priority.
func (p *pool) room(q Priority) bool {
	k := p.k(q)
	return p.allBorrowed()+1 <= p.slots-k || p.open()-1 >= k
}

// relevel computes the water level of all borrowers' demands over S − K slots. It holds for 1 ms, longer with many
// borrowers so that it never costs more than about 1 % of a core.
func (p *pool) relevel(t moment, q Priority) {
	b := &p.bands[q]
	p.demands = append(p.demands[:0], p.far.borrows...)
	for _, l := range p.borrows {
		p.demands = append(p.demands, demand{want: min(float64(l.run+l.waiting()), p.slots), weight: l.src.weight})
	}
	b.level = level(p.demands, p.slots-p.k(q))
	b.levelT = t + max(time.Millisecond, time.Duration(len(p.demands))*10*time.Microsecond)
	p.release(q)
}

// release puts the lines of the full zone back where they are looked at.
func (p *pool) release(q Priority) {
	for _, c := range p.classes {
		for h := &c.heaps[q][full]; h.Len() > 0; {
			h.Top().line.rezone(over)
		}
	}
}

// level is the max-min water level: Σ min(want, level × weight) = slots; without limit if all wants fit.
func level(ds []demand, slots float64) float64 {
	total, weight := 0.0, 0.0
	for _, d := range ds {
		total += d.want
		weight += d.weight
	}
	if total <= slots {
		return math.MaxInt32
	}
	if len(ds) > 1 {
		slices.SortFunc(ds, func(a, b demand) int { return cmp.Compare(a.want*b.weight, b.want*a.weight) })
	}
	for _, d := range ds {
		if d.want*weight >= slots*d.weight {
			break
		}
		slots -= d.want
		weight -= d.weight
	}
	return max(0, slots) / weight
}

// expectBack is the part of a slot that comes back within 2 ms from a job of that age.
func (p *pair) expectBack(age float64) float64 {
	if p.finished < knownAfter {
		return 0
	}
	switch e := p.mean + 2*p.dev; {
	case age <= e:
		if e <= backWithin {
			return 1
		}
		return backWithin / e
	case age <= 2*e:
		return min(1, backWithin/(4*age))
	}
	return 0
}

// measure takes samples of x for the time passed, ends borrowing and activity that are over, and brings zones up to
// date. Lines are looked at 1,024 a time, so that a tick stays short; those over their share, at most S ÷ 2, all.
func (p *pool) measure(t moment) {
	for n := min(len(p.lines), 1024); n > 0; n-- {
		if p.sweep >= len(p.lines) {
			p.sweep = 0
			if len(p.lines) == 0 {
				break
			}
		}
		l := p.lines[p.sweep]
		n := l.run + l.waiting()
		switch {
		case n > 0:
			l.workedAt = t
		case t-l.workedAt > activeTime:
			p.deactivate(l)
			continue
		}
		l.sample(n)
		p.sweep++
	}
	for q := range p.bands {
		for _, c := range p.classes {
			for _, z := range [...]int{over, full} {
				for _, part := range c.heaps[q][z].Items() {
					part.line.lend(t, true)
				}
			}
		}
	}
	for i := len(p.borrows) - 1; i >= 0; i-- {
		if l := p.borrows[i]; t > l.borrowEnd {
			l.lend(t, false)
		} else if l.zone != within && l.fit() == within {
			l.rezone(within)
		}
	}
	if dt := t - p.sampled; dt >= sampleEvery {
		p.sampled = t
		a1, a10 := decay(dt, time.Second), decay(dt, 10*time.Second)
		for q := range p.bands {
			b := &p.bands[q]
			b.m1 += (b.x - b.m1) * a1
			b.m10 += (b.x - b.m10) * a10
			d := b.x - b.mean()
			b.vr += (d*d - b.vr) * a10
		}
	}
	p.refresh()
}

// decay is the weight of a sample that stands for dt in an average over span.
func decay(dt, span time.Duration) float64 { return 1 - math.Exp(-float64(dt)/float64(span)) }

// Summary is what one replica tells the others of one pool.
type Summary struct {
	Pool       string // the pool's lexically smallest type
	Priorities [Priorities]PriorityLoad
	Borrowed   int32      // slots held by borrowers
	C          float64    // borrowed slots expected back within 2 ms
	C0         float64    // other slots expected back within 2 ms
	Borrowers  []Borrower // own sources beyond their fair share
}

// PriorityLoad is one priority's part of a Summary.
type PriorityLoad struct {
	Mean, Variance float64 // of the slots that sources within their share need
	Running        int32   // unsettled leases
	ActiveWeight   float64 // of sources with work in the last 10 s; a source's weight ÷ 100
	Queued         bool    // whether LeastTag means something
	LeastTag       float64
}

// Borrower is a source beyond its fair share.
type Borrower struct {
	Demand   float64 // min(running + queued, slots of the pool)
	Weight   float64
	Priority Priority
}

// Summary is what the other replicas must know, one a pool that has work or workers. Pools are sorted by name.
func (e *Engine) Summary(now time.Time) []Summary {
	e.advance(now)
	var all []Summary
	for _, p := range e.pools {
		if len(p.groups) == 0 && len(p.lines) == 0 {
			continue
		}
		s := Summary{Pool: p.name, Borrowed: int32(p.borrowed), C: max(0, p.c), C0: max(0, p.c0)}
		for i := range p.bands {
			b := &p.bands[i]
			x := PriorityLoad{Mean: b.mean(), Variance: b.variance(), Running: int32(b.run), ActiveWeight: b.weight}
			x.LeastTag, x.Queued = p.ownLeast(Priority(i))
			s.Priorities[i] = x
		}
		for _, l := range p.borrows {
			s.Borrowers = append(s.Borrowers, Borrower{
				Demand: min(float64(l.run+l.waiting()), p.slots), Weight: l.src.weight, Priority: l.prio,
			})
		}
		all = append(all, s)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Pool < all[j].Pool })
	return all
}

// heard is another replica's latest summaries.
type heard struct {
	at    moment
	pools []Summary
}

// Heard takes another replica's summaries; they count for 1 s.
func (e *Engine) Heard(now time.Time, replica string, s []Summary) {
	t := e.advance(now)
	if len(s) == 0 {
		delete(e.heard, replica)
	} else {
		e.heard[replica] = heard{at: t, pools: s}
	}
	e.addUp(t)
}

// addUp sums what the other replicas said.
func (e *Engine) addUp(t moment) {
	for _, p := range e.pools {
		p.far = farAway{borrows: p.far.borrows[:0]}
		for q := range p.bands {
			p.bands[q].far = PriorityLoad{}
		}
	}
	for replica, h := range e.heard {
		if t-h.at > farTime {
			delete(e.heard, replica)
			continue
		}
		for i := range h.pools {
			if p := e.pools[h.pools[i].Pool]; p != nil {
				p.add(&h.pools[i])
			}
		}
	}
	for _, p := range e.pools {
		for q := range p.bands {
			p.bands[q].levelT = 0
		}
		p.refresh()
		e.touch(p)
	}
}

func (p *pool) add(s *Summary) {
	p.far.borrowed += float64(s.Borrowed)
	p.far.c += s.C
	p.far.c0 += s.C0
	for _, b := range s.Borrowers {
		if b.Weight > 0 {
			p.far.borrows = append(p.far.borrows, demand{want: b.Demand, weight: b.Weight})
		}
	}
	for i := range s.Priorities {
		f, x := &p.bands[i].far, &s.Priorities[i]
		f.Mean += x.Mean
		f.Variance += x.Variance
		f.Running += x.Running
		f.ActiveWeight += x.ActiveWeight
		if x.Queued && (!f.Queued || x.LeastTag < f.LeastTag) {
			f.Queued, f.LeastTag = true, x.LeastTag
		}
	}
}

// summaryDue reports whether other replicas should hear now: every 50 ms while the pool has borrowers or few open
// slots, at once when that begins, else every second. While several priorities share a pool with few open slots, it is
// every 20 ms if what runs has changed: there a floor is judged by what the others run, and a count that is 50 ms old
// keeps a priority from slots that its floor gives it (a high flood that hangs, 3 engines: worst wait 99 → 28 ms).
func (p *pool) summaryDue(t moment) bool {
	busy := len(p.borrows) > 0 || p.open() < p.slots/2
	every := time.Second
	var runs [Priorities]int
	mixed := 0
	for q := range p.bands {
		runs[q] = p.bands[q].run
		if p.bands[q].running() > 0 {
			mixed++
		}
	}
	switch {
	case busy && mixed > 1 && runs != p.toldRuns:
		every = 20 * time.Millisecond
	case busy:
		every = 50 * time.Millisecond
	}
	due := t-p.told >= every || busy && !p.busy
	p.busy = busy
	if due {
		p.told, p.toldRuns = t, runs
	}
	return due
}

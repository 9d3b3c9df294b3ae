package core

// This file keeps every job that waits where the decision finds it: flow queues in parts, parts in the heaps of their
// class, and the sums that lending needs. Each operation is O(log n) in the flows of one source or the sources of one
// class.

// ceiling is the priority that a job is scheduled under: the lower of its own and what source and flow allow now.
func ceiling(j *Job) Priority {
	f := j.strand.flow
	return min(j.Priority, f.ceiling, f.src.ceiling, Critical)
}

// lineOf returns the source's line at a priority in a pool.
func (e *Engine) lineOf(s *source, prio Priority, p *pool) *line {
	for _, l := range s.lines {
		if l.prio == prio && l.pool == p {
			return l
		}
	}
	l := &line{src: s, prio: prio, pool: p, f: p.bands[prio].v} // new or taken over: f.F = v
	s.lines = append(s.lines, l)
	return l
}

func (l *line) partOf(c *class) *part {
	for _, p := range l.parts {
		if p.class == c {
			return p
		}
	}
	p := &part{line: l, class: c}
	l.parts = append(l.parts, p)
	return p
}

func (p *part) queueOf(f *flow) *queue {
	for _, q := range f.queues {
		if q.part == p {
			return q
		}
	}
	q := &queue{flow: f, part: p, tag: p.v}
	f.queues = append(f.queues, q)
	return q
}

// enqueue puts a job into its flow's queue; a held flow's job goes to be moved instead.
func (e *Engine) enqueue(t moment, j *Job, front bool) {
	f := j.strand.flow
	e.count(j)
	if f.held || f.src.held {
		e.displace(t, j)
		return
	}
	j.state, j.since, j.eff = queued, t, ceiling(j)
	k := j.strand.pair.kind
	l := e.lineOf(f.src, j.eff, k.pool)
	q := l.partOf(k.class).queueOf(f)
	q.push(j, front)
	f.queued++
	f.src.queued++
	switch {
	case q.idx != 0:
		l.queued++
	case !f.off:
		e.show(t, q)
	}
	e.worked(t, l)
	e.touch(l.pool)
}

// dequeue takes a queued job out of its queue.
func (e *Engine) dequeue(t moment, j *Job) {
	q := j.queue
	l := q.part.line
	q.unlink(j)
	q.flow.queued--
	q.flow.src.queued--
	if q.idx != 0 {
		l.queued--
		if q.n == 0 {
			e.hide(t, q)
		}
	}
	e.worked(t, l)
}

// show makes a queue's jobs grantable as far as its flow is concerned.
func (e *Engine) show(t moment, q *queue) {
	p := q.part
	if p.queues.Len() > 0 {
		q.tag = max(q.tag, p.queues.Top().tag)
	} else {
		q.tag = max(q.tag, p.v)
	}
	p.queues.Push(q)
	p.line.queued += q.n
	if p.idx == 0 && !p.line.src.off {
		p.show()
	}
}

func (e *Engine) hide(t moment, q *queue) {
	p := q.part
	p.queues.Remove(q)
	p.line.queued -= q.n
	if p.queues.Len() == 0 && p.idx != 0 {
		p.hide()
	}
}

// show puts a part into its class's heap. A line that had nothing to run catches up with the least tag queued in its
// priority, so that idling earns no credit.
func (p *part) show() {
	l := p.line
	if l.live == 0 {
		if tag, ok := l.pool.least(l.prio); ok {
			l.f = max(l.f, tag)
		} else {
			l.f = max(l.f, l.pool.bands[l.prio].v)
		}
		l.zone = l.fit()
	}
	l.live++
	p.class.heaps[l.prio][l.zone].Push(p)
}

func (p *part) hide() {
	p.class.heaps[p.line.prio][p.line.zone].Remove(p)
	p.line.live--
}

// charge moves a line's tag by d worker-seconds and its flow's with it; d < 0 gives back.
func (l *line) charge(q *queue, d float64) {
	l.f += d / l.src.weight
	for _, p := range l.parts {
		if p.idx != 0 {
			p.class.heaps[l.prio][l.zone].Fix(p)
		}
	}
	q.tag += d
	if q.idx != 0 {
		q.part.queues.Fix(q)
	}
}

// fit is the zone the line belongs to; a full one stays full until its level or its leases change.
func (l *line) fit() uint8 {
	if float64(l.run+1) <= l.pool.fair(l) {
		return within
	}
	return over
}

// rezone moves the line's parts to the heap of another zone.
func (l *line) rezone(z uint8) {
	if l.zone == z {
		return
	}
	for _, p := range l.parts {
		if p.idx != 0 {
			h := &p.class.heaps[l.prio]
			h[l.zone].Remove(p)
			h[z].Push(p)
		}
	}
	l.zone = z
}

// addRun counts leases that were granted (d = 1) or reported (d = −1), here and in the pool.
func (e *Engine) addRun(t moment, l *line, d int) {
	p := l.pool
	l.run += d
	p.run += d
	p.bands[l.prio].run += d
	if l.borrower {
		p.borrowed += d
	}
	l.rezone(l.fit())
	e.worked(t, l)
}

// addBack changes the line's expected returns, and the pool's.
func (l *line) addBack(d float64) {
	l.c += d
	if l.borrower {
		l.pool.c += d
	} else {
		l.pool.c0 += d
	}
}

// worked books a change of what the line runs or could run: it is active, and its part of x is brought up to date.
func (e *Engine) worked(t moment, l *line) {
	n := l.run + l.waiting()
	if n > 0 {
		l.workedAt = t
		if l.active == 0 {
			l.pool.activate(l)
		}
	}
	l.sample(n)
}

// sample sets the line's part of x; n = running + queued.
func (l *line) sample(n int) {
	x := 0.0
	if !l.borrower {
		x = min(float64(n), l.pool.fair(l))
	}
	l.pool.bands[l.prio].x += x - l.x
	l.x = x
}

// activate counts the line's weight among those that share the pool, for 10 s from its last work.
func (p *pool) activate(l *line) {
	p.lines = append(p.lines, l)
	l.active = len(p.lines)
	p.bands[l.prio].weight += l.src.weight
	p.refresh()
}

func (p *pool) deactivate(l *line) {
	l.sample(0)
	p.lines = toggle(p.lines, l, &l.active, func(o *line) *int { return &o.active })
	b := &p.bands[l.prio]
	b.weight -= l.src.weight
	if b.weight < 1e-9 { // sums of floats drift; nobody weighs less than 0.01
		b.weight = 0
	}
	p.refresh()
}

// lend makes the line a borrower for 1 s from now, or ends that.
func (l *line) lend(t moment, borrows bool) {
	if borrows {
		l.borrowEnd = t + borrowTime
	}
	if l.borrower == borrows {
		return
	}
	p := l.pool
	l.borrower = borrows
	if borrows {
		p.borrows = append(p.borrows, l)
		p.borrowed += l.run
		p.c, p.c0 = p.c+l.c, p.c0-l.c
	} else {
		for i, o := range p.borrows {
			if o == l {
				last := len(p.borrows) - 1
				p.borrows[i], p.borrows[last] = p.borrows[last], nil
				p.borrows = p.borrows[:last]
				break
			}
		}
		p.borrowed -= l.run
		p.c, p.c0 = p.c-l.c, p.c0+l.c
	}
	for q := range p.bands {
		p.bands[q].levelT = 0
	}
	l.sample(l.run + l.waiting())
}

// resort rebuilds every line from the jobs that are there, after pools or ceilings changed.
func (e *Engine) resort(t moment) {
	for _, s := range e.sources {
		e.resortSource(t, s)
	}
}

// resortSource sorts a source's queued and running jobs into lines anew. Tags survive by priority.
func (e *Engine) resortSource(t moment, s *source) {
	var tags [Priorities]float64
	var jobs []*Job
	for _, l := range s.lines {
		tags[l.prio] = max(tags[l.prio], l.f)
		for _, p := range l.parts {
			if p.idx != 0 {
				p.hide()
			}
		}
		l.lend(t, false)
		if l.active != 0 {
			l.pool.deactivate(l)
		}
		l.addBack(-l.c)
		l.pool.run -= l.run
		l.pool.bands[l.prio].run -= l.run
	}
	had := s.lines
	s.lines = nil
	for _, f := range s.flows {
		for _, q := range f.queues {
			for j := q.first; j != nil; j = j.next {
				jobs = append(jobs, j)
			}
		}
		f.queues, f.queued = nil, 0
	}
	s.queued = 0
	line := func(prio Priority, p *pool) *line {
		l := e.lineOf(s, prio, p)
		if len(had) > 0 {
			l.f = max(l.f, tags[prio])
		}
		return l
	}
	for _, j := range e.running {
		if j.strand.flow.src != s {
			continue
		}
		k := j.strand.pair.kind
		l := line(j.eff, k.pool)
		j.line, j.queue = l, l.partOf(k.class).queueOf(j.strand.flow)
		if j.state == leased {
			back := j.lease.back
			e.addRun(t, l, 1)
			l.addBack(back)
		}
	}
	for _, j := range jobs {
		since := j.since
		line(ceiling(j), j.strand.pair.kind.pool)
		e.enqueue(t, j, false)
		j.since = since
	}
	for _, pr := range s.pairs {
		pr.laneLine = nil
		e.countLane(t, pr)
	}
}

func (e *Engine) poolOf(g *group) *pool { return e.kinds[g.types[0]].pool }

// kindOf returns a type, alone in a pool if it is new.
func (e *Engine) kindOf(name string) *kind {
	k := e.kinds[name]
	if k == nil {
		k = &kind{name: name, class: &class{}}
		k.pool = e.newPool(name)
		k.pool.kinds, k.pool.classes = []*kind{k}, []*class{k.class}
		e.kinds[name] = k
	}
	return k
}

func (e *Engine) newPool(name string) *pool {
	p := &pool{name: name, reserve: e.cfg.Reserve}
	p.refresh()
	e.pools[name] = p
	return p
}

// touch puts the pool on the list of those that Next looks at.
func (e *Engine) touch(p *pool) {
	if !p.dirty {
		p.dirty = true
		e.dirty = append(e.dirty, p)
	}
}

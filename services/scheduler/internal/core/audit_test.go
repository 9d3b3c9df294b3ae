package core

import (
	"fmt"
	"math"
)

// audit recomputes everything the engine keeps in step and returns the first difference.
func audit(e *Engine) (err error) {
	wrong := func(format string, args ...any) {
		if err == nil {
			err = fmt.Errorf(format, args...)
		}
	}
	same := func(what string, got, want int) {
		if got != want {
			wrong("%s: %d, want %d", what, got, want)
		}
	}
	near := func(what string, got, want float64) {
		if math.Abs(got-want) > 1e-6 {
			wrong("%s: %g, want %g", what, got, want)
		}
	}
	type use struct{ queued, run, bytes, jobs, unread, held int }
	flows, sources, strands, pairs := map[*flow]*use{}, map[*source]*use{}, map[*strand]*use{}, map[*pair]*use{}
	lines, bands, pools := map[*line]int{}, map[*band]int{}, map[*pool]int{}
	backs := map[*line]float64{}
	get := func(f *flow, st *strand) []*use {
		if flows[f] == nil {
			flows[f] = &use{}
		}
		if sources[f.src] == nil {
			sources[f.src] = &use{}
		}
		if strands[st] == nil {
			strands[st] = &use{}
		}
		if pairs[st.pair] == nil {
			pairs[st.pair] = &use{}
		}
		return []*use{flows[f], sources[f.src], strands[st], pairs[st.pair]}
	}
	bytes, expiring, leasedN := 0, 0, 0
	for id, j := range e.jobs {
		if j.ID != id || j.state == gone {
			wrong("job %x in state %d", id, j.state)
		}
		if e.shards[j.Shard] == nil {
			wrong("job %x of shard %d that is not attached", id, j.Shard)
		}
		st := j.strand
		f := st.flow
		if f.src.flows[f.tenant] != f {
			wrong("flow of job %x was forgotten", id)
		}
		us := get(f, st)
		for _, u := range us {
			u.held++
			switch j.state {
			case queued:
				u.queued++
			case leased:
				u.run++
			}
			if j.counted {
				u.bytes += j.Size + overhead
				u.jobs++
				if j.FromLane {
					u.unread++
				}
			}
		}
		if j.counted {
			bytes += j.Size + overhead
		}
		if want := j.state == queued || j.state == waiting || j.state == moved; j.counted != want {
			wrong("job in state %d counted %v", j.state, j.counted)
		}
		if j.expireIdx != 0 {
			expiring++
		}
		switch j.state {
		case leased:
			leasedN++
			if e.leases[j.lease.token] != j {
				wrong("lease of %x unknown", id)
			}
			if e.running[j.runIdx-1] != j {
				wrong("running job %x misplaced", id)
			}
			lines[j.line]++
			bands[&j.line.pool.bands[j.line.prio]]++
			pools[j.line.pool]++
			backs[j.line] += j.lease.back
		case waiting:
			if j.timer.idx == 0 {
				wrong("waiting job %x without a timer", id)
			}
		case queued:
			if j.eff != ceiling(j) || j.queue.part.line.prio != j.eff {
				wrong("job %x queued at %v, ceiling %v", id, j.eff, ceiling(j))
			}
			if f.held || f.src.held {
				wrong("job %x of a held flow is queued", id)
			}
		}
	}
	same("bytes", e.bytes, bytes)
	same("expiring", len(e.expiring), expiring)
	same("running", len(e.running), leasedN)
	n := 0
	last := moment(0)
	for j := e.firstLease; j != nil; j = j.lease.next {
		n++
		if j.lease.expires < last {
			wrong("leases not by expiry")
		}
		last = j.lease.expires
	}
	same("leases by expiry", n, leasedN)
	for tok, j := range e.leases {
		if j.lease.token != tok || j.state != leased && j.state != settling {
			wrong("token %v of a job in state %d", tok, j.state)
		}
	}
	all := map[*line]bool{}
	weights, xs := map[*band]float64{}, map[*band]float64{}
	for name, s := range e.sources {
		u := sources[s]
		if u == nil {
			u = &use{}
		}
		same(name+" queued", s.queued, u.queued)
		same(name+" running", int(s.limit.running), u.run)
		for _, p := range s.pairs {
			u := pairs[p]
			if u == nil {
				u = &use{}
			}
			same(name+" pair bytes", p.bytes, u.bytes)
			same(name+" pair unread", p.unread, u.unread)
			same(name+" pair running", p.running, u.run)
			busy, spillers := 0, 0
			for _, f := range s.flows {
				for _, st := range f.strands {
					if st.pair == p && st.jobs > 0 {
						busy++
					}
					if st.pair == p && st.spilling {
						spillers++
					}
				}
			}
			same(name+" pair busy", p.busy, busy)
			same(name+" pair spillers", p.spillers, spillers)
		}
		inPart := map[*part]int{}
		for _, f := range s.flows {
			u := flows[f]
			if u == nil {
				u = &use{}
			}
			same(name+" flow jobs", f.jobs, u.held)
			same(name+" flow queued", f.queued, u.queued)
			same(name+" flow running", int(f.limit.running), u.run)
			for _, st := range f.strands {
				u := strands[st]
				if u == nil {
					u = &use{}
				}
				same(name+" strand bytes", st.bytes, u.bytes)
				same(name+" strand jobs", st.jobs, u.jobs)
			}
			for _, q := range f.queues {
				c := 0
				for j := q.first; j != nil; j = j.next {
					c++
					if j.queue != q || j.state != queued {
						wrong("%s: job in the wrong queue", name)
					}
				}
				same(name+" queue", q.n, c)
				if (q.idx != 0) != (c > 0 && !f.off) {
					wrong("%s: queue of %d jobs, flow off %v, shown %v", name, c, f.off, q.idx != 0)
				}
				if q.idx != 0 {
					inPart[q.part] += c
				}
			}
		}
		for _, l := range s.lines {
			all[l] = true
			same(name+" line run", l.run, lines[l])
			near(name+" line back", l.c, backs[l])
			c, live := 0, 0
			for _, p := range l.parts {
				c += inPart[p]
				if (p.idx != 0) != (p.queues.Len() > 0 && !s.off) {
					wrong("%s: part with %d queues, source off %v, shown %v", name, p.queues.Len(), s.off, p.idx != 0)
				}
				if p.idx != 0 {
					live++
					if p.class.heaps[l.prio][l.zone].Items()[p.idx-1] != p {
						wrong("%s: part not where it says", name)
					}
				}
			}
			same(name+" line queued", l.queued, c)
			same(name+" line live", l.live, live)
			if l.active != 0 {
				weights[&l.pool.bands[l.prio]] += s.weight
			} else if l.run > 0 || l.waiting() > 0 {
				wrong("%s: line with work is not active", name)
			}
			xs[&l.pool.bands[l.prio]] += l.x
			if l.borrower && l.x != 0 {
				wrong("%s: a borrower's need is counted", name)
			}
		}
	}
	for l, n := range lines {
		if !all[l] {
			wrong("%d leases count for a line that is gone", n)
		}
	}
	for name, p := range e.pools {
		same(name+" pool run", p.run, pools[p])
		borrowed, c, c0 := 0, 0.0, 0.0
		for l := range all {
			if l.pool != p {
				continue
			}
			if l.borrower {
				borrowed += l.run
				c += l.c
			} else {
				c0 += l.c
			}
		}
		same(name+" borrowed", p.borrowed, borrowed)
		near(name+" c", p.c, c)
		near(name+" c0", p.c0, c0)
		for q := range p.bands {
			b := &p.bands[q]
			same(fmt.Sprint(name, " ", Priority(q), " run"), b.run, bands[b])
			near(fmt.Sprint(name, " ", Priority(q), " weight"), b.weight, weights[b])
			near(fmt.Sprint(name, " ", Priority(q), " x"), b.x, xs[b])
		}
		slots := int32(0)
		for _, g := range p.groups {
			open, tickets, bidders, s := int32(0), int32(0), 0, int32(0)
			for _, w := range g.workers {
				open += w.open
				tickets += w.tickets
				if w.bid.N > 0 {
					bidders++
				}
				if !w.draining {
					s += w.slots
				}
			}
			same(name+" open", int(g.open), int(open))
			same(name+" tickets", int(g.tickets), int(tickets))
			same(name+" bidders", g.bidders, bidders)
			same(name+" group slots", int(g.slots), int(s))
			slots += s
		}
		same(name+" slots", int(p.slots), int(slots))
	}
	return err
}

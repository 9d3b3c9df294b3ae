package history

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// quotas judges each source's executions against its limits, by what ran, not by
// what anybody counted.
func (o *Verdict) quotas() {
	for _, source := range sorted(o.view.starts) {
		limit := o.rules.Limits[source]
		runs := slices.Clone(o.view.starts[source])
		slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.start, b.start) })
		if limit.Concurrency > 0 {
			o.concurrency(source, limit.Concurrency, runs)
		}
		if limit.Rate > 0 {
			o.rate(source, limit, runs)
		}
	}
}

// concurrency looks at how many ran at each moment. For some time after a crash a
// source may run up to twice as many: the new owner does not know what still runs
// on workers that it cannot reach.
func (o *Verdict) concurrency(source string, limit int, runs []run) {
	type edge struct {
		at int64
		by int
	}
	edges := make([]edge, 0, 2*len(runs))
	for _, r := range runs {
		edges = append(edges, edge{r.start, 1})
		if r.sure != math.MaxInt64 {
			edges = append(edges, edge{r.sure, -1})
		}
	}
	// At the same moment ends come first.
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.by, b.by)) })
	now, most := 0, 0
	for _, e := range edges {
		now += e.by
		allowed := limit
		if o.afterCrash(e.at) {
			allowed = 2 * limit
		}
		most = max(most, now)
		if e.by > 0 && now > allowed {
			o.addSource("over-quota", source, fmt.Sprintf("%d at a time at %s, limit %d", now, o.at(e.at), allowed))
			return // one is enough to name it
		}
	}
	o.figure("most at a time of "+source, float64(most))
}

// rate looks at every window of a second. A takeover may add one burst: what was
// saved up is not handed over.
func (o *Verdict) rate(source string, limit Limit, runs []run) {
	first := 0
	for i, r := range runs {
		for r.start-runs[first].start > int64(time.Second) {
			first++
		}
		bursts := 1.0
		for _, f := range o.view.fences {
			if f.Mono > r.start-int64(time.Second)-int64(o.rules.Jitter) && f.Mono <= r.start {
				bursts = 2
			}
		}
		allowed := limit.Rate*(1+o.rules.Jitter.Seconds()) + bursts*limit.Burst
		if n := i - first + 1; float64(n) > allowed {
			o.addSource("over-quota", source, fmt.Sprintf("%d starts in the second before %s, limit %.0f", n, o.at(r.start), allowed))
			return
		}
	}
}

// afterCrash says whether a crash's quarantine may be under way.
func (o *Verdict) afterCrash(at int64) bool {
	for _, f := range o.view.faults {
		if f.repeats() && at >= f.Mono && at <= f.Mono+int64(o.rules.Recovery+o.rules.Quarantine) {
			return true
		}
	}
	return false
}

// holds judges that nothing of a source starts between the answer to its hold and
// its resume.
func (o *Verdict) holds() {
	for _, source := range sorted(o.view.held) {
		for _, h := range o.view.held[source] {
			for _, r := range o.view.starts[source] {
				if h.has(r.start) {
					o.add("post-hold-start", o.view.jobs[r.event.Key], fmt.Sprintf("started by %s at %s, held from %s to %s", r.event.Proc, o.at(r.start), o.at(h.from), o.at(h.to)))
				}
			}
		}
	}
}

// starvation judges waits at times when nothing was done to anybody, and nothing
// recovered from it. What waits in a hold, waits by order, and what waits for its own
// quota is not starved.
func (o *Verdict) starvation() {
	for _, j := range o.view.order {
		if j.invoke == nil || j.invoke.Due == 0 || j.ok == 0 || len(j.runs) == 0 || o.rules.Limits[j.source] != (Limit{}) {
			continue
		}
		due, start := j.invoke.Due, j.runs[0].start
		if time.Duration(start-due) <= o.rules.Starved || o.disturbed(due, start) || o.view.heldWithin(j.source, due, start) {
			continue
		}
		o.add("starved", j, fmt.Sprintf("due at %s, started at %s", o.at(due), o.at(start)))
	}
}

func (o *Verdict) disturbed(from, to int64) bool {
	for _, f := range o.view.faults {
		until := f.to
		if until != math.MaxInt64 {
			until += int64(o.rules.Recovery)
		}
		if from <= until && to >= f.Mono {
			return true
		}
	}
	return false
}

func (v *view) heldWithin(source string, from, to int64) bool {
	return slices.ContainsFunc(v.held[source], func(h span) bool { return from <= h.to && to >= h.from })
}

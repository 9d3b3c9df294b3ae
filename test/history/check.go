package history

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Rules say what a run has to keep.
type Rules struct {
	// Limits are the sources' quotas; a source without one is not judged by it.
	Limits map[string]Limit
	// TTL is the life of a lease without renewal, RenewEvery how often it is
	// renewed: a frozen worker's lease is sure for TTL - RenewEvery.
	TTL, RenewEvery time.Duration
	// Quarantine is how long after the takeover that follows a crash a source may
	// run up to twice its concurrency, TTL + 9 s.
	Quarantine time.Duration
	// Jitter is how far the times between a grant and the handler's start differ.
	Jitter time.Duration
	// Unsettled is how long after its handler's end a job may still be without a
	// durable outcome; until then it counts as in flight.
	Unsettled time.Duration
	// Starved is how long a job may wait when nothing is done to anybody.
	Starved time.Duration
	// Recovery is how long after a fault waits are not judged by Starved.
	Recovery time.Duration
	// Accepted is the least share of the sent jobs that has to be accepted, Jobs
	// the least number, for a run to say anything.
	Accepted float64
	Jobs     int
	// Faults is how many faults have to have fired. Takeovers is how many shards at
	// least must have changed hands after the first of them.
	Faults, Takeovers int
}

// Limit is a source's quota. 0 is no limit.
type Limit struct {
	Rate, Burst float64
	Concurrency int
}

// byOrder is how an execution ends that the job's payload told to fail.
const byOrder = "failed by order"

// What a fault does.
const (
	Kill   = "kill"   // SIGKILL
	Stop   = "stop"   // SIGTERM
	Freeze = "freeze" // SIGSTOP, until the heal
)

// run is one execution.
type run struct {
	start, end int64 // end is math.MaxInt64 while it was not written
	sure       int64 // until when the lease is surely this execution's
	event      *Event
	outcome    string
}

// job is everything that is known of one job.
type job struct {
	key, source         string
	invoke              *Event
	ok, fail, info      int
	answered            int64 // the first ok
	runs                []run
	ids                 []string
	sum                 string
	settled             *Event // the first terminal event that counts
	again, contradicted bool   // more terminal events that count
}

// fault is one fault with its end.
type fault struct {
	*Event
	to         int64 // the heal, math.MaxInt64 without one
	duplicates int
}

// repeats says that a fault may cost a job that is in flight a second run.
func (f fault) repeats() bool { return f.Code != Stop }

// view is a history, sorted into jobs.
type view struct {
	rules   Rules
	jobs    map[string]*job
	order   []*job // by key of the first event
	byID    map[string]*job
	faults  []fault
	fences  []*Event // takeovers, in order
	hands   []*Event // handovers
	starts  map[string][]run
	held    map[string][]span
	answers map[string]int
	begin   int64
	end     int64
	stale   []*Event // settled events that no reader counts
}

type span struct{ from, to int64 }

func (s span) has(t int64) bool { return s.from <= t && t < s.to }

// Check judges a history.
func Check(events []Event, rules Rules) *Verdict {
	v := read(events, rules)
	out := &Verdict{Anomalies: map[string]int{}, Answers: v.answers, view: v}
	for _, j := range v.order {
		out.fate(j)
		out.runsOf(j)
	}
	out.quotas()
	out.holds()
	out.starvation()
	out.validity()
	return out
}

// read sorts a history into jobs.
func read(events []Event, rules Rules) *view {
	v := &view{rules: rules, jobs: map[string]*job{}, byID: map[string]*job{}, starts: map[string][]run{}, held: map[string][]span{}, answers: map[string]int{}}
	if len(events) > 0 {
		v.begin, v.end = events[0].Mono, events[len(events)-1].Mono
	}
	var outcomes []*Event
	for i := range events {
		e := &events[i]
		switch e.Kind {
		case Invoke:
			j := v.job(e)
			if j.invoke == nil {
				j.invoke, j.sum = e, e.Sum
			}
		case OK:
			j := v.job(e)
			if j.ok++; j.ok == 1 {
				j.answered = e.Mono
			}
			v.known(j, e.Job)
		case Fail:
			v.job(e).fail++
			v.answers[e.Code]++
		case Info:
			v.job(e).info++
			v.answers[e.Code]++
		case Start:
			j := v.job(e)
			v.known(j, e.Job)
			j.runs = append(j.runs, run{start: e.Mono, end: math.MaxInt64, sure: math.MaxInt64, event: e})
		case End:
			v.endOf(e)
		case Settled:
			outcomes = append(outcomes, e)
		case Fence:
			v.fences = append(v.fences, e)
			outcomes = append(outcomes, e)
		case Handover:
			v.hands = append(v.hands, e)
		case Fault:
			v.faults = append(v.faults, fault{Event: e, to: math.MaxInt64})
		case Heal:
			for i := range v.faults {
				if f := &v.faults[i]; f.Target == e.Target && f.to == math.MaxInt64 {
					f.to = e.Mono
				}
			}
		case Hold:
			v.held[e.Source] = append(v.held[e.Source], span{e.Mono, math.MaxInt64})
		case Resume:
			if h := v.held[e.Source]; len(h) > 0 {
				h[len(h)-1].to = e.Mono
			}
		}
	}
	v.settle(outcomes)
	for _, j := range v.order {
		for i := range j.runs {
			v.bound(&j.runs[i])
			v.starts[j.source] = append(v.starts[j.source], j.runs[i])
		}
	}
	return v
}

func (v *view) job(e *Event) *job {
	j := v.jobs[e.Key]
	if j == nil {
		j = &job{key: e.Key, source: e.Source}
		v.jobs[e.Key] = j
		v.order = append(v.order, j)
	}
	return j
}

// known ties an id of the product to a job.
func (v *view) known(j *job, id string) {
	if id != "" && !slices.Contains(j.ids, id) {
		j.ids = append(j.ids, id)
		v.byID[id] = j
	}
}

// endOf ends the execution of the same process and token that has begun last.
func (v *view) endOf(e *Event) {
	j := v.job(e)
	for i := range slices.Backward(j.runs) {
		r := &j.runs[i]
		if r.end == math.MaxInt64 && r.event.Proc == e.Proc && *r.event.Token == *e.Token {
			r.end, r.sure, r.outcome = e.Mono, e.Mono, e.Code
			return
		}
	}
}

// bound says until when an execution's lease is surely its own: a killed process
// runs nothing any more, a frozen one may have lost its leases.
func (v *view) bound(r *run) {
	for _, f := range v.faults {
		if f.Target != r.event.Proc || f.Mono < r.start || f.Mono > r.end {
			continue
		}
		switch f.Code {
		case Kill:
			r.sure = min(r.sure, f.Mono)
		case Freeze:
			r.sure = min(r.sure, f.Mono+int64(v.rules.TTL-v.rules.RenewEvery))
		}
	}
}

// hit reports whether something was done to the worker of an execution while it ran: then it may have been cut.
func (v *view) hit(r run) bool {
	return slices.ContainsFunc(v.faults, func(f fault) bool { return f.Target == r.event.Proc && f.Mono <= r.end && f.to >= r.start })
}

// settle applies the rule of every reader, in the order of each shard's log: the
// first terminal event of a job counts, and one of an owner older than the last
// fence before it does not.
func (v *view) settle(events []*Event) {
	slices.SortStableFunc(events, func(a, b *Event) int {
		return cmp.Or(cmp.Compare(a.Token.Shard, b.Token.Shard), cmp.Compare(a.Offset, b.Offset))
	})
	fence := map[int32]int64{}
	for _, e := range events {
		shard := e.Token.Shard
		if e.Kind == Fence {
			fence[shard] = max(fence[shard], e.Token.Epoch)
			continue
		}
		if e.Token.Epoch < fence[shard] {
			v.stale = append(v.stale, e)
			continue
		}
		j := v.byID[e.Job]
		switch {
		case j == nil:
		case j.settled == nil:
			j.settled = e
		default:
			j.again = true
			j.contradicted = j.contradicted || j.settled.Code != e.Code
		}
	}
}

// fate judges what became of a job.
func (o *Verdict) fate(j *job) {
	o.count(j)
	switch {
	case j.invoke == nil && len(j.runs) > 0:
		o.add("unexpected", j, "it ran and was never sent")
	case len(j.runs) > 0 && j.ok == 0 && j.info == 0 && j.fail > 0:
		o.add("aborted-read", j, "it ran although its enqueue was refused")
	case j.ok > 0 && len(j.runs) == 0 && (j.settled == nil || j.settled.Code == "SUCCEEDED"):
		o.add("lost", j, fmt.Sprintf("accepted at %s, and never ran", o.at(j.answered)))
	case j.ok > 0 && j.settled == nil:
		o.add("outcome-missing", j, "it ran and has no outcome")
	}
	if len(j.ids) > 1 {
		o.add("two-ids", j, fmt.Sprintf("one key made %v", j.ids))
	}
	if j.contradicted {
		o.add("completed-and-dead", j, "its outcomes contradict each other, first "+j.settled.Code)
	} else if j.again {
		o.add("acked-twice", j, "it has the outcome "+j.settled.Code+" twice")
	}
	if j.settled != nil && j.settled.Code == "DEAD" {
		o.add("healthy-dead", j, "no job of a run is poison")
	}
	for _, r := range j.runs {
		if r.event.Sum != j.sum && j.invoke != nil {
			o.add("payload-mutated", j, "sent "+j.sum+", ran with "+r.event.Sum)
		}
	}
}

// runsOf judges a job's executions against each other.
func (o *Verdict) runsOf(j *job) {
	if len(j.runs) == 0 {
		return
	}
	slices.SortStableFunc(j.runs, func(a, b run) int { return cmp.Compare(a.start, b.start) })
	ordered := 0 // executions that are there by order: after a failure
	for i, r := range j.runs {
		for _, e := range j.runs[:i] {
			if e.sure > r.start {
				o.add("lease-overlap", j, fmt.Sprintf("%s ran it from %s to %s, %s from %s", e.event.Proc, o.at(e.start), o.at(e.sure), r.event.Proc, o.at(r.start)))
			}
			if !e.event.Token.before(*r.event.Token) {
				o.add("stale-token-accepted", j, fmt.Sprintf("token %+v came after %+v", *r.event.Token, *e.event.Token))
			}
		}
		if r.outcome == byOrder {
			ordered++
		}
		if strings.HasPrefix(r.outcome, contextEnded) && !o.view.hit(r) {
			o.add("cancelled", j, fmt.Sprintf("%s cut it at %s: %s", r.event.Proc, o.at(r.end), r.outcome))
		}
		// An outcome is that of the latest lease: a report under an older token had
		// to be refused.
		if j.settled != nil && j.settled.Lease != nil && r.start < j.settled.Mono-int64(o.rules.Jitter) && j.settled.Lease.before(*r.event.Token) {
			o.add("stale-token-accepted", j, fmt.Sprintf("settled at %s under %+v, and %+v had started at %s", o.at(j.settled.Mono), *j.settled.Lease, *r.event.Token, o.at(r.start)))
		}
	}
	for extra := 1 + ordered; extra < len(j.runs); extra++ {
		if f := o.excuse(j, j.runs[extra].start); f >= 0 {
			o.faults[f].duplicates++
			o.Duplicates++
			continue
		}
		o.add("duplicate-exec", j, fmt.Sprintf("run %d of it, at %s, and it was in flight at no fault that explains it", extra+1, o.at(j.runs[extra].start)))
	}
}

// excuse is the fault that explains that a job runs again at a time, -1: none. A
// fault explains a second run of what was in flight when it came: started, and
// ended no longer ago than a result takes to be durable.
func (o *Verdict) excuse(j *job, at int64) int {
	for i, f := range o.view.faults {
		if !f.repeats() || f.Mono > at {
			continue
		}
		for _, r := range j.runs {
			if r.start < at && r.start <= f.Mono+int64(o.rules.Jitter) && (r.end == math.MaxInt64 || r.end >= f.Mono-int64(o.rules.Unsettled)) {
				return i
			}
		}
	}
	return -1
}

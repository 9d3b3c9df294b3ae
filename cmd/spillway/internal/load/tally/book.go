package tally

import (
	"sync"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
)

// Answer is what the generator was told about a job that it sent.
type Answer uint8

// The answers. Unknown is every answer after which the job may have been
// accepted; only a definite refusal is Refused.
const (
	None Answer = iota
	Accepted
	Refused
	Unknown
)

// job is what happened to one job. Times are 0 for never.
type job struct {
	answered time.Duration
	started  time.Duration // first start
	starts   uint16        // saturating
	answer   Answer
	sent     bool
	finished bool
}

// open reports whether the run still has to wait for the job.
func (j *job) open() bool {
	return !j.finished && (j.answer == Accepted || j.starts > 0)
}

// again is a start of a job beyond its first.
type again struct {
	seq uint32
	at  time.Duration
}

// flow is the account of one flow. Its mutex is held for single field updates
// only.
type flow struct {
	mu      sync.Mutex
	jobs    []job
	agains  []again
	live    Live
	slowest time.Duration // longest wait of a start since the last Live
}

// Live are a flow's counters while the run goes on.
type Live struct {
	// Sent, Accepted, Refused and Unknown are jobs; Sent counts those without
	// an answer too.
	Sent, Accepted, Refused, Unknown int
	// Started and Finished are distinct jobs, Open those to wait for.
	Started, Finished, Open int
	// Slowest is the longest wait among the starts since the last call.
	Slowest time.Duration
}

// Book keeps the account of one run. Safe for concurrent use.
type Book struct {
	run   plan.Run
	flows []*flow
}

// New opens the book of a run, with room for every job of it.
func New(run plan.Run) *Book {
	b := &Book{run: run, flows: make([]*flow, len(run.Flows))}
	for i, s := range run.Schedules {
		b.flows[i] = &flow{jobs: make([]job, s.Count())}
	}
	return b
}

// update changes one job and keeps the counters in step. It reports false for
// a job that the run does not have.
func (b *Book) update(i, k int, change func(f *flow, j *job)) bool {
	if i < 0 || i >= len(b.flows) {
		return false
	}
	f := b.flows[i]
	f.mu.Lock()
	defer f.mu.Unlock()
	if k < 0 || k >= len(f.jobs) {
		return false
	}
	j := &f.jobs[k]
	before := j.open()
	change(f, j)
	switch after := j.open(); {
	case after && !before:
		f.live.Open++
	case before && !after:
		f.live.Open--
	}
	return true
}

// Sent notes that job k of flow i is about to be sent.
func (b *Book) Sent(i, k int) {
	b.update(i, k, func(f *flow, j *job) {
		if !j.sent {
			j.sent = true
			f.live.Sent++
		}
	})
}

// Answered notes the final answer about a job.
func (b *Book) Answered(i, k int, at time.Duration, a Answer) {
	b.update(i, k, func(f *flow, j *job) {
		if j.answer != None || a == None {
			return
		}
		j.answer, j.answered = a, at
		switch a {
		case Accepted:
			f.live.Accepted++
		case Refused:
			f.live.Refused++
		case Unknown:
			f.live.Unknown++
		}
	})
}

// Started notes that a handler starts on a job. It reports false for a job
// that the run does not have.
func (b *Book) Started(i, k int, at time.Duration) bool {
	return b.update(i, k, func(f *flow, j *job) {
		if j.starts < 1<<16-1 {
			j.starts++
		}
		if j.starts > 1 {
			f.agains = append(f.agains, again{seq: uint32(k), at: at})
			return
		}
		j.started = at
		f.live.Started++
		f.slowest = max(f.slowest, at-b.run.Schedules[i].At(k))
	})
}

// Finished notes that a handler has done a job.
func (b *Book) Finished(i, k int) {
	b.update(i, k, func(f *flow, j *job) {
		if !j.finished {
			j.finished = true
			f.live.Finished++
		}
	})
}

// Live returns a flow's counters and begins a new interval for Slowest.
func (b *Book) Live(i int) Live {
	f := b.flows[i]
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.live
	l.Slowest, f.slowest = f.slowest, 0
	return l
}

// Open is how many jobs the run still has to wait for.
func (b *Book) Open() int {
	n := 0
	for _, f := range b.flows {
		f.mu.Lock()
		n += f.live.Open
		f.mu.Unlock()
	}
	return n
}

// StartedWithin counts the handlers of flow i that started after from and
// before to, repeated starts included.
func (b *Book) StartedWithin(i int, from, to time.Duration) int {
	f := b.flows[i]
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for k := range f.jobs {
		if j := &f.jobs[k]; j.starts > 0 && j.started > from && j.started < to {
			n++
		}
	}
	for _, a := range f.agains {
		if a.at > from && a.at < to {
			n++
		}
	}
	return n
}

// Fate is what the generator knows of one job in the end.
type Fate struct {
	// Flow and Seq name the job.
	Flow, Seq int
	// Answer is None for a job that was sent and never answered.
	Answer Answer
	// Started and Finished are by the generator's own handlers.
	Started, Finished bool
}

// Each calls f for every job that was sent, flow by flow in order of sending.
func (b *Book) Each(visit func(Fate)) {
	for i, f := range b.flows {
		f.mu.Lock()
		jobs := append([]job(nil), f.jobs...)
		f.mu.Unlock()
		for k, j := range jobs {
			if j.sent {
				visit(Fate{Flow: i, Seq: k, Answer: j.answer, Started: j.starts > 0, Finished: j.finished})
			}
		}
	}
}

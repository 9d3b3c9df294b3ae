package core

import (
	"math"
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core/dedupe"
	"github.com/spillway/spillway/services/scheduler/internal/core/heap"
	"github.com/spillway/spillway/services/scheduler/internal/core/ramp"
)

// state is where a job is in its life inside the engine.
//
//	Offer ─▶ queued ──grant──▶ leased ──report, expiry──▶ settling ──Settled──▶ gone
//	   │      ▲  │ ▲             │ Return                    │ (retry)
//	   │      │  │ └─────────────┘                           ▼
//	   └▶ waiting │◀───────────────────────────────────── waiting
//	              └─held, pinned──▶ moved ──Moved──▶ gone (its lane brings it back)
type state uint8

const (
	gone     state = iota // not in the engine
	queued                // in its flow's queue
	waiting               // until its timer: retry, ready time, quarantine
	leased                // a worker has it
	settling              // its event is being written
	moved                 // its copy is being written
)

// entry is the engine's own part of a Job.
type entry struct {
	state     state
	moving    bool // handed out in Chores.Moves and Moved not heard yet
	started   bool // its handler is known to run
	final     bool // its settlement is terminal: Settled forgets it
	again     bool // has to be moved once more when its copy has arrived
	recalled  bool // Revoke if not started was sent
	aborted   bool // its lease ended by the engine, not by a report
	counted   bool // its bytes are in the memory budget
	cause     WaitCause
	eff       Priority // priority it was queued under; the ceiling may have lowered it
	waits     Waits
	since     moment // when it began to wait
	offered   moment
	strand    *strand
	queue     *queue
	line      *line // that its running count is in
	prev      *Job  // in its queue
	next      *Job
	younger   *Job // in the list by age
	older     *Job
	aged      bool // in the list by age
	timer     timer
	retryAt   moment
	lease     lease
	runIdx    int // 1 + place in Engine.running
	expireIdx int // 1 + place in Engine.expiring
}

// limiter holds a source or a flow to its quota: GCRA for the rate, a count for concurrency.
type limiter struct {
	limited  bool
	rated    bool
	interval time.Duration // between grants at the rate; 0 with rated = nothing may run
	slack    time.Duration // how far the theoretical time may lie ahead: (burst − 1) × interval
	capped   bool
	cap      int32
	tat      moment // theoretical arrival time of the next grant. Any window d holds at most burst + rate × d grants
	running  int32  // leases not reported yet; ≤ cap, but for inherited ones
	claimed  int32  // of a source: leases that the former owner handed over, whose jobs were not read yet
}

// longestInterval keeps sums of what slow rates make within a moment.
const longestInterval = 365 * 24 * time.Hour

// spacing is the time between grants at a rate above 0.
func spacing(rate float64) time.Duration {
	return max(1, time.Duration(min(float64(time.Second)/rate, float64(longestInterval))))
}

func (l *limiter) set(q Quota) {
	l.rated, l.capped = q.Rate != nil, q.Concurrency != nil
	l.limited = l.rated || l.capped
	l.interval, l.slack, l.cap = 0, 0, 0
	if l.capped {
		l.cap = max(0, *q.Concurrency)
	}
	if !l.rated || *q.Rate <= 0 {
		return
	}
	l.interval = spacing(*q.Rate)
	burst := max(1, *q.Rate)
	if q.Burst != nil {
		burst = float64(max(1, *q.Burst))
	}
	l.slack = time.Duration(min((burst-1)*float64(l.interval), float64(longestInterval)))
}

// climb makes a ramp's rate the limit from t on; 0 = no ramp. What was granted before is paid for at the new rate: two jobs at 0.01/s would
// keep a ramp waiting for 200 s, and then everything would come.
func (l *limiter) climb(t moment, rate float64) {
	was := l.interval
	*l = limiter{tat: l.tat}
	if rate == 0 {
		return
	}
	l.limited, l.rated, l.interval = true, true, spacing(rate)
	l.slack = time.Duration(ramp.Burst(rate)-1) * l.interval
	if owed := l.tat - t; owed > 0 && was > 0 {
		l.tat = t + time.Duration(min(float64(owed)*float64(l.interval)/float64(was), float64(longestInterval)))
	}
	l.tat = min(l.tat, t+l.slack+l.interval)
}

// ready says when the next grant may be, now if ≤ t, and what stands in its way.
func (l *limiter) ready(t moment) (moment, WaitCause) {
	if !l.limited {
		return t, WaitUnspecified
	}
	if l.capped && l.running+l.claimed >= l.cap {
		return never, WaitQuotaConcurrency
	}
	if l.rated {
		if l.interval == 0 {
			return never, WaitQuotaRate
		}
		return l.tat - l.slack, WaitQuotaRate
	}
	return t, WaitUnspecified
}

// ready says when both limits let something start, and what stands in its way.
func ready(t moment, quota, rising *limiter) (moment, WaitCause) {
	at, cause := quota.ready(t)
	if later, why := rising.ready(t); later > at {
		return later, why
	}
	return at, cause
}

// take counts a grant, refund gives one back that never was.
func (l *limiter) take(t moment) {
	l.running++
	if l.rated {
		l.tat = max(l.tat, t) + l.interval
	}
}

func (l *limiter) refund() { l.tat -= l.interval }

// delayed reports whether a job behind n others could not start within 2 s under the rate.
func (l *limiter) delayed(t moment, n int) bool {
	const patience = 2 * time.Second // scheduling.md §4: ordinary bursts take no lane
	if !l.rated {
		return false
	}
	left := patience + l.slack - max(l.tat-l.slack-t, 0)
	return l.interval == 0 || left < 0 || time.Duration(n) > left/l.interval
}

// crowded reports whether n queued jobs are more than four times what may run.
func (l *limiter) crowded(n int) bool { return l.capped && n > 4*int(l.cap) }

// source is one origin of work: policy, quota, and the lines its jobs wait in. It belongs to one shard.
type source struct {
	name    string
	shard   int32
	policy  Policy
	weight  float64 // policy weight ÷ 100
	limit   limiter
	ramp    limiter // beside the quota while its work comes back after a resume
	held    bool
	off     bool // held or throttled: none of its parts is in a heap
	cause   WaitCause
	offAt   moment
	ceiling Priority
	queued  int   // jobs in queues
	taken   int64 // jobs that Offer kept, ever
	pairs   []*pair
	lines   []*line
	flows   map[string]*flow
	keys    dedupe.Window // settled ids of keys that callers chose
	timer   timer
}

// flow is (source, tenant): the smallest thing that is scheduled fairly.
type flow struct {
	src     *source
	tenant  string
	limit   limiter
	ramp    limiter
	held    bool
	off     bool // held or throttled: none of its queues is in a heap
	cause   WaitCause
	offAt   moment
	ceiling Priority
	jobs    int // jobs of any state in the engine
	queued  int
	strands []*strand
	queues  []*queue
	idle    bool // in Engine.idle
	idleAt  moment
	timer   timer
}

// pair is (source, type): what has a share of memory, a lane and a duration.
type pair struct {
	src      *source
	kind     *kind
	bytes    int // of queued and waiting jobs
	busy     int // strands with queued or waiting jobs
	spillers int // strands that spill
	whole    bool
	running  int
	unread   int // FromLane jobs queued or waiting
	drawn    int // FromLane jobs granted since it was looked at last whether to read
	lane     LaneState
	laneLine *line // that the lane's backlog is counted in
	laneJobs int64
	priority Priority // of the latest job that went to the lane or came
	respills int      // FromLane jobs of held flows since the last pause
	readAt   moment   // no read before
	copies   int      // lane records of running jobs that were moved there
	listed   bool     // in Engine.lanes

	mean, dev float64 // seconds; moving averages 1/8 and 1/4
	finished  int
}

// estimate is the expected cost of one job in worker-seconds.
func (p *pair) estimate() float64 {
	if p.finished == 0 {
		return 0.1
	}
	return p.mean
}

func (p *pair) ran(d float64) {
	if p.finished == 0 {
		p.mean, p.dev = d, d/2
	} else {
		p.dev += (math.Abs(d-p.mean) - p.dev) / 4
		p.mean += (d - p.mean) / 8
	}
	p.finished++
}

// strand is (flow, type): what spills as one.
type strand struct {
	flow     *flow
	pair     *pair
	bytes    int
	jobs     int // queued or waiting
	spilling bool
}

// line is the jobs of a source at one effective priority in one pool: what virtual tags order.
type line struct {
	src    *source
	prio   Priority
	pool   *pool
	f      float64 // virtual tag in worker-seconds ÷ weight
	zone   uint8   // which heap of its class its parts are in
	queued int     // jobs in queues that are in a heap of a part
	lane   int64   // jobs in lanes, counted as queued
	run    int     // leases not reported yet
	c      float64 // Σ lease.back
	x      float64 // its part of band.x
	parts  []*part
	live   int // parts in a heap

	borrower  bool
	borrowEnd moment
	active    int // 1 + place in pool.active, 0 = no work in the last 10 s
	workedAt  moment
}

// The zones of a line, each a heap.
const (
	within = iota // one more lease is within its fair share
	over          // it is beyond: a borrower
	full          // a borrower at its level
	zones
)

// waiting is the number of jobs that could start now, those in lanes included.
func (l *line) waiting() int {
	if l.src.off {
		return 0
	}
	return l.queued + int(min(l.lane, math.MaxInt32))
}

// part is the jobs of a line that the same workers can run.
type part struct {
	line   *line
	class  *class
	queues heap.Heap[*queue] // of flows that are not off
	v      float64           // tag of the queue granted last
	idx    int32
}

func (p *part) Before(q *part) bool { return p.line.f < q.line.f }
func (p *part) Slot() *int32        { return &p.idx }

// queue is the jobs of a flow in one part, first in first out.
type queue struct {
	flow        *flow
	part        *part
	tag         float64 // worker-seconds the flow has had
	first, last *Job
	n           int
	idx         int32
}

func (q *queue) Before(r *queue) bool { return q.tag < r.tag }
func (q *queue) Slot() *int32         { return &q.idx }

func (q *queue) push(j *Job, front bool) {
	j.queue, j.prev, j.next = q, nil, nil
	q.n++
	switch {
	case q.first == nil:
		q.first, q.last = j, j
	case front:
		j.next, q.first.prev = q.first, j
		q.first = j
	default:
		j.prev, q.last.next = q.last, j
		q.last = j
	}
}

func (q *queue) unlink(j *Job) {
	if j.prev != nil {
		j.prev.next = j.next
	} else {
		q.first = j.next
	}
	if j.next != nil {
		j.next.prev = j.prev
	} else {
		q.last = j.prev
	}
	j.prev, j.next = nil, nil
	q.n--
}

// turn takes a source off or puts it on again, with all its parts.
func (e *Engine) turn(t moment, s *source, off bool, cause WaitCause) {
	if off {
		s.cause = cause
	}
	if s.off == off {
		return
	}
	s.off, s.offAt = off, t
	for _, l := range s.lines {
		for _, p := range l.parts {
			switch {
			case off && p.idx != 0:
				p.hide()
			case !off && p.idx == 0 && p.queues.Len() > 0:
				p.show()
			}
		}
		e.worked(t, l)
		e.touch(l.pool)
	}
}

// turnFlow takes a flow off or puts it on again, with all its queues.
func (e *Engine) turnFlow(t moment, f *flow, off bool, cause WaitCause) {
	if off {
		f.cause = cause
	}
	if f.off == off {
		return
	}
	f.off, f.offAt = off, t
	for _, q := range f.queues {
		switch {
		case off && q.idx != 0:
			e.hide(t, q)
		case !off && q.idx == 0 && q.n > 0:
			e.show(t, q)
		}
		e.worked(t, q.part.line)
		e.touch(q.part.line.pool)
	}
}

// check takes a source and a flow off while their quota lets nothing start, and puts them on when it does again.
func (e *Engine) check(t moment, f *flow) {
	s := f.src
	e.checkSource(t, s)
	at, cause := ready(t, &f.limit, &f.ramp)
	switch {
	case f.held:
		e.turnFlow(t, f, true, WaitHold)
		at = never
	case at > t:
		e.turnFlow(t, f, true, cause)
	default:
		e.turnFlow(t, f, false, cause)
		at = never
	}
	e.arm(&f.timer, at)
}

func (e *Engine) checkSource(t moment, s *source) {
	at, cause := ready(t, &s.limit, &s.ramp)
	switch {
	case s.held:
		e.turn(t, s, true, WaitHold)
		at = never
	case at > t:
		e.turn(t, s, true, cause)
	default:
		e.turn(t, s, false, cause)
		at = never
	}
	e.arm(&s.timer, at)
}

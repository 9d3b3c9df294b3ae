package core

import (
	"math"
	"time"
)

// lease is the engine's side of a granted job. It is in Engine.leases from the grant until it is returned or its
// settlement is durable: at most one for a job (TestModel).
type lease struct {
	token    Token
	worker   string
	ticket   bool
	timeout  time.Duration
	start    moment
	expires  moment
	deadline moment  // start + run timeout; the worker ends the handler itself, this is the second stop
	charged  float64 // worker-seconds charged so far
	back     float64 // expected part of a slot back within 2 ms
	handed   bool    // the former owner named it in its handover, and its worker has not named it here yet
	prev     *Job    // in the list by expiry
	next     *Job
}

// timeoutGrace lets the worker's own report of a run timeout arrive first.
const timeoutGrace = time.Second

// retryInMemory is the longest wait that is kept in memory.
const retryInMemory = 15 * time.Second

// begin makes a lease of a job that is in no queue.
func (e *Engine) begin(t moment, j *Job, worker string, token Token, expires moment, l *line, q *queue) {
	e.uncount(j)
	p := j.strand.pair
	timeout := j.RunTimeout
	if timeout <= 0 {
		timeout = p.src.policy.RunTimeout
	}
	if timeout <= 0 {
		timeout = 5 * time.Minute
	}
	j.state, j.started, j.recalled, j.aborted = leased, false, false, false
	j.line, j.queue, j.eff = l, q, l.prio
	j.lease = lease{
		token: token, worker: worker, timeout: timeout, start: t, expires: expires,
		deadline: t + timeout + timeoutGrace, back: p.expectBack(0),
	}
	e.leases[token] = j
	e.running = append(e.running, j)
	j.runIdx = len(e.running)
	e.linkLease(j)
	p.running++
	e.addRun(t, l, 1)
	l.addBack(j.lease.back)
}

// end takes a lease out of all counts; the token stays known until forgetLease.
func (e *Engine) end(t moment, j *Job) {
	e.running = toggle(e.running, j, &j.runIdx, func(o *Job) *int { return &o.runIdx })
	e.unlinkLease(j)
	p, l, f := j.strand.pair, j.line, j.strand.flow
	p.running--
	l.addBack(-j.lease.back)
	e.addRun(t, l, -1)
	f.limit.running--
	p.src.limit.running--
	e.touch(l.pool)
}

// linkLease puts a lease into the list by expiry. The order of granting and renewing is that order, since all have one TTL: only one that was
// handed over, with what is left of it, goes before the last.
func (e *Engine) linkLease(j *Job) {
	before := e.lastLease
	for before != nil && before.lease.expires > j.lease.expires {
		before = before.lease.prev
	}
	next := e.firstLease
	if before != nil {
		next = before.lease.next
		before.lease.next = j
	} else {
		e.firstLease = j
	}
	if next != nil {
		next.lease.prev = j
	} else {
		e.lastLease = j
	}
	j.lease.prev, j.lease.next = before, next
}

func (e *Engine) unlinkLease(j *Job) {
	if j.lease.prev != nil {
		j.lease.prev.lease.next = j.lease.next
	} else {
		e.firstLease = j.lease.next
	}
	if j.lease.next != nil {
		j.lease.next.lease.prev = j.lease.prev
	} else {
		e.lastLease = j.lease.prev
	}
	j.lease.prev, j.lease.next = nil, nil
}

// leaseOf returns the job that a worker holds under a token, nil if the token is stale or another worker's.
func (e *Engine) leaseOf(worker string, t Token) *Job {
	if j := e.leases[t]; j != nil && j.lease.worker == worker {
		return j
	}
	return nil
}

// Started tells that handlers of these leases began.
func (e *Engine) Started(now time.Time, worker string, tokens []Token) {
	e.advance(now)
	for _, t := range tokens {
		if j := e.leaseOf(worker, t); j != nil {
			j.started = true
		}
	}
}

// Renew gives each lease a new TTL, unless it is not the worker's, or is past its run timeout: then it is lost. A lease
// with a report under way counts as renewed. The returned slices are valid until the next Renew.
func (e *Engine) Renew(now time.Time, worker string, tokens []Token) (renewed, lost []Token) {
	at := e.advance(now)
	e.renewed, e.lost = e.renewed[:0], e.lost[:0]
	for _, t := range tokens {
		j := e.leaseOf(worker, t)
		switch {
		case j == nil && !e.claimed(at, worker, t), j != nil && (j.aborted || j.state == leased && at >= j.lease.deadline):
			e.lost = append(e.lost, t)
			continue
		case j != nil && j.state == leased:
			e.unlinkLease(j)
			j.lease.expires = at + e.cfg.TTL
			e.linkLease(j)
			if j.lease.handed { // its worker has it
				j.lease.handed, j.started = false, true
			}
		}
		e.renewed = append(e.renewed, t)
	}
	return e.renewed, e.lost
}

// Done takes a worker's report: it frees the slot and the quota, and says what to make durable.
func (e *Engine) Done(now time.Time, worker string, r Result) Settlement {
	t := e.advance(now)
	j := e.leaseOf(worker, r.Token)
	if j == nil {
		if c := e.claimOf(worker, r.Token); c != nil {
			report := r // a copy, so that r itself stays off the heap
			c.result, c.until, c.handed = &report, t+reportKept, false
			return Settlement{Kind: Repeated, Token: r.Token}
		}
	}
	if j == nil || j.ID != r.JobID {
		return Settlement{Kind: Refused, Token: r.Token, Reason: ReasonStaleLease}
	}
	if j.state == settling {
		return Settlement{Kind: Repeated, Job: j, Token: r.Token}
	}
	return e.finish(t, j, r)
}

// finish ends a lease with a report, or with the engine's own in place of one.
func (e *Engine) finish(t moment, j *Job, r Result) Settlement {
	took := (t - j.lease.start).Seconds()
	e.end(t, j)
	pair := j.strand.pair
	pair.ran(took)
	j.line.charge(j.queue, took-j.lease.charged)
	e.check(t, j.strand.flow)
	s := Settlement{
		Job: j, Token: r.Token, Waits: j.waits, Ran: r.Ran,
		Attempt: Attempt{
			Number: j.Attempts + 1, Worker: j.lease.worker, StartedAt: e.wall(j.lease.start), EndedAt: e.wall(t),
			Error: r.Error, ErrorType: r.ErrorType, Counted: r.Kind != Snooze,
		},
	}
	j.state, j.since = settling, t
	if s.Attempt.Counted {
		j.Attempts++ // only ever grows, whatever becomes of the job (H13)
	}
	limit := j.MaxAttempts
	if limit <= 0 {
		limit = pair.src.policy.Retry.MaxAttempts
	}
	if limit <= 0 {
		limit = 10
	}
	switch {
	case r.Kind == Success:
		s.Kind = Succeeded
	case r.Kind == Permanent:
		s.Kind, s.Reason = Dead, ReasonPermanent
	case s.Attempt.Counted && j.Attempts >= limit:
		s.Kind, s.Reason = Dead, ReasonMaxAttempts
	case j.expired(e, t):
		s.Kind, s.Reason = Expired, ReasonExpired
	default:
		s.Kind = Retrying
		delay := r.Delay
		if delay <= 0 && r.Kind == Retry {
			delay = e.backoff(&pair.src.policy.Retry, j.Attempts)
		}
		j.retryAt = t + min(max(0, delay), retryInMemory)
		s.RetryAt = e.wall(j.retryAt)
		j.ReadyAt = s.RetryAt // goes with a copy, should the job be moved meanwhile
	}
	j.final = s.Kind.Terminal()
	return s
}

// backoff is exponential with full jitter.
func (e *Engine) backoff(p *RetryPolicy, attempts int32) time.Duration {
	initial, most, factor := p.Initial, p.Max, p.Multiplier
	if initial <= 0 {
		initial = time.Second
	}
	if most <= 0 {
		most = 10 * time.Minute
	}
	if factor < 1 {
		factor = 2
	}
	top := min(float64(initial)*math.Pow(factor, float64(attempts-1)), float64(most), float64(retryInMemory))
	return time.Duration(e.rng.Float64() * top)
}

// Settled tells that a settlement's event is durable: a terminal job is forgotten but for its id, a retried one waits
// for its time.
func (e *Engine) Settled(now time.Time, id JobID, token Token) {
	t := e.advance(now)
	j := e.jobs[id]
	if j == nil || j.state != settling || j.lease.token != token {
		return
	}
	delete(e.leases, token)
	if !j.final {
		j.offered = t
		e.link(j)
		e.wait(t, j, j.retryAt, WaitRetry)
		return
	}
	e.remember(t, e.shards[j.Shard], j.strand.flow.src, id, j.Digest, t)
	e.forget(t, j)
}

// wait keeps a job in memory until a time; memory it has no room for, its lane has.
func (e *Engine) wait(t moment, j *Job, until moment, cause WaitCause) {
	e.count(j)
	j.state, j.since, j.cause = waiting, t, cause
	f := j.strand.flow
	switch {
	case f.held || f.src.held, cause == WaitRetry && e.bytes > e.cfg.Memory && !j.FromLane:
		e.displace(t, j)
	case until <= t:
		e.enqueue(t, j, false)
	default:
		j.timer.job = j
		e.arm(&j.timer, until)
	}
}

// Return takes a lease back that was not started (free and seen as in Credit) or that a draining worker gives up.
// It costs no attempt; the job goes to the front of its queue. A stale token is ignored.
func (e *Engine) Return(now time.Time, worker string, tok Token, why ReturnReason, free int32, seen int64) {
	t := e.advance(now)
	if j := e.leaseOf(worker, tok); j != nil && j.state == leased {
		e.giveBack(t, j, why == NotStarted)
	}
	if w := e.workers[worker]; w != nil && why == NotStarted {
		e.credit(w, free, seen)
	}
}

// Withdraw takes back a lease that was never sent to its worker, whose credit stays as it is. It costs no attempt, no charge and no rate; the job
// goes to the front of its queue. ticket is as in Lease.
func (e *Engine) Withdraw(now time.Time, worker string, tok Token, ticket bool) {
	t := e.advance(now)
	if j := e.leaseOf(worker, tok); j != nil && j.state == leased {
		e.giveBack(t, j, true)
	}
	if w := e.workers[worker]; w != nil && !ticket && w.sent > w.seen {
		w.sent--
		w.setOpen()
		e.touch(e.poolOf(w.group))
	}
}

// giveBack ends a lease without an attempt; undo takes charge and rate back too, as if it had never been granted.
func (e *Engine) giveBack(t moment, j *Job, undo bool) {
	e.end(t, j)
	f := j.strand.flow
	took := 0.0
	if undo {
		for _, l := range [...]*limiter{&f.limit, &f.ramp, &f.src.limit, &f.src.ramp} {
			l.refund()
		}
	} else {
		took = (t - j.lease.start).Seconds()
	}
	j.line.charge(j.queue, took-j.lease.charged)
	e.check(t, f)
	delete(e.leases, j.lease.token)
	e.enqueue(t, j, true)
}

// Reconcile compares the leases that a worker says it holds at the beginning of a stream (running, or with a result not yet answered Settled) with
// those the engine has given it, in the shards that it is about. Leases it does not name go back to their queues without an attempt, unless they
// were handed over: it may not know yet whom to tell (Answered). The returned tokens are no leases of this engine: try Inherit, else tell the worker
// they are lost.
func (e *Engine) Reconcile(now time.Time, worker string, held []Token, about func(shard int32) bool) (lost []Token) {
	t := e.advance(now)
	named := make(map[Token]bool, len(held))
	for _, tok := range held {
		named[tok] = true
		if e.leaseOf(worker, tok) == nil {
			lost = append(lost, tok)
		}
	}
	for i := len(e.running) - 1; i >= 0; i-- { // from the end: giveBack fills the hole with the last
		if j := e.running[i]; j.lease.worker == worker && !j.lease.handed && !named[j.lease.token] && about(j.Shard) {
			e.giveBack(t, j, !j.started)
		}
	}
	return lost
}

// claim is a lease of a former owner whose job was not read yet. It counts as running of its source, if that is known.
type claim struct {
	id        JobID
	src       *source // nil: a worker named it, which says nothing of the source
	worker    string
	token     Token
	startedAt time.Time
	until     moment
	handed    bool    // as in lease
	vouched   bool    // a former owner named it in its handover; else there is only a worker's word for it
	result    *Result // the worker has reported already
}

// reportKept is how long the report of a claimed lease waits for its job to be read, be it from a lane that quarantined jobs hold up. Without
// it the job would run again.
const reportKept = time.Hour

// maxClaims bounds what workers can make the engine remember; beyond it the job waits out its quarantine.
const maxClaims = 1 << 14

// put remembers a claim, in place of another of the same job.
func (e *Engine) put(t moment, sh *shard, c *claim) {
	if old := sh.claims[c.id]; old != nil {
		e.unclaim(t, sh, old)
	}
	sh.claims[c.id], sh.claimed[c.token] = c, c
	if c.src != nil {
		c.src.limit.claimed++
		e.checkSource(t, c.src)
	}
}

// unclaim forgets a claim.
func (e *Engine) unclaim(t moment, sh *shard, c *claim) {
	delete(sh.claims, c.id)
	delete(sh.claimed, c.token)
	if c.src != nil {
		c.src.limit.claimed--
		e.checkSource(t, c.src)
	}
}

// Held names the leases of a shard whose ends are not durable, for the next owner: those that run, that are being settled, and those of
// former owners whose jobs were not read yet.
func (e *Engine) Held(now time.Time, id int32) (list []Held) {
	t := e.advance(now)
	sh := e.shards[id]
	if sh == nil {
		return nil
	}
	for tok, j := range e.leases {
		if tok.Shard == id {
			left := max(0, j.lease.expires-t)
			if j.state == settling {
				left = e.cfg.TTL // its worker has the result, and time to repeat it, however long the log took no event
			}
			list = append(list, Held{JobID: j.ID, Source: j.Source, Token: tok, Worker: j.lease.worker, ExpiresIn: left})
		}
	}
	for _, c := range sh.claims {
		h := Held{JobID: c.id, Token: c.token, Worker: c.worker, ExpiresIn: max(0, c.until-t)}
		if c.src != nil {
			h.Source = c.src.name
		}
		list = append(list, h)
	}
	return list
}

// Expect tells of a lease that the former owner has handed over: its job is not granted here before it has ended, by a report or by its expiry,
// which is an attempt. It must be told after Attach and before a job of the shard is offered.
func (e *Engine) Expect(now time.Time, h Held) {
	t := e.advance(now)
	sh := e.shards[h.Token.Shard]
	if sh == nil || h.Token.Epoch >= sh.epoch || e.jobs[h.JobID] != nil {
		return
	}
	c := &claim{id: h.JobID, worker: h.Worker, token: h.Token, until: t + min(max(0, h.ExpiresIn), e.cfg.TTL), handed: true, vouched: true}
	if h.Source != "" {
		c.src = e.sourceOf(t, h.Token.Shard, h.Source)
	}
	e.put(t, sh, c)
}

// Answered tells that a worker has named all that it holds of a shard, and takes no lease of an older epoch any more. What was handed over as its and
// is not named never reached it, or went back to the former owner; what was granted before its stream began, and is not named, never arrived.
// Those jobs may be granted, without an attempt.
func (e *Engine) Answered(now time.Time, worker string, id int32, epoch int64, named []Token, since time.Time) {
	t := e.advance(now)
	sh := e.shards[id]
	if sh == nil || sh.epoch != epoch {
		return
	}
	has := make(map[Token]bool, len(named))
	for _, tok := range named {
		has[tok] = true
	}
	began := e.at(since)
	for i := len(e.running) - 1; i >= 0; i-- { // as in Reconcile
		j := e.running[i]
		if j.Shard != id || j.lease.worker != worker || has[j.lease.token] {
			continue
		}
		if j.lease.handed || j.lease.start < began {
			e.giveBack(t, j, !j.lease.handed && !j.started)
		}
	}
	for _, c := range sh.claims {
		if c.handed && c.worker == worker && !has[c.token] {
			e.unclaim(t, sh, c)
		}
	}
}

// Inherit turns a lease of a former owner into one of this engine, with its old token, if the job was not granted
// here since. A job that was not offered yet is remembered for one TTL. startedAt is when the worker began it.
//
// A worker's word counts only for what a former owner may have granted: what is in quarantine, or was handed over as that worker's. With any other
// job it would be a way to take, and to settle, work of every type and of held sources that nobody has granted.
func (e *Engine) Inherit(now time.Time, worker, source string, id JobID, tok Token, startedAt time.Time) bool {
	t := e.advance(now)
	sh := e.shards[tok.Shard]
	if sh == nil || tok.Epoch >= sh.epoch {
		return false
	}
	j := e.jobs[id]
	if j == nil {
		if c := sh.claims[id]; c != nil && c.token == tok && c.worker == worker {
			c.handed, c.startedAt = false, startedAt
			return true
		}
		if e.ended(t, sh, source, id) || len(sh.claims) >= maxClaims {
			return false
		}
		if c := sh.claims[id]; c != nil && (c.vouched || !c.token.Before(tok)) {
			return false // another lease of the job was handed over, or a later one is claimed
		}
		e.put(t, sh, &claim{id: id, worker: worker, token: tok, startedAt: startedAt, until: t + e.cfg.TTL})
		return true
	}
	if j.Shard != tok.Shard {
		return false
	}
	if j.state == leased && j.lease.token == tok && j.lease.worker == worker {
		e.named(t, j, startedAt)
		return true
	}
	if j.Quarantine.IsZero() || !j.Reported.Before(tok) {
		return false
	}
	switch j.state {
	case queued:
		e.dequeue(t, j)
	case waiting:
		e.arm(&j.timer, never)
	default: // a moved one too: its copy may be granted by the time this is read
		return false
	}
	e.inherit(t, j, &claim{worker: worker, token: tok, startedAt: startedAt, until: t + e.cfg.TTL})
	return true
}

// inherit makes a lease of a claim.
func (e *Engine) inherit(t moment, j *Job, c *claim) {
	f, k := j.strand.flow, j.strand.pair.kind
	l := e.lineOf(f.src, ceiling(j), k.pool)
	e.begin(t, j, c.worker, c.token, c.until, l, l.partOf(k.class).queueOf(f))
	j.lease.handed = c.handed
	f.limit.running++
	f.src.limit.running++
	if !c.handed {
		e.named(t, j, c.startedAt)
	}
	e.check(t, f)
}

// named takes what a worker says of an inherited lease: it counts from when it began; the rate was the former owner's business.
func (e *Engine) named(t moment, j *Job, startedAt time.Time) {
	j.lease.handed, j.started = false, true
	if !startedAt.IsZero() {
		j.lease.start = min(t, e.at(startedAt))
		j.lease.deadline = j.lease.start + j.lease.timeout + timeoutGrace
	}
}

// claimed reports whether the token is a former owner's lease whose job was not read yet, and keeps the claim alive.
func (e *Engine) claimed(t moment, worker string, tok Token) bool {
	c := e.claimOf(worker, tok)
	if c != nil {
		c.handed, c.until = false, max(c.until, t+e.cfg.TTL)
	}
	return c != nil
}

// claimOf finds a claim; nil if there is none.
func (e *Engine) claimOf(worker string, tok Token) *claim {
	if sh := e.shards[tok.Shard]; sh != nil {
		if c := sh.claimed[tok]; c != nil && c.worker == worker {
			return c
		}
	}
	return nil
}

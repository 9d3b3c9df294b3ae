package core

import (
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core/dedupe"
)

const (
	// overhead is what a job costs in memory beside its record: the Job, its map entry and queue links.
	overhead = 640
	// pairShare: one (source, type) may fill so much of the budget, 1 ÷ pairShare.
	pairShare = 16
	// floorJobs may be queued of every flow, whatever the others hold; the last eighth of the budget is kept for them.
	floorJobs = 4
	// maxSpillers: with more tenants of a (source, type) spilling, all of it does.
	maxSpillers = 64
	// sdkWindow is how long ids without an age limit of their own are remembered: 2 min, 30 s of clock skew. Older keys are
	// refused at enqueue, so the set is bounded by rate × window; Config.Remembered is the second bound, for all shards together.
	sdkWindow = 150 * time.Second
	// evictEvery is after how many remembered ids the bound is looked at: it is exceeded by so many at most.
	evictEvery = 256
)

// madeBySDK reports whether the id is a UUIDv7: its key was younger than 2 min when it was accepted.
func (id JobID) madeBySDK() bool { return id[6]>>4 == 7 }

// Offer gives the engine a job that intake or a lane reader met. Only after Queue does the engine keep it.
func (e *Engine) Offer(now time.Time, j *Job) Verdict {
	t := e.advance(now)
	sh := e.shards[j.Shard]
	if sh == nil {
		return Verdict{Kind: Foreign}
	}
	if v, ok := e.known(t, j); ok {
		return v
	}
	src := e.sourceOf(t, j.Shard, j.Source)
	st := e.strandOf(t, src, j.Tenant, j.Type)
	p, f := st.pair, st.flow
	if j.FromLane {
		p.lane.BacklogJobs = max(0, p.lane.BacklogJobs-1)
		e.countLane(t, p)
	}
	ids := &src.keys
	if j.ID.madeBySDK() {
		ids = &sh.ids
	}
	if digest, ok := ids.Find(t, j.ID); ok {
		return e.duplicate(p, j, digest, ReasonSettled)
	}
	c, inherits := sh.claims[j.ID]
	if inherits {
		e.unclaim(t, sh, c)
		// Else its end was counted, and its worker does not know; or no former owner can have granted it (Inherit).
		inherits = j.Reported.Before(c.token) && (c.vouched || !j.Quarantine.IsZero())
	}
	if !inherits {
		if v, ok := e.divert(t, j, st); ok {
			return v
		}
	}
	j.entry = entry{strand: st, offered: t, expireIdx: 0}
	j.waits[WaitSpill] = 0
	if j.FromLane && !j.AcceptedAt.IsZero() {
		j.waits[WaitSpill] = max(0, now.Sub(j.AcceptedAt))
	}
	e.jobs[j.ID] = j
	f.jobs++
	src.taken++
	p.priority = j.Priority
	if !j.ExpiresAt.IsZero() {
		e.expiring = append(e.expiring, j)
		j.expireIdx = len(e.expiring)
	}
	if !j.FromLane {
		e.link(j)
	}
	switch at, cause := j.readyAt(e, t); {
	case inherits:
		e.inherit(t, j, c)
		if c.result != nil {
			j.lease.start = max(j.lease.start, t-c.result.Ran) // it does not run any more
			e.settlements = append(e.settlements, e.finish(t, j, *c.result))
		}
	case at > t:
		e.wait(t, j, at, cause)
	default:
		e.enqueue(t, j, false)
	}
	return Verdict{Kind: Queue}
}

// Remember tells of a job that was settled before the shard was attached, as outcomes say: it must not run again.
// Within a source, jobs are told in the order of their settling.
func (e *Engine) Remember(now time.Time, shard int32, source string, id JobID, digest uint32, settledAt time.Time) {
	t := e.advance(now)
	if sh := e.shards[shard]; sh != nil {
		e.remember(t, sh, e.sourceOf(t, shard, source), id, digest, min(t, e.at(settledAt)))
	}
}

// Ended reports whether the job has its outcome, as far as the dedupe window tells: no record of it is needed any more.
func (e *Engine) Ended(now time.Time, shard int32, source string, id JobID) bool {
	t := e.advance(now)
	sh := e.shards[shard]
	return sh != nil && e.jobs[id] == nil && e.ended(t, sh, source, id)
}

func (e *Engine) ended(t moment, sh *shard, source string, id JobID) bool {
	keys := &sh.ids
	if !id.madeBySDK() {
		s := e.sources[source]
		if s == nil {
			return false
		}
		keys = &s.keys
	}
	_, ended := keys.Find(t, id)
	return ended
}

func (e *Engine) remember(t moment, sh *shard, s *source, id JobID, digest uint32, at moment) {
	keys, window, budget := &s.keys, s.policy.DedupeWindow, e.cfg.DedupeBytes
	if window <= 0 {
		window = 10 * time.Minute
	}
	if id.madeBySDK() {
		keys, window, budget = &sh.ids, sdkWindow, e.cfg.Remembered
	}
	if until := at + min(window, time.Hour); until > t {
		e.evicted += keys.Add(t, id, digest, until, budget)
		if e.told++; e.told >= evictEvery {
			e.evict(t)
		}
	}
}

// evict keeps what all shards and sources remember within its budget: whoever remembers most gives way, so a flood shortens its own window first.
func (e *Engine) evict(t moment) {
	e.told = 0
	for {
		total, most := 0, (*dedupe.Window)(nil)
		look := func(w *dedupe.Window) {
			w.Expire(t)
			total += w.Bytes()
			if most == nil || w.Bytes() > most.Bytes() {
				most = w
			}
		}
		for _, sh := range e.shards {
			look(&sh.ids)
		}
		for _, s := range e.sources {
			look(&s.keys)
		}
		if total <= e.cfg.Remembered {
			return
		}
		e.evicted += most.Evict(total - e.cfg.Remembered)
	}
}

// known answers for a job whose id is in the engine.
func (e *Engine) known(t moment, j *Job) (Verdict, bool) {
	k := e.jobs[j.ID]
	if k == nil {
		return Verdict{}, false
	}
	p := k.strand.pair
	if k.Home == j.Home {
		p.copySeen(j)
		return Verdict{Kind: Known}, true
	}
	if !k.moving || j.Home.Topic != TopicSpill {
		return e.duplicate(p, j, k.Digest, ReasonInFlight), true
	}
	// The copy was read before Moved told that it is durable: it is.
	e.arrive(t, k, j.Home)
	return Verdict{Kind: Known}, e.jobs[j.ID] != nil
}

func (e *Engine) duplicate(p *pair, j *Job, digest uint32, why Reason) Verdict {
	p.copySeen(j)
	if digest != 0 && j.Digest != 0 && digest != j.Digest {
		return Verdict{Kind: Supersede, Reason: why}
	}
	return Verdict{Kind: Duplicate, Reason: why}
}

func (p *pair) copySeen(j *Job) {
	if j.FromLane && p.copies > 0 {
		p.copies--
	}
}

// divert decides what may not be queued: an over-quota job never waits inside the shared log, because fairness behind
// a bounded window is not fair (H22).
func (e *Engine) divert(t moment, j *Job, st *strand) (Verdict, bool) {
	p, f := st.pair, st.flow
	if j.expired(e, t) {
		return Verdict{Kind: Expire, Reason: ReasonExpired}, true
	}
	why := Reason("")
	switch s := f.src; {
	case s.held || f.held:
		why = ReasonHeld
		if j.FromLane && !s.held {
			p.respill(t)
		}
	case j.FromLane:
		return Verdict{}, false
	case (p.whole || st.spilling) && !j.Common:
		return Verdict{Kind: Spill, Reason: ReasonSpilling}, true
	case s.limit.delayed(t, s.queued), f.limit.delayed(t, f.queued), s.ramp.delayed(t, s.queued), f.ramp.delayed(t, f.queued):
		why = ReasonOverRate
	case s.limit.crowded(s.queued), f.limit.crowded(f.queued):
		why = ReasonOverBusy
	case !e.fits(j, st):
		why = ReasonMemory
	default:
		return Verdict{}, false
	}
	p.priority = j.Priority
	e.spill(st)
	return Verdict{Kind: Spill, Reason: why}, true
}

// respill counts a held flow's job that goes from its lane to the lane's tail. Its source is not held, so the lane is
// read on; a round of 256 such jobs rests for a second, so that a held tenant costs at most 256 copies a second.
func (p *pair) respill(t moment) {
	if p.respills++; p.respills >= maxRead {
		p.respills, p.readAt = 0, t+time.Second
	}
}

// spill makes a strand spill until its lane is drained: while any of it is there, its new jobs go behind it.
func (e *Engine) spill(st *strand) {
	if st.spilling || st.pair.whole {
		return
	}
	st.spilling = true
	st.pair.spillers++
	if st.pair.spillers > maxSpillers {
		st.pair.whole = true
	}
	e.mark(st.pair)
}

// mark has Spilling say that the pair spills.
func (e *Engine) mark(p *pair) {
	e.marked[p] = struct{}{}
	e.marks = true
}

// fits reports whether memory has room for the job: its flow's share of its pair's share, or the floor of four.
func (e *Engine) fits(j *Job, st *strand) bool {
	size, p := j.Size+overhead, st.pair
	if e.bytes+size > e.cfg.Memory {
		return false
	}
	if st.jobs < floorJobs {
		return true
	}
	return e.bytes+size <= e.cfg.Memory/8*7 && st.bytes+size <= e.cfg.Memory/pairShare/max(1, p.busy)
}

// count takes a job's bytes into the budget; uncount takes them out.
func (e *Engine) count(j *Job) {
	if j.counted {
		return
	}
	j.counted = true
	n, st := j.Size+overhead, j.strand
	e.bytes += n
	st.bytes += n
	st.pair.bytes += n
	if st.jobs++; st.jobs == 1 {
		st.pair.busy++
	}
	if j.FromLane {
		st.pair.unread++
	}
}

func (e *Engine) uncount(j *Job) {
	if !j.counted {
		return
	}
	j.counted = false
	n, st := j.Size+overhead, j.strand
	e.bytes -= n
	st.bytes -= n
	st.pair.bytes -= n
	if st.jobs--; st.jobs == 0 {
		st.pair.busy--
	}
	if j.FromLane {
		st.pair.unread--
	}
}

// expired reports whether the job is past its expiry.
func (j *Job) expired(e *Engine, t moment) bool {
	return !j.ExpiresAt.IsZero() && e.at(j.ExpiresAt) <= t
}

// readyAt is when the job may be granted, and why not before.
func (j *Job) readyAt(e *Engine, t moment) (at moment, cause WaitCause) {
	if !j.ReadyAt.IsZero() {
		at, cause = e.at(j.ReadyAt), WaitDelay
		if j.Attempts > 0 {
			cause = WaitRetry
		}
	}
	if !j.Quarantine.IsZero() {
		if q := e.at(j.Quarantine); q > at {
			at, cause = q, WaitTakeover
		}
	}
	return at, cause
}

// book closes a stretch of waiting in a queue.
func (j *Job) book(e *Engine, t moment) {
	f := j.strand.flow
	cause := WaitFairness
	switch s := f.src; {
	case s.cause != WaitUnspecified && s.offAt > j.since:
		cause = s.cause
	case f.cause != WaitUnspecified && f.offAt > j.since:
		cause = f.cause
	case j.strand.pair.kind.pool.staffed > j.since:
		cause = WaitNoWorker
	}
	j.waits[cause] += t - j.since
}

// sourceOf returns a source, made by the present control state if it is new. A source belongs to one shard.
func (e *Engine) sourceOf(t moment, shard int32, name string) *source {
	s := e.sources[name]
	if s == nil {
		s = &source{name: name, shard: shard, flows: make(map[string]*flow)}
		s.timer.src = s
		e.sources[name] = s
		e.govern(t, s)
	}
	return s
}

func (e *Engine) flowOf(t moment, s *source, tenant string) *flow {
	f := s.flows[tenant]
	if f == nil {
		f = &flow{src: s, tenant: tenant}
		f.timer.flow = f
		s.flows[tenant] = f
		e.governFlow(t, f)
		e.retire(t, f)
	}
	return f
}

func (e *Engine) pairOf(s *source, typ string) *pair {
	for _, p := range s.pairs {
		if p.kind.name == typ {
			return p
		}
	}
	p := &pair{src: s, kind: e.kindOf(typ), priority: Default}
	s.pairs = append(s.pairs, p)
	return p
}

func (e *Engine) strandOf(t moment, s *source, tenant, typ string) *strand {
	f := e.flowOf(t, s, tenant)
	for _, st := range f.strands {
		if st.pair.kind.name == typ {
			return st
		}
	}
	st := &strand{flow: f, pair: e.pairOf(s, typ)}
	f.strands = append(f.strands, st)
	return st
}

package core

import (
	"sort"
	"time"
)

const (
	// oldest is how long an incomplete job may stay where its partition's window starts; crowdedOldest, when that window
	// is half full (architecture.md §6.6).
	oldest        = 30 * time.Second
	crowdedOldest = time.Second
	// A lane's jobs in memory: twice what runs or ran in a tick, within these.
	minRead      = 16
	maxRead      = 256
	maxReadBytes = 256 << 10
	// sweepJobs bounds what one tick looks at of the running jobs, and of those with an expiry.
	sweepJobs = 2048
	// idleTime is how long a flow without jobs is kept.
	idleTime = 10 * time.Second
)

// Tick does what time demands; call it every 10 ms, whether or not grants are fenced.
func (e *Engine) Tick(now time.Time) Chores {
	t := e.advance(now)
	e.expireLeases(t)
	e.sweepRunning(t)
	e.sweepExpiring(t)
	for j := e.eldest; j != nil && t-j.offered > oldest; j = e.eldest {
		e.unpin(t, j)
	}
	if t >= e.untilNext {
		e.switchOver(t)
	}
	e.sweepIdle(t)
	for _, sh := range e.shards {
		sh.ids.Expire(t)
		for _, c := range sh.claims {
			if t > c.until {
				e.unclaim(t, sh, c)
			}
		}
	}
	for _, h := range e.heard {
		if t-h.at > farTime {
			e.addUp(t)
			break
		}
	}
	due := false
	for _, p := range e.pools {
		if len(p.groups) == 0 && len(p.lines) == 0 {
			continue
		}
		p.measure(t)
		due = p.summaryDue(t) || due
		e.touch(p)
	}
	c := Chores{
		Settlements: e.settlements, Moves: e.moves, From: e.from, Revokes: e.revokes, Reads: e.reads(t),
		SummaryDue: due, MarksDue: e.marks,
	}
	e.settlements, e.settled = e.settled[:0], e.settlements
	e.moves, e.movesOut = e.movesOut[:0], e.moves
	e.from, e.fromOut = e.fromOut[:0], e.from
	e.revokes, e.revoked = e.revoked[:0], e.revokes
	e.marks = false
	return c
}

// expireLeases ends what was not renewed. Each expired lease is an attempt: a job that kills its worker must end (H15).
func (e *Engine) expireLeases(t moment) {
	for j := e.firstLease; j != nil && j.lease.expires <= t; j = e.firstLease {
		e.abort(t, j, RevokeExpired, "the lease was not renewed", ReasonLeaseExpired)
	}
}

func (e *Engine) abort(t moment, j *Job, why RevokeReason, text string, reason Reason) {
	e.revokes = append(e.revokes, Revoke{Worker: j.lease.worker, Token: j.lease.token, Reason: why})
	s := e.finish(t, j, Result{
		Token: j.lease.token, JobID: j.ID, Kind: Retry, Error: text, ErrorType: string(reason), Ran: t - j.lease.start,
	})
	if s.Reason == "" {
		s.Reason = reason
	}
	j.aborted = true
	e.settlements = append(e.settlements, s)
}

// sweepRunning charges running jobs beyond their estimate, ages what is expected back of them, and ends those past
// their run timeout.
func (e *Engine) sweepRunning(t moment) {
	for n := min(len(e.running), sweepJobs); n > 0 && len(e.running) > 0; n-- {
		if e.sweepRun >= len(e.running) {
			e.sweepRun = 0
		}
		j := e.running[e.sweepRun]
		if t >= j.lease.deadline {
			e.abort(t, j, RevokeTimeout, "the run timeout passed", ReasonRunTimeout)
			continue
		}
		age := (t - j.lease.start).Seconds()
		if age > j.lease.charged {
			j.line.charge(j.queue, age-j.lease.charged)
			j.lease.charged = age
		}
		if back := j.strand.pair.expectBack(age); back != j.lease.back {
			j.line.addBack(back - j.lease.back)
			j.lease.back = back
		}
		e.sweepRun++
	}
}

// sweepExpiring ends queued and waiting jobs past their expiry: dead work is dropped before it is done.
func (e *Engine) sweepExpiring(t moment) {
	for n := min(len(e.expiring), sweepJobs); n > 0 && len(e.expiring) > 0; n-- {
		if e.sweepExp >= len(e.expiring) {
			e.sweepExp = 0
		}
		j := e.expiring[e.sweepExp]
		if (j.state == queued || j.state == waiting) && !j.moving && j.expired(e, t) {
			if j.state == queued {
				e.dequeue(t, j)
			}
			e.expire(t, j)
			continue
		}
		e.sweepExp++
	}
}

// expire settles a job that is in no queue any more.
func (e *Engine) expire(t moment, j *Job) {
	e.arm(&j.timer, never)
	e.unlist(j)
	e.uncount(j)
	j.state, j.final, j.lease = settling, true, lease{}
	e.settlements = append(e.settlements, Settlement{
		Kind: Expired, Job: j, Waits: j.waits, Reason: ReasonExpired,
		Attempt: Attempt{Number: j.Attempts, EndedAt: e.wall(t)},
	})
}

// sweepIdle forgets flows without jobs.
func (e *Engine) sweepIdle(t moment) {
	for n := 0; n < sweepJobs && e.idleAt < len(e.idle) && t-e.idle[e.idleAt].idleAt > idleTime; n++ {
		f := e.idle[e.idleAt]
		e.idle[e.idleAt] = nil
		e.idleAt++
		f.idle = false
		spills := false
		for _, st := range f.strands {
			spills = spills || st.spilling
		}
		switch {
		case f.jobs > 0: // retired again with its last job
		case spills || f.limit.tat > t, f.ramp.limited && f.ramp.tat > t:
			e.retire(t, f)
		case f.src.flows[f.tenant] == f:
			e.arm(&f.timer, never)
			delete(f.src.flows, f.tenant)
		}
	}
	if e.idleAt > 1024 && e.idleAt*2 > len(e.idle) {
		e.idle = e.idle[:copy(e.idle, e.idle[e.idleAt:])]
		e.idleAt = 0
	}
}

// retire lists a flow to be forgotten when it has no jobs in 10 s.
func (e *Engine) retire(t moment, f *flow) {
	if !f.idle {
		f.idle, f.idleAt = true, t
		e.idle = append(e.idle, f)
	}
}

// displace hands out a job in no queue to be moved to its lane.
func (e *Engine) displace(t moment, j *Job) {
	e.arm(&j.timer, never)
	j.state = moved
	if j.moving { // a copy is on its way already, and older than the job's attempts: once more when it has arrived
		j.again = true
		return
	}
	e.spill(j.strand)
	e.unlink(j)
	e.handOut(j)
}

// handOut has a job moved from where it is now.
func (e *Engine) handOut(j *Job) {
	j.moving = true
	e.moves, e.from = append(e.moves, j), append(e.from, j.Home)
}

// unpin has a job moved that holds up its partition's window; a running one keeps its lease.
func (e *Engine) unpin(t moment, j *Job) {
	e.unlink(j)
	if j.moving {
		return
	}
	switch j.state {
	case queued:
		e.dequeue(t, j)
		e.displace(t, j)
	case waiting:
		if j.Quarantine.IsZero() || e.at(j.Quarantine) <= t { // a copy would lose its quarantine
			e.displace(t, j)
		}
	case leased:
		e.handOut(j)
	}
}

// Pinned names jobs whose offsets hold up a partition whose window is half full, oldest first: those older than 1 s
// will be in Chores.Moves.
func (e *Engine) Pinned(now time.Time, ids []JobID) {
	t := e.advance(now)
	for _, id := range ids {
		if j := e.jobs[id]; j != nil && t-j.offered > crowdedOldest {
			e.unpin(t, j)
		}
	}
}

// Crowded names jobs whose offsets keep a partition's commit from saying what is complete above them, oldest first: they will be in Chores.Moves,
// however young they are.
func (e *Engine) Crowded(now time.Time, ids []JobID) {
	t := e.advance(now)
	for _, id := range ids {
		if j := e.jobs[id]; j != nil {
			e.unpin(t, j)
		}
	}
}

// Moved tells that a job's copy is durable at home: a queued job is forgotten (its lane brings it back), a running
// one lives there from now on.
func (e *Engine) Moved(now time.Time, id JobID, home Home) {
	t := e.advance(now)
	if j := e.jobs[id]; j != nil && j.moving {
		e.arrive(t, j, home)
		if j.state != gone {
			j.strand.pair.copies++
		}
	}
}

// Moving reports whether the copy of a job of Chores.Moves is still wanted. It is not when the job has ended, or when a copy was met in its lane
// meanwhile, be it one of a former owner: then the home that it left is complete.
func (e *Engine) Moving(j *Job) bool { return e.jobs[j.ID] == j && j.moving }

// arrive makes the copy of a moving job its home.
func (e *Engine) arrive(t moment, j *Job, home Home) {
	j.moving, j.Home = false, home
	switch {
	case j.again:
		j.again = false
		e.displace(t, j)
	case j.state == moved:
		e.forget(t, j)
	case !j.FromLane && j.counted:
		e.uncount(j)
		j.FromLane = true
		e.count(j)
	default:
		j.FromLane = true
	}
}

// Lane tells what a lane holds.
func (e *Engine) Lane(now time.Time, s LaneState) {
	t := e.advance(now)
	if e.shards[s.Shard] == nil {
		return
	}
	p := e.pairOf(e.sourceOf(t, s.Shard, s.Source), s.Type)
	p.lane = s
	if s.BacklogJobs > int64(p.copies) && !p.whole && p.spillers == 0 {
		p.whole = true // found at takeover: it may hold any tenant's jobs
		e.mark(p)
	}
	if s.BacklogJobs > 0 && !p.listed {
		p.listed = true
		e.lanes = append(e.lanes, p)
	}
	e.countLane(t, p)
}

// LaneDrained tells that all of a (source, type)'s lane was offered and no spilled job is on its way there: new jobs
// are queued again.
func (e *Engine) LaneDrained(now time.Time, source, typ string) {
	t := e.advance(now)
	s := e.sources[source]
	if s == nil {
		return
	}
	for _, p := range s.pairs {
		if p.kind.name != typ {
			continue
		}
		if _, ok := e.marked[p]; ok {
			delete(e.marked, p)
			e.marks = true
		}
		p.whole, p.spillers, p.copies, p.lane = false, 0, 0, LaneState{}
		for _, f := range s.flows {
			for _, st := range f.strands {
				if st.pair == p {
					st.spilling = false
				}
			}
		}
		e.countLane(t, p)
	}
}

// countLane counts a lane's backlog as queued in the line that its latest job belongs to.
func (e *Engine) countLane(t moment, p *pair) {
	if l := p.laneLine; l != nil {
		l.lane -= p.laneJobs
		e.worked(t, l)
	}
	p.laneLine, p.laneJobs = nil, 0
	if p.lane.BacklogJobs > 0 && !p.src.held {
		p.laneLine = e.lineOf(p.src, min(p.priority, p.src.ceiling), p.kind.pool)
		p.laneJobs = p.lane.BacklogJobs
		p.laneLine.lane += p.laneJobs
		e.worked(t, p.laneLine)
	}
}

// reads lists the lanes that may be read, each as far as its source may run it soon.
func (e *Engine) reads(t moment) []LaneRead {
	e.toRead = e.toRead[:0]
	for i := 0; i < len(e.lanes); i++ {
		p := e.lanes[i]
		if p.lane.BacklogJobs <= 0 {
			p.listed = false
			last := len(e.lanes) - 1
			e.lanes[i], e.lanes[last] = e.lanes[last], nil
			e.lanes = e.lanes[:last]
			i--
			continue
		}
		if p.src.held || t < p.readAt || e.shards[p.src.shard] == nil {
			continue
		}
		// Twice what runs, and twice what ended since the last tick: jobs that take no time are never seen running.
		want := min(max(minRead, 2*p.running, 2*p.drawn), maxRead)
		p.drawn = 0
		if e.bytes > e.cfg.Memory { // over budget: one at a time, so that every flow moves on
			want = 1
		}
		if p.unread*4 > want*3 { // a quarter at a time: fewer would be a fetch for each job
			continue
		}
		e.toRead = append(e.toRead, LaneRead{
			Shard: p.src.shard, Source: p.src.name, Type: p.kind.name, N: int32(want - p.unread), Bytes: maxReadBytes,
		})
	}
	return e.toRead
}

// Spilling lists every mark, by source, type and tenant.
func (e *Engine) Spilling() []Mark {
	var marks []Mark
	for p := range e.marked {
		s := p.src
		m := Mark{
			Shard: s.shard, Source: s.name, Type: p.kind.name, BacklogJobs: p.lane.BacklogJobs,
			BacklogBytes: p.lane.BacklogBytes, Oldest: p.lane.Oldest,
		}
		if p.whole {
			m.Tenant, m.Held = "*", s.held
			marks = append(marks, m)
			continue
		}
		for _, f := range s.flows {
			for _, st := range f.strands {
				if st.pair == p && st.spilling {
					m.Tenant, m.Held = f.tenant, s.held || f.held
					marks = append(marks, m)
				}
			}
		}
	}
	sort.Slice(marks, func(i, j int) bool {
		a, b := &marks[i], &marks[j]
		if a.Source != b.Source {
			return a.Source < b.Source
		}
		if a.Type != b.Type {
			return a.Type < b.Type
		}
		return a.Tenant < b.Tenant
	})
	return marks
}

package worker

import (
	"context"
	"time"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
)

// leaseShare is the part of a lease's time to live that its handler's context gets: 16 of 20 s. The rest covers the
// time that the handler needs to notice, and clocks that run at different speeds.
const leaseShare = 0.8

// lease is the right to run one job, from its arrival until the handler has returned. Its owner is Worker.mu, but for
// job, ctx and what they point to, which never change.
type lease struct {
	token  Token
	wire   *jobv1.Token // as it arrived, to send it back
	from   *link        // granted it
	job    *Job
	waits  []*jobv1.Wait
	parent creation
	bad    error // why the job cannot be run at all

	ctx    *leaseContext
	cancel context.CancelCauseFunc

	ttl       time.Duration
	arrived   time.Time
	end       time.Time // the context ends here unless the lease is renewed; never after ctx.runEnd
	renewSent time.Time // of the renewal that was not answered yet; zero: none
	started   bool      // the handler was called
	told      bool      // Started was written
	revoked   bool      // given back before it started: do not call the handler

	wheelNext, wheelPrev *lease
	slot                 int64
	inWheel              bool
}

// extend sets the context's end after the lease was granted or renewed at a time.
func (l *lease) extend(at time.Time) {
	l.end = at.Add(time.Duration(float64(l.ttl) * leaseShare))
	if l.end.After(l.ctx.runEnd) {
		l.end = l.ctx.runEnd
	}
}

// report is a result that no scheduler has settled yet.
type report struct {
	token  Token
	from   *link // granted the lease
	result *schedulerv1.Result
	source string
	start  time.Time
	sent   time.Time // zero: never
	queued bool      // is in a link's results
}

// accept makes a lease that has a slot known. Its handler is not called yet.
func (w *Worker) accept(now time.Time, l *lease, timeout time.Duration) {
	ctx, cancel := context.WithCancelCause(context.Background())
	l.ctx, l.cancel = &leaseContext{Context: ctx, job: l.job, runEnd: now.Add(timeout)}, cancel
	l.arrived = now
	l.extend(now)
	w.leases[l.token] = l
	w.wheel.add(l, l.end)
	w.need(l.end)
}

// overdue looks at a lease whose slot of the wheel has come.
func (w *Worker) overdue(now time.Time, l *lease) {
	switch {
	case now.Before(l.end):
		w.wheel.add(l, l.end)
	case !now.Before(l.ctx.runEnd):
		l.cancel(ErrRunTimeout)
	default:
		l.cancel(ErrLeaseLost)
	}
}

// run is the life of one accepted lease: a goroutine of its own.
func (w *Worker) run(l *lease) {
	defer w.jobs.Done()
	defer l.cancel(nil)
	w.mu.Lock()
	if l.revoked {
		w.mu.Unlock()
		return
	}
	l.started = true
	if !l.from.closed {
		l.from.started = append(l.from.started, l)
	}
	w.flush(time.Now())
	w.mu.Unlock()

	begin := time.Now()
	ctx, finish := w.trace(l)
	err, returned := l.bad, false
	defer func() {
		if !returned {
			err = broken(recover())
			w.log.ErrorContext(ctx, "handler panicked", "job_id", l.job.ID, "source", l.job.Source, "type", l.job.Type, "attempt", l.job.Attempt)
		}
		finish(err)
		result := outcome(err, context.Cause(ctx))
		result.Token, result.JobId, result.Ran = l.wire, l.job.ID, newDuration(time.Since(begin))
		w.report(&report{token: l.token, from: l.from, result: result, source: l.job.Source, start: begin}, l)
	}()
	if err == nil {
		err = w.handlerOf(l.job.Type)(ctx, l.job)
	}
	returned = true
}

// report hands a result to the owner of its shard and frees the slot.
func (w *Worker) report(r *report, l *lease) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.wheel.remove(l)
	delete(w.leases, l.token)
	w.unsettled[r.token] = r
	w.queue(r)
	if len(w.unsettled) > w.maxUnsettled() {
		w.owed++ // the slot comes free when results are settled
	} else {
		w.slots.Freed(now, 1)
	}
	w.flush(now)
	w.quiet()
}

func (w *Worker) maxUnsettled() int { return max(minUnsettled, w.cfg.Concurrency) }

// queue puts a result on the stream of the shard's owner, if it has one. Without one the result waits for the next
// Ownership.
func (w *Worker) queue(r *report) {
	if l := w.route(r.token.Shard, r.from); l != nil && !r.queued {
		r.queued = true
		l.results = append(l.results, r)
	}
}

// settled forgets a result that is durable or was refused.
func (w *Worker) settled(now time.Time, t Token) {
	if _, ok := w.unsettled[t]; !ok {
		return
	}
	delete(w.unsettled, t)
	if w.owed > 0 && len(w.unsettled) <= w.maxUnsettled() {
		w.owed--
		w.slots.Freed(now, 1)
	}
}

// route is the stream to the owner of a shard; nil: the shard has no owner that we are connected to. Until an
// Ownership names the shard, its jobs belong to whoever granted them.
func (w *Worker) route(shard int32, from *link) *link {
	l := from
	if o, ok := w.owners[shard]; ok {
		l = o.link
	}
	if l == nil || l.closed {
		return nil
	}
	return l
}

// revoke takes leases back.
func (w *Worker) revoke(now time.Time, l *link, r *schedulerv1.Revoke) {
	for _, wire := range r.GetTokens() {
		t := tokenOf(wire)
		held := w.leases[t]
		if o := w.owners[t.Shard]; o.link != nil && o.link != l && !o.link.closed {
			continue // of a replica that does not know yet that it lost the shard: the lease has been renewed by another one
		}
		switch {
		case held == nil && w.unsettled[t] != nil:
			// Its result answers.
		case held == nil:
			l.returned = append(l.returned, wire)
		case !r.GetOnlyIfNotStarted():
			held.cancel(revokeCause(r.GetReason()))
		case held.started:
			held.told = false
			l.started, l.urgent = append(l.started, held), true
		default:
			held.revoked = true
			w.wheel.remove(held)
			delete(w.leases, t)
			l.returned = append(l.returned, wire)
			w.slots.Freed(now, 1)
		}
	}
}

func revokeCause(r schedulerv1.RevokeReason) error {
	switch r {
	case schedulerv1.RevokeReason_REVOKE_REASON_TIMEOUT:
		return ErrRunTimeout
	case schedulerv1.RevokeReason_REVOKE_REASON_EXPIRED:
		return ErrLeaseLost
	}
	return ErrRevoked
}

package core

import "time"

// New returns an engine without shards, workers or jobs. It reads no clock: every method takes now, which never goes back.
func New(cfg Config) *Engine { return &Engine{cfg: cfg} }

// Attach makes the engine the owner of a shard under an epoch: its jobs may be offered. Attaching it again under
// a higher epoch keeps queued jobs and running leases (resumed without a foreign fence); new tokens have the new epoch.
func (e *Engine) Attach(now time.Time, shard int32, epoch int64) {}

// Detach forgets a shard: its jobs, leases, settled ids, lanes. Reports about them are refused from then on.
func (e *Engine) Detach(shard int32) {}

// Offer gives the engine a job that intake or a lane reader met. Only after Queue does the engine keep it.
func (e *Engine) Offer(now time.Time, j *Job) Verdict { return Verdict{} }

// Next returns the next decision; call it until Idle. It must not be called while grants are fenced.
func (e *Engine) Next(now time.Time) Action { return Action{} }

// Join makes a worker known, or changes its types and concurrency; it has no open slot until Credit. Leases that
// it holds from before stay valid.
func (e *Engine) Join(now time.Time, w Worker) {}

// Reconcile compares the leases that a worker says it holds (running, or with a result not yet answered Settled)
// with those the engine has given it. Leases it does not name go back to their queues without an attempt; the
// returned tokens are no leases of this engine: try Inherit, else tell the worker they are lost.
func (e *Engine) Reconcile(now time.Time, worker string, held []Token) (lost []Token) { return nil }

// Leave drops a worker's bids, tickets and slots when its stream ends. Its leases run on until they expire.
func (e *Engine) Leave(now time.Time, worker string) {}

// Drain stops granting to a worker that says it is draining, and takes its slots out of the pool.
func (e *Engine) Drain(now time.Time, worker string) {}

// Credit tells how many slots of the worker are free, and how many open grants it had seen on this stream by then.
func (e *Engine) Credit(now time.Time, worker string, free int32, seen int64) {}

// Ticket gives this replica n slots of the worker for 20 ms.
func (e *Engine) Ticket(now time.Time, worker string, n int32) {}

// Latest tells the tag of the latest grant of a priority at a worker (the v of its frames).
func (e *Engine) Latest(now time.Time, worker string, p Priority, tag float64) {}

// Return takes a lease back that was not started (free and seen as in Credit) or that a draining worker gives up.
// It costs no attempt; the job goes to the front of its queue. A stale token is ignored.
func (e *Engine) Return(now time.Time, worker string, t Token, why ReturnReason, free int32, seen int64) {
}

// Started tells that handlers of these leases began.
func (e *Engine) Started(now time.Time, worker string, tokens []Token) {}

// Renew gives each lease a new TTL, unless it is not the worker's, has been settled, or is past its run timeout:
// then it is lost. The returned slices are valid until the next Renew.
func (e *Engine) Renew(now time.Time, worker string, tokens []Token) (renewed, lost []Token) {
	return nil, nil
}

// Inherit turns a lease of a former owner into one of this engine, with its old token, if the job was not granted
// here since. A job that was not offered yet is remembered for one TTL. startedAt is when the worker began it.
func (e *Engine) Inherit(now time.Time, worker string, id JobID, t Token, startedAt time.Time) bool {
	return false
}

// Done takes a worker's report: it frees the slot and the quota, and says what to make durable.
func (e *Engine) Done(now time.Time, worker string, r Result) Settlement { return Settlement{} }

// Settled tells that a settlement's event is durable: a terminal job is forgotten but for its id, a retried one waits
// for its time.
func (e *Engine) Settled(now time.Time, id JobID, t Token) {}

// Tick does what time demands; call it every 10 ms, whether or not grants are fenced.
func (e *Engine) Tick(now time.Time) Chores { return Chores{} }

// Moved tells that a job's copy is durable at home: a queued job is forgotten (its lane brings it back), a running
// one lives there from now on.
func (e *Engine) Moved(now time.Time, id JobID, home Home) {}

// Pinned names jobs whose offsets hold up a partition whose window is half full, oldest first: those older than 1 s
// will be in Chores.Moves.
func (e *Engine) Pinned(now time.Time, ids []JobID) {}

// Lane tells what a lane holds.
func (e *Engine) Lane(now time.Time, s LaneState) {}

// LaneDrained tells that all of a (source, type)'s lane was offered and no spilled job is on its way there: new jobs
// are queued again.
func (e *Engine) LaneDrained(now time.Time, source, typ string) {}

// Apply takes a new control state: first it checks it whole, then it acts at once on what is queued. An error leaves
// the engine as it was.
func (e *Engine) Apply(now time.Time, c Control) (Changes, error) { return Changes{}, nil }

// Undecided lists the leases of a scope that were granted and neither reported Started nor returned: a hold is
// acknowledged when there are none.
func (e *Engine) Undecided(s Scope) []Token { return nil }

// Running counts the scope's leases that are started or undecided.
func (e *Engine) Running(s Scope) int { return 0 }

// Summary is what the other replicas must know, one a pool that has work or workers.
func (e *Engine) Summary(now time.Time) []Summary { return nil }

// Heard takes another replica's summaries; they count for 1 s.
func (e *Engine) Heard(now time.Time, replica string, s []Summary) {}

// Spilling lists every mark, in a stable order.
func (e *Engine) Spilling() []Mark { return nil }

// Dump describes the engine for people; its text is not an interface.
func (e *Engine) Dump(now time.Time) string { return "" }

// Config sizes an engine. The zero value of a field means its default.
type Config struct {
	Seed        uint64        // of the backoff's jitter and the choice of workers
	Memory      int           // bytes of queued jobs in all; 0 = 64 MiB
	DedupeBytes int           // of remembered ids that callers chose, per source; 0 = 4 MiB
	TTL         time.Duration // of a lease; 0 = 20 s
	Reserve     float64       // the part of others' need that is never lent; 0 = 0.7
	Default     Policy        // of sources that Control does not name
}

// Engine decides what runs next. One goroutine owns it.
type Engine struct {
	cfg Config
}

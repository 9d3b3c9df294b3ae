package core

import (
	"time"
)

// JobID is the 16 bytes of a job's UUID. Its version nibble says how long a settled id is remembered: 7 = made by
// the SDK or without a key, 8 = made from a key that the caller chose.
type JobID [16]byte

// Token fences one lease: a report that names another token is refused. Tokens of one shard are compared by epoch,
// then counter, and only ever rise.
type Token struct {
	Shard   int32
	Epoch   int64 // offset of the owner's fence in the shard's outcomes
	Counter int64 // starts at 1 in every epoch
}

// Before reports whether t was issued earlier than u, both of one shard.
func (t Token) Before(u Token) bool {
	return t.Epoch < u.Epoch || t.Epoch == u.Epoch && t.Counter < u.Counter
}

// Priority orders classes of work; higher is more urgent. The zero value is the least urgent.
type Priority uint8

// The five priorities, least urgent first.
const (
	Bulk Priority = iota
	Low
	Default
	High
	Critical

	// Priorities is their number, for arrays indexed by Priority.
	Priorities = 5
)

var priorityNames = [Priorities]string{"bulk", "low", "default", "high", "critical"}

// String is the word that topics and the CLI use.
func (p Priority) String() string {
	if p < Priorities {
		return priorityNames[p]
	}
	return "unknown"
}

// Topic names the kind of topic a job's home is in.
type Topic uint8

// The priority topics have the number of their Priority (Topic(Critical) is jobs.critical); lanes are TopicSpill.
const (
	TopicSpill Topic = Priorities
)

// Home is where an unsettled job is durable: exactly one record.
type Home struct {
	Topic     Topic
	Partition int32
	Offset    int64
}

// Job is one unit of work as the engine sees it. The shell fills the exported fields and gives the job away with
// Offer; from a Queue verdict until Settled or Moved names it, only the engine writes to it.
type Job struct {
	ID          JobID
	Shard       int32
	Source      string
	Tenant      string // "" = none
	Type        string
	Priority    Priority // as the record says, already resolved from the source's default
	Home        Home
	Size        int           // bytes the record keeps in memory
	Digest      uint32        // of the payload, to tell a duplicate from a conflict; 0 = unknown
	AcceptedAt  time.Time     // zero = unknown
	ExpiresAt   time.Time     // zero = never
	ReadyAt     time.Time     // not granted before; zero = at once
	Quarantine  time.Time     // not granted before, unless inherited: the former owner may have granted it; zero = none
	Attempts    int32         // counted attempts so far; only ever grows
	Reported    Token         // of the latest attempt whose end former owners have recorded: it is not inherited; zero = none
	MaxAttempts int32         // 0 = the source's policy
	RunTimeout  time.Duration // 0 = the source's policy
	FromLane    bool          // read from a lane: never spilled for its size or rate
	Common      bool          // read from the common lane: it has waited for its flow's turn, so that its flow spills does not send it back
	Record      any           // the shell's own; the engine never looks at it

	entry
}

// Record is what the rooms keep of a job's record while the job is in the engine: Job.Record always holds a *Record. The engine never
// looks at it; intake makes it, api copies Value into the lease, settle copies it into lanes and dead letters.
//
// Invariant: Value is byte-identical to what enqueue wrote, on every hop (I3).
type Record struct {
	Value         []byte // the Job message as it is in the log
	Traceparent   string // creation context, W3C; "" = none
	Tracestate    string
	PayloadSHA256 []byte // points into Value; nil = none
	Moves         int32  // copies made so far
	Origin        Home   // where the first record of the job was
	Moved         bool   // Origin is set: this record is a copy
}

// Past is what former owners have recorded of a job.
type Past struct {
	Settled    bool // it has its outcome
	Attempts   int32
	Reported   Token     // as in Job
	RetryAt    time.Time // zero: at once
	Quarantine time.Time // as in Job
}

// WaitCause says why a job waited. The values are those of job.v1 WaitCause.
type WaitCause uint8

// The causes of waiting.
const (
	WaitUnspecified WaitCause = iota
	WaitQuotaRate
	WaitQuotaConcurrency
	WaitHold
	WaitFairness
	WaitNoWorker
	WaitRetry
	WaitDelay
	WaitSpill
	WaitTakeover
	WaitStaleControl

	// WaitCauses is the length of Waits.
	WaitCauses
)

// Waits is how long a job has waited, by cause, since it was accepted. A stretch of waiting is booked whole under
// the cause that ended it last.
type Waits [WaitCauses]time.Duration

// Verdict is the answer to Offer.
type Verdict struct {
	Kind   VerdictKind
	Reason Reason
}

// VerdictKind says what becomes of an offered job.
type VerdictKind uint8

// What becomes of an offered job.
const (
	// Queue: the engine has it.
	Queue VerdictKind = iota + 1
	// Spill: append it to its (source, type)'s lane, then complete its offset.
	Spill
	// Expire: settle it as expired; the engine does not have it.
	Expire
	// Duplicate: the id is in the engine under another home, or settled within the dedupe window: complete the
	// offset and write nothing.
	Duplicate
	// Supersede: as Duplicate, but the payload differs: settle it as superseded.
	Supersede
	// Known: this very record is in the engine already: do nothing, its offset completes with the job.
	Known
	// Foreign: its shard is not attached: do nothing.
	Foreign
)

// Reason explains a verdict, a settlement or a revocation; "" = nothing to explain.
type Reason string

// The reasons.
const (
	ReasonMemory       Reason = "memory"        // its flow or (source, type) has its share of memory
	ReasonOverRate     Reason = "over_rate"     // could not start within 2 s under its rate
	ReasonOverBusy     Reason = "over_busy"     // more than 4 × the concurrency limit are queued
	ReasonSpilling     Reason = "spilling"      // its flow is in the lane already
	ReasonHeld         Reason = "held"          // a switch holds or blocks it
	ReasonSettled      Reason = "settled"       // the id was settled within the dedupe window
	ReasonInFlight     Reason = "in_flight"     // the id is queued or running under another home
	ReasonExpired      Reason = "expired"       // past ExpiresAt
	ReasonStaleLease   Reason = "STALE_LEASE"   // the token is not the lease's, or the lease is gone
	ReasonRunTimeout   Reason = "RUN_TIMEOUT"   // ran past its run timeout
	ReasonLeaseExpired Reason = "LEASE_EXPIRED" // not renewed within its TTL
	ReasonMaxAttempts  Reason = "max_attempts"  // no attempt is left
	ReasonPermanent    Reason = "permanent"     // the handler said not to retry
)

// Worker is what a worker says of itself in Hello.
type Worker struct {
	ID          string
	Types       []string // what it can run; at least one
	Concurrency int32    // its slots
}

// ActionKind says what Next wants done.
type ActionKind uint8

// What Next wants done.
const (
	// Idle: nothing until Until, or until something is told to the engine.
	Idle ActionKind = iota
	// Grant: send the lease to the worker, and its new bid (Action.Bid) with it.
	Grant
	// Demand: tell the worker this bid; N = 0 withdraws the standing one.
	Demand
	// Pass: give N tickets of the worker back.
	Pass
)

// Action is one decision of Next. Actions for one worker must reach it in the order in which they were returned.
type Action struct {
	Kind   ActionKind
	Worker string
	Lease  Lease     // of Grant
	Bid    Bid       // of Grant and Demand: replaces the standing bid of this replica at this worker
	N      int32     // of Pass
	Until  time.Time // of Idle; zero = only when told something
}

// Lease is what a worker is granted.
type Lease struct {
	Job        *Job
	Token      Token
	Attempt    int32 // number of this attempt, from 1
	TTL        time.Duration
	RunTimeout time.Duration
	Waits      Waits
	Priority   Priority // effective: what Tag belongs to
	Tag        float64  // virtual tag at the grant, in worker-seconds
	Ticket     bool     // spends a ticket; else an open grant
}

// Bid is what this replica would do with a slot of a worker: N jobs of Rank, Priority and Tag. Bids are ordered by
// rank, then the more urgent priority, then the lower tag. N = 0: none.
type Bid struct {
	N        int32
	Rank     uint8
	Priority Priority
	Tag      float64
}

// Better reports whether b goes before c.
func (b Bid) Better(c Bid) bool {
	switch {
	case b.Rank != c.Rank:
		return b.Rank < c.Rank
	case b.Priority != c.Priority:
		return b.Priority > c.Priority
	}
	return b.Tag < c.Tag
}

// ReturnReason says why a worker hands a lease back.
type ReturnReason uint8

// Why a worker hands a lease back; neither costs an attempt.
const (
	NotStarted ReturnReason = iota + 1 // an open grant and no slot left, or revoked before it started
	Draining                           // the worker stops
)

// ResultKind is how an attempt ended, in the worker's words.
type ResultKind uint8

// How an attempt ended.
const (
	Success   ResultKind = iota + 1
	Retry                // failed, may be tried again
	Permanent            // failed, must not be tried again
	Snooze               // not an attempt; again after Delay
)

// Result is a worker's report.
type Result struct {
	Token     Token
	JobID     JobID
	Kind      ResultKind
	Delay     time.Duration // of Retry (0 = the policy's backoff) and Snooze
	Error     string
	ErrorType string
	Ran       time.Duration // by the worker's clock
}

// SettlementKind says what a report or the passing of time made of a job.
type SettlementKind uint8

// What became of a job.
const (
	// Refused: the token is stale; nothing changed.
	Refused SettlementKind = iota
	// Repeated: the same report again while its event is being written, or one of a former owner's lease whose job was not read yet, when it
	// will be settled. Nothing to do.
	Repeated
	// Succeeded, Dead, Expired are terminal: write Settled, then call Engine.Settled.
	Succeeded
	Dead
	Expired
	// Retrying: write AttemptFailed (nothing if Attempt.Counted is false), then call Engine.Settled; granted again from RetryAt.
	Retrying
)

// Terminal reports whether the job is finished.
func (k SettlementKind) Terminal() bool { return k == Succeeded || k == Dead || k == Expired }

// Attempt is one run of a job, for its history.
type Attempt struct {
	Number    int32
	Worker    string
	StartedAt time.Time // when it was granted
	EndedAt   time.Time
	Error     string
	ErrorType string
	Counted   bool
}

// Settlement asks the shell to make an outcome or a failed attempt durable, and then to call Settled with its
// token and job id. Until then the job is neither granted again nor forgotten.
type Settlement struct {
	Kind    SettlementKind
	Job     *Job
	Token   Token // zero if the job was not leased (expired in the queue)
	Attempt Attempt
	RetryAt time.Time // of Retrying
	Waits   Waits
	Ran     time.Duration // of the last attempt
	Reason  Reason
}

// RevokeReason says why a lease is taken back.
type RevokeReason uint8

// Why a lease is taken back.
const (
	RevokeHeld RevokeReason = iota + 1
	RevokeTimeout
	RevokeExpired
)

// Held is a lease as one owner of a shard leaves it to the next.
type Held struct {
	JobID     JobID
	Source    string // "": not known
	Token     Token
	Worker    string
	ExpiresIn time.Duration // ≥ 0
}

// Revoke asks a worker to stop a job, or only not to start it.
type Revoke struct {
	Worker           string
	Token            Token
	Reason           RevokeReason
	OnlyIfNotStarted bool
}

// LaneRead says how many more jobs of a lane may be offered from now on; it replaces the former number. A pair
// that is not named keeps its number, less what was offered since.
type LaneRead struct {
	Shard  int32
	Source string
	Type   string
	N      int32
	Bytes  int // at most so many bytes, but always one job
}

// LaneState is what a lane holds, unread and read but unsettled records alike.
type LaneState struct {
	Shard        int32
	Source       string
	Type         string
	BacklogJobs  int64 // not yet offered to the engine
	BacklogBytes int64
	Oldest       time.Time
}

// Mark says that a flow ("*": every tenant) of a (source, type) spills or is held, so that enqueue writes its new
// jobs to the lane directly.
type Mark struct {
	Shard        int32
	Source       string
	Tenant       string // "*" = the whole (source, type)
	Type         string
	Held         bool
	BacklogJobs  int64
	BacklogBytes int64
	Oldest       time.Time
}

// Chores is what Tick found to do besides granting. Its slices are valid until the next Tick.
type Chores struct {
	Settlements []Settlement // expired leases, run timeouts, expired queued jobs
	Moves       []*Job       // append to their lane with Transit, complete the old offset (From), then call Moved
	From        []Home       // where each of Moves was: its Home may be another by the time of the copy
	Revokes     []Revoke
	Reads       []LaneRead
	SummaryDue  bool // write a summary beat now
	MarksDue    bool // Spilling changed since the last Tick
}

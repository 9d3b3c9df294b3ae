package core

import "time"

// Priority is how urgent a job is. A larger one is more urgent; the zero value means that none was named.
type Priority uint8

// The priorities, each with a priority topic of its own.
const (
	None Priority = iota
	Bulk
	Low
	Default
	High
	Critical
)

// String is the priority's word, as in the name of its topic.
func (p Priority) String() string {
	switch p {
	case Bulk:
		return "bulk"
	case Low:
		return "low"
	case Default:
		return "default"
	case High:
		return "high"
	case Critical:
		return "critical"
	default:
		return "none"
	}
}

// Caller is who asks, as its credential says. Sources and Types are patterns, in which * stands for any run of characters; nil allows
// all, an empty list none.
type Caller struct {
	Subject        string
	Sources, Types []string
}

// Job is what a caller asks for.
type Job struct {
	// Source, Tenant and Type as the caller wrote them; Check has passed them before Admit sees them.
	Source, Tenant, Type string
	// Priority is None when the caller named none.
	Priority Priority
	// PayloadBytes is the payload's size; Digest the first half of its SHA-256, enough to tell payloads under one key apart.
	PayloadBytes int
	Digest       [16]byte
	// Bytes is what the job holds in memory until its produce has ended: the whole record with its envelope.
	Bytes int64
	// NotBefore is zero when it may start at once.
	NotBefore time.Time
	// ExpiresIn is 0 when the caller left it to the source.
	ExpiresIn time.Duration
	// Key is the idempotency key; empty without one. KeyTime is the time in it when it has the form that SDKs make, else zero.
	Key     string
	KeyTime time.Time
	// ID is the id that the job has if it is accepted: with a key, the same for every try. The publish room sets it, and KeyTime.
	ID [16]byte
	// Depth is how many jobs lie between this one and the first of its chain.
	Depth int32
	// Record writes the job's durable bytes once its place is settled. This package never looks at it; the publish room drops it as soon as the
	// job is encoded or refused.
	Record Encoder
}

// Encoder makes the value of a job's record.
type Encoder interface {
	// Encode returns the value. It is called once, from the goroutine that publishes the job.
	Encode(Stamp) ([]byte, error)
}

// Stamp is what acceptance adds to a job in its record.
type Stamp struct {
	// ID in canonical text.
	ID string
	// Priority is the job's own, resolved and below the source's ceiling; a demotion is not written down, because it may end.
	Priority Priority
	// AcceptedAt is when it was accepted; ExpiresAt is zero when it never expires.
	AcceptedAt, ExpiresAt time.Time
	// Replica is the replica that accepted it.
	Replica string
}

// Source is what the registry says of a source.
type Source struct {
	Types []string
	// Priority is given to jobs that name none, Ceiling caps all of them.
	Priority, Ceiling Priority
	// AcceptRate in jobs per second, BacklogJobs and BacklogBytes: 0 is no limit.
	AcceptRate                float64
	BacklogJobs, BacklogBytes int64
	// Reject refuses what is above the accept rate; else it goes to the lane, if there is one.
	Reject bool
	// Principals are the subjects that may enqueue as the source; one "*" admits everybody, an empty list nobody.
	Principals []string
	// Expiry of jobs that name none; 0 is never.
	Expiry time.Duration
	// MaxDepth is the longest allowed chain of jobs that enqueue jobs.
	MaxDepth int32
	// KeyWindow is how long an explicit idempotency key is remembered.
	KeyWindow time.Duration
}

// Effect is what the switches in force mean for a flow.
type Effect struct {
	// Held jobs are accepted and wait in a lane; Blocked ones are refused.
	Held, Blocked bool
	// Demote is the priority that a demotion allows at most; None without one.
	Demote Priority
	// Actor, Why and Until tell of the switch that blocks. Until is zero when only a person ends it.
	Actor, Why string
	Until      time.Time
}

// View is control log and status as last read. Its methods are called under the Admission's lock: they must not block.
type View interface {
	// Source tells of a registered source; nil when there is none.
	Source(name string) *Source
	// Effect tells what the switches mean for the flow at now.
	Effect(source, tenant string, now time.Time) Effect
	// Marks tells what of the source spills; nil when nothing does.
	Marks(source string) *Marks
	// Replicas is how many enqueue replicas are alive; the accept rate is divided by it. Below 1 counts as 1.
	Replicas() int
}

// Verdict says what an accepted job is told.
type Verdict uint8

// The verdicts.
const (
	// Accepted: in its priority topic.
	Accepted Verdict = iota + 1
	// Spilled: in the overflow lane of its source and type.
	Spilled
	// Delayed: it waits for its NotBefore.
	Delayed
)

// NoLane is the Lane of a Placement in a priority topic.
const NoLane = -1

// Placement is where an accepted job goes, and what is written down with it.
type Placement struct {
	Verdict Verdict
	// Lane is the partition of the spill topic, or NoLane: then Topic names the priority topic.
	Lane  int32
	Topic Priority
	// Held says that the job is in a lane because of a switch.
	Held bool
	// Own is the job's own priority, for its record.
	Own Priority
	// ExpiresAt and ReadyAt are zero when the job never expires and may start at once.
	ExpiresAt, ReadyAt time.Time
}

// Home is where a record is durable.
type Home struct {
	// Topic is its name without the prefix.
	Topic     string
	Partition int32
	Offset    int64
}

// Result is what becomes of one job.
type Result struct {
	// Refusal is nil for a job that is durable; then the rest is set.
	Refusal *Refusal
	// ID in canonical text.
	ID string
	// Verdict and Home say where it is; ReadyAt is zero when it may start at once.
	Verdict Verdict
	Home    Home
	ReadyAt time.Time
}

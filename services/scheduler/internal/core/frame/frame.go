// Package frame is the worker's stream in the core's words: api translates frames from and to the wire, dispatch acts on
// them. It decides nothing.
package frame

import (
	"errors"
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// Why a worker's stream is refused or has ended.
var (
	// ErrNotAllowed: the worker's id belongs to another caller (S17).
	ErrNotAllowed = errors.New("the worker id belongs to another caller")
	// ErrTooManySlots: the caller's workers have more slots than one caller may have (S18).
	ErrTooManySlots = errors.New("too many slots for one caller")
	// ErrReplaced: the worker opened a newer stream.
	ErrReplaced = errors.New("the worker has a newer stream")
	// ErrSlow: the worker does not take what it is sent (H25).
	ErrSlow = errors.New("the worker does not read its stream")
	// ErrStopping: this replica stops.
	ErrStopping = errors.New("the replica stops")
	// ErrClosed: the stream was closed from this side.
	ErrClosed = errors.New("the stream is closed")
)

// The two frames of a worker's stream in the core's words: api translates them from and to the wire, dispatch acts on
// them. Each part is optional; a frame's parts are applied in the order in which they are declared here.

// Identity is who opened a stream, as its credential says.
type Identity struct{ Subject string }

// Hello introduces a worker: the first frame of its stream, and again in answer to Owned.
type Hello struct {
	Worker  core.Worker
	Version string // for people
	Held    []HeldLease
	Answers *Owned // what it answers: the worker holds no other lease of these shards; nil in the first frame
}

// HeldLease is a lease that a worker says it holds: its handler runs, or its result is not settled yet.
type HeldLease struct {
	JobID     core.JobID
	Source    string
	Token     core.Token
	StartedAt time.Time
}

// Tag is the tag of the latest grant of a priority at a worker.
type Tag struct {
	Priority core.Priority
	Tag      float64
}

// Returned is leases that a worker gives back.
type Returned struct {
	Tokens []core.Token
	Reason core.ReturnReason
	Free   int32
	Seen   int64
}

// Credit is how many slots of a worker are open, and how many open grants of this stream it had seen by then.
type Credit struct {
	Free int32
	Seen int64
}

// FromWorker is a frame of a worker.
type FromWorker struct {
	Latest   []Tag
	Hello    *Hello
	Results  []core.Result
	Returns  []Returned
	Credit   *Credit
	Tickets  int32
	Started  []core.Token
	Renew    []core.Token
	Draining bool
}

// Welcome answers the first Hello.
type Welcome struct {
	Replica    string
	TTL        time.Duration
	RenewEvery time.Duration
}

// Owned is the shards of this replica with their epochs. A worker answers with the leases that it holds of them.
type Owned struct {
	Shards []int32
	Epochs []int64
}

// Replica is a scheduler that workers connect to.
type Replica struct {
	ID      string
	Address string
	Shards  []int32
}

// Granted is a lease on its way to a worker.
type Granted struct {
	core.Lease
	At time.Time
}

// Farewell asks a worker to open another stream.
type Farewell struct {
	Reason string
	Within time.Duration
}

// ToWorker is a frame to a worker.
type ToWorker struct {
	Welcome  *Welcome
	Owned    *Owned
	Topology []Replica // nil: as before
	Bid      *core.Bid
	Pass     int32
	Leases   []Granted
	Renewed  []core.Token
	Lost     []core.Token
	Settled  []core.Token // durable
	Refused  []core.Token // STALE_LEASE
	Revokes  []core.Revoke
	Farewell *Farewell
}

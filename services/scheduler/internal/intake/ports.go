package intake

import (
	"context"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/lane"
)

// Engine is the engine's owner. Do runs f under the engine's lock: f must not block.
type Engine interface {
	Do(f func(now time.Time, e *core.Engine))
}

// Window is the account of one partition of an owned shard.
type Window interface {
	// Place says which partition it is; topic is the full name.
	Place() (topic string, kind core.Topic, partition int, shard int32)
	// Next is the offset to go on reading from.
	Next() int64
	// Add says that a record was read, waits while the window has no room, and answers whether the record is to be worked on.
	Add(ctx context.Context, offset int64, id core.JobID) (fresh bool, err error)
	// PutBack says that a record which Add let through was not worked on: reading begins with it when the partition is read again.
	PutBack(offset int64)
	// Reset begins a new account at to.
	Reset(to int64)
	// History is what former owners recorded of a job.
	History(id core.JobID, offset int64) core.Past
	// Common reports whether it is the shard's common lane.
	Common() bool
	// Lane says who a lane belongs to, and whether it holds records although it belongs to nobody.
	Lane() (owner lane.Key, taken, strays bool)
	// Sized says how large the records are that were read last, on average.
	Sized(recordBytes int)
}

// Homes knows which records are done with, and who has which lane.
type Homes interface {
	// Complete says that the record at home is done with.
	Complete(shard int32, id core.JobID, home core.Home)
	// LaneOf returns the partition of the lane that a (source, type) has.
	LaneOf(shard int32, source, typ string) (partition int32, has bool)
}

// Settler makes durable what the engine did not take.
type Settler interface {
	// Room waits while too much waits to be written already. It goes before Finish and Park, and fails only when ctx ends.
	Room(ctx context.Context) error
	// Finish settles a job. It does not block.
	Finish(job *core.Job, outcome jobv1.Outcome, why core.Reason)
	// Spill moves a job to its lane. It waits for room, and fails only when ctx ends or no lane could be had.
	Spill(ctx context.Context, job *core.Job) error
	// Park puts a record among the dead letters, and gives its job, if it is not nil, its outcome. It does not block.
	Park(shard int32, message kafka.Message, home core.Home, job *core.Job, why error)
}

// Control knows the registered sources.
type Control interface {
	// Knows reports whether the source is registered with the type.
	Knows(source, typ string) bool
	// Confirmed is when the control log's end was last confirmed.
	Confirmed() time.Time
}

package settle

import (
	"context"
	"time"

	"github.com/spillway/spillway/pkg/kafka/produce"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// Engine is the engine's owner. Do runs f under the engine's lock: f must not block.
type Engine interface {
	Do(f func(now time.Time, e *core.Engine))
}

// Log appends records. Send never blocks; it calls done exactly once, from a goroutine of its own, unless it returns an error.
type Log interface {
	Send(rec produce.Record, done func(offset int64, err error)) error
}

// Homes knows the shards that this replica owns and which of their records are done with.
type Homes interface {
	// Epoch returns the epoch under which this replica owns the shard, and whether it does.
	Epoch(shard int32) (epoch int64, owned bool)
	// Event says that an event about the job is durable in the shard's outcomes: it is needed until the job's home is complete and
	// committed. outcome is set for a terminal event.
	Event(shard int32, id core.JobID, offset int64, outcome jobv1.Outcome)
	// Complete says that the record at home is done with. Completing it twice is harmless.
	Complete(shard int32, id core.JobID, home core.Home)
	// Lane returns the partition of spill that the (source, type) writes to, while the shard is owned under epoch. If it has none yet one is taken, and committed before
	// Lane returns; the common lane when none is free. Without an error, Landed follows exactly once.
	Lane(ctx context.Context, shard int32, epoch int64, source, typ string) (partition int32, err error)
	// Landed says that the copy is in the lane at offset, or that it will not come: -1.
	Landed(shard int32, epoch int64, partition int32, offset int64)
}

// Workers hears which results are durable.
type Workers interface {
	// Settled says that the result of a lease is durable, so that the worker can forget it.
	Settled(worker string, token core.Token)
}

package shard

import (
	"context"
	"time"

	"github.com/spillway/spillway/pkg/kafka/produce"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// Engine is the engine's owner. Do runs f under the engine's lock: f must not block.
type Engine interface {
	Do(f func(now time.Time, e *core.Engine))
}

// Records appends records and waits for them.
type Records interface {
	Produce(ctx context.Context, rec produce.Record) (offset int64, err error)
}

// Inputs reads the partitions of owned shards. Both calls return when ctx ends, within a second, and not before.
type Inputs interface {
	// ReadPriority reads a partition of a priority topic.
	ReadPriority(ctx context.Context, window *Window) error
	// ReadLane reads a lane, as far as the engine asks for it.
	ReadLane(ctx context.Context, window *Window) error
}

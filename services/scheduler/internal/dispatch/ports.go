package dispatch

import (
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// Settler makes durable what became of a job. Settle must not block: it is called for one settlement after the other
// by whoever received the result, without the engine's lock. When the event is durable the settler calls
// core.Engine.Settled by Loop.Do, and Loop.Settled if a worker reported it.
type Settler interface {
	Settle(core.Settlement)
}

// Mover copies jobs to their lanes, completes the homes that they left, and calls core.Engine.Moved by Loop.Do. Move must not block; it may keep
// the slices.
type Mover interface {
	Move(jobs []*core.Job, from []core.Home)
}

// Reader is told how much of which lane may be offered. Read must not block; it may keep the slice.
type Reader interface {
	Read([]core.LaneRead)
}

// Gate says whether jobs may be granted: the control log was confirmed within 500 ms and holds nothing later than applied, the sequence that
// the engine acts on (-1: none), the group's heartbeat within 3 s, and the replica is not suspended. Open is called with the engine locked: it must be quick and must not call the Loop.
type Gate interface {
	Open(now time.Time, applied int64) bool
	// Renews says whether leases may be renewed: the group's heartbeat was confirmed so lately that whoever takes our shards waits for what is
	// renewed now. It asks the clock, so that a process that was stopped for a while does not renew what others have by then. As Open, it is
	// called with the engine locked.
	Renews(now time.Time) bool
}

// Beat tells the other replicas and everybody who follows status. No call may block.
type Beat interface {
	// Summarise writes a summary beat at once.
	Summarise([]core.Summary)
	// Poke writes a status beat at once: marks have changed, or Loop.Acknowledged has.
	Poke()
}

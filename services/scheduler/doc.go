// Package scheduler decides what runs next, and hands it out.
//
// It reads the priority topics and lanes of the shards that the consumer group gives it, keeps what may run soon in a pure engine
// (internal/core), grants leases to workers over their Work streams, and records what became of each job.
//
//	jobs.*, spill ──▶ intake ──▶ ┌────────┐ ──▶ dispatch ──▶ workers
//	                  shard      │ engine │ ◀──    api    ◀──
//	control, status ──────────▶  └────────┘ ──▶ settle ──▶ outcomes, dead, spill
//
// It refuses to know about websockets, and to hold memory in proportion to a backlog: what cannot run soon is in its source's lane.
//
// Guarantees: nothing is granted while the control log has not been confirmed for 500 ms, the group's heartbeat for 3 s, or before a
// shard's history was read (H5, H6, H17, H18). An outcome is durable before its job's offset is complete (H1, H3). A job of a held
// source does not start once the hold is acknowledged (I10).
//
// Failure: without the broker it grants nothing, renews leases for 9 s, keeps its shards, and goes on by itself. Stopped in order, or when shards go
// to others, it hands over the leases that are left: those jobs go on under the next owner, and everything else is granted at once. Killed, it
// loses nothing: the next owner fences, reads, and runs again what had no outcome.
//
// Rooms that own goroutines: shard (ownership, commits, lanes), intake (one a partition), dispatch (the engine's pump), settle (two).
package scheduler

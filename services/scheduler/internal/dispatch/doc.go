// Package dispatch owns the engine and the workers' streams: it carries out what the engine decides about grants.
//
// # Model
//
//	other rooms ──Do──▶ ┌────────────┐ ◀──Receive── session (one per worker) ◀── api
//	                    │   engine   │
//	every 10 ms ──Tick─▶│ (one lock) │──Next──▶ pump ──▶ outbox of the session ──Next──▶ api ──▶ worker
//	                    └────────────┘
//	                       chores ──▶ ports: Settler, Mover, Reader, Beat
//
// The engine is behind one mutex that is held only for its own calls: no I/O, no encoding, nothing that blocks. Whoever
// has told it something wakes the pump by a 1-deep channel; the pump asks Next until the engine is idle, in batches, so
// that others get at the lock, and each worker gets what was decided for it in one frame.
//
// # Order
//
// Decisions for one worker reach it in the order in which they were made. Parts that a frame would apply in another
// order than they were decided go into two frames (outbox.add); a withdrawn bid that overtook its bid would hold a slot
// for nothing (TestOutboxKeepsOrder).
//
// # Guarantees
//
//   - Nothing is granted while the gate is shut: control not confirmed, no live generation, suspended (TestGate).
//   - A grant that was not written within 500 ms of its decision goes back to the engine, and so does one whose shard goes to another owner: it is
//     never sent (TestStaleGrantIsNotSent, TestHandOverEndsEverythingAtOnce).
//   - Leases are renewed only of shards that are this replica's, and only while the gate says so.
//   - A result is passed on once, and answered when it is durable or refused; a lease is bound to its worker, and a
//     worker to the caller who opened its first stream, as long as it may hold leases (S17).
//   - A hold is acknowledged when every lease that it found undecided is started or back, or after 200 ms.
//   - An outbox holds at most 16 MiB of jobs, 1,000 frames and 20,000 + 8 × slots tokens of answers; a worker that lets it grow further, or does not
//     take anything for 10 s, loses its stream (H25).
//
// # Goroutines
//
// Run owns two: the pump, which is the clock as well, and the watchdog over it, which ends Run when the pump is stuck (H16). Sessions are
// driven by api's goroutines.
package dispatch

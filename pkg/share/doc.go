// Package share decides, inside one worker, which scheduler replica gets a
// slot that has just come free. It is the worker's half of the division of one
// pool between several schedulers; the engine is the other half.
//
// # Model
//
// Nobody owns a part of the pool and no slot is promised twice on purpose. A
// free slot is in one of two states:
//
//	      Freed, Pass, expiry                  Freed, Pass, expiry
//	     and no bid stands                     and a bid stands
//	           │                                     │
//	           ▼              a bid arrives          ▼
//	        [open] ────────────────────────────▶ [held for r]
//	           │                                     │
//	first grant of any replica             grant of r │ Pass of r, 20 ms over,
//	           ▼                                     ▼ stream closed: freed again
//	       [running] ◀───────────────────────── [running]
//
// An open slot is told to every replica as credit. Two replicas may grant into
// it at the same time: the second gets its job back at once (a Return), which
// costs a round trip and nothing else. A slot that frees while replicas wait
// for it goes to the best bid, as a ticket, and for that replica alone.
//
// Order of bids: rank, then the more urgent priority, then the smaller tag
// (worker-seconds of virtual time), then whoever was served longer ago. A
// replica that lets a ticket expire is suspect and passed over until it is
// heard again, so a stopped replica costs at most 20 ms of a slot.
//
// # Guarantees
//
//   - running + held + free = slots, always; a job is never accepted without a
//     slot (TestDividerModel).
//   - No slot is open while a bid of a replica that is not suspect stands
//     (TestDividerModel).
//   - What a replica believes about the open slots is corrected within 1 ms
//     when few are left, else within 50 ms (TestNetworkSettles).
//
// # Non-goals
//
// Whether a source may have the slot is the engine's business. The package
// reads no clock, starts no goroutine and takes no lock: its owner passes the
// time in and calls it from one goroutine at a time.
//
// # Cost
//
// Every call is linear in the number of replicas (at most the number of
// shards, 24 in production) and allocates nothing once streams are open.
package share

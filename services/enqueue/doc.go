// Package enqueue accepts jobs: it validates, authenticates, admits and makes them durable, and answers only then.
//
//	callers ─▶ api ─▶ publish ─▶ jobs.<priority>, or the marked lane of spill
//	                    ▲
//	     control, status (followed by the service itself)
//
// # Guarantees
//
//   - OK means that the job is on all in-sync replicas of the log. A definite refusal means that it is not, and never will be because of this
//     call. Everything else may have happened and is safe to try again with the same idempotency key.
//   - What one source does costs no other: its bytes in flight are bounded by a share, its excess is led into its own lane, and no caller waits
//     for another's log.
//   - Memory is bounded: bytes in flight, idempotency keys, message sizes, streams.
//
// # It refuses to
//
// know about workers, hold a job that is not on its way to the log, create topics, decide on anything that needs to be exact across replicas:
// rates and backlogs are its part of the quota, as last reported; the owner of the shard decides again.
//
// # Failure
//
// Without automation everything goes on. Without the control log's broker it goes on with the last known state and is unready after 30 s.
// Without the job topics' broker it answers UNAVAILABLE or FATE_UNKNOWN within 20 s, and refuses what would not fit into its memory meanwhile.
// Killed, it loses nothing that it has answered OK for.
package enqueue

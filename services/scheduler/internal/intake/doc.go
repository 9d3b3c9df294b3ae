// Package intake reads what the shards' partitions hold and gives it to the engine: priority topics as fast as it can, lanes as far as
// the engine asks.
//
//	priority topic ──▶ scan ──▶ window ──▶ history ──▶ engine.Offer ──▶ queue       (the engine has it)
//	lane           ──▶  │                     │                    ├──▶ spill       (copied to its lane)
//	                    ▼                     ▼                    ├──▶ expire, supersede (settled)
//	                   park                complete                └──▶ duplicate   (completed)
//
// Guarantees:
//   - A job that cannot run now never waits in front of others in a priority topic (scheduling.md §1): it is queued in its share of
//     memory, or copied to its lane at once. Only the writing of those copies can slow intake down.
//   - A record that nobody can act on is parked among the dead letters and passed (H15).
//   - A job of a source or type that this replica does not know yet waits until the control log was confirmed after the record was
//     read, and is parked then.
//
// Bounds: Budget for what was fetched and not offered; the engine's own budget for what is queued. Goroutines: the callers of
// ReadPriority and ReadLane, one for each partition, and one beside each lane.
package intake

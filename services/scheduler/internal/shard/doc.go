// Package shard owns shards: it takes them with a fence, knows which of their records are done with, lends their lanes, commits, and
// gives them back.
//
// Owner.Run follows the consumer group. In each generation it attaches the shards that it was given, runs their inputs, and commits five
// times a second. At a generation's end it stops the inputs. If the group only rebalances, or the replica stops, it hands the leases of all
// shards over and commits that they are drained (handover.go); if the coordinator was lost it can do neither, and renews leases for 9 s. Either way it
// keeps the engine's state: a shard that comes back without a foreign fence is resumed without reading anything again (H16, H34).
//
//	         given             rebalance, stop
//	(none) ────────▶ attached ───────────────────▶ handed over ─┬─▶ attached   given again, no foreign fence
//	                 fence,        │               no renewal   │
//	                 history,      │ coordinator                │
//	                 then inputs   └────────lost─▶ suspended ───┴─▶ (none)     given to another, or fenced by another
//	                                               renewals for 9 s
//
// Guarantees:
//   - Nothing is granted of a shard before its fence is durable and its outcomes are read up to it, nor while a commit says that it is drained.
//   - A lease of the owner before is inherited if it was handed over, or if its worker announces it. Records that it may have granted beside those
//     wait for the quarantine: none if it handed over.
//   - A drained commit counts only with a handover that counts; without one, what the owner before may have granted is in quarantine.
//   - An owner goes on only under the last fence of its shard: one that comes late is noticed within a second of the next event.
//   - Shards of replicas that lost the coordinator together with this one are theirs for another 4 s.
//   - A commit never passes a record that is not complete; what is complete above it is in the commit's metadata (H3). When that has no room
//     for all of it, the oldest incomplete jobs are moved, and until then the events of what is left out stay needed.
//   - The log is asked to forget only what lies below the commits, and never the last record of a partition (H8, K1).
//   - An event stays above the committed offset of outcomes until the completion that it explains is committed.
//   - A lane's owner is committed before the first record is written to the lane.
//   - No commit for a partition is no reason to guess: the shard is refused (H7).
//
// Goroutines: one for each input (Inputs), one for commits, one beside it that trims, one that looks at the lanes, one that looks
// for others' records among the shard's own events; all end with the generation.
package shard

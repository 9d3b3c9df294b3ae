// Package shard owns shards: it takes them with a fence, knows which of their records are done with, lends their lanes, commits, and
// gives them back.
//
// Owner.Run follows the consumer group. In each generation it attaches the shards that it was given, runs their inputs, and commits five
// times a second; at the generation's end it stops the inputs, commits for the last time and keeps the engine's state: a shard that
// comes back without a foreign fence is resumed without reading anything again (H16, H34).
//
//	         given               generation ends
//	(none) ────────▶ attached ──────────────────▶ suspended ──▶ attached   given again, no foreign fence
//	                 fence,                        no grant,  ──▶ (none)    given to another, or fenced by another
//	                 history,                      no produce
//	                 then inputs
//
// Guarantees:
//   - Nothing is granted of a shard before its fence is durable and its outcomes are read up to it.
//   - A commit never passes a record that is not complete; what is complete above it is in the commit's metadata (H3). When that has no room
//     for all of it, the oldest incomplete jobs are moved, and until then the events of what is left out stay needed.
//   - The log is asked to forget only what lies below the commits, and never the last record of a partition (H8, K1).
//   - An event stays above the committed offset of outcomes until the completion that it explains is committed.
//   - A lane's owner is committed before the first record is written to the lane.
//   - No commit for a partition is no reason to guess: the shard is refused (H7).
//
// Goroutines: one for each input (Inputs), one for commits, one beside it that trims, one that looks at the lanes; all end with the generation.
package shard

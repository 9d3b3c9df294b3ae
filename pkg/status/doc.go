// Package status is how replicas of all services see each other: every replica writes beats to the topic status, every replica reads
// them all.
//
//	          Poke                                  at once
//	marks, ─────────▶ Writer ── beat, ≤ 250 ms ──▶ status ──▶ Reader ──▶ Live, Mark, Changed
//	control                └── summary beat ────▶        └──▶ OnSummary
//
// A beat says who the replica is, which control sequence it acts on, which shards it owns, how loaded it is and what spills. Marks are
// sent when they change and in full every 5 s, so that a reader that starts has them all after that long at most. A summary beat
// carries only what schedulers that share a pool of workers tell each other, up to 20 times a second.
//
// # Guarantees
//
//   - A replica counts as live for 1 s after its last beat was read. Beats that were read late, because this process or the broker was
//     away, make nobody live (TestReaderLateBeats).
//   - Records of one replica are read in the order in which it wrote them.
//   - Memory is bounded: maxReplicas, maxMarks; what was not heard of for a minute is forgotten.
//
// # Non-goals
//
// The topic is advice, not truth: a lost beat costs a little time, never a job. Nobody authenticates its records beyond the broker's
// access lists.
package status

// Package offsets keeps the account of one partition: which of its records are
// still being worked on, how far the committed offset may go, and how what is
// finished above that offset survives a restart.
//
// # Model
//
// A partition is read in ascending order and finished in any order. Kafka
// remembers one number per partition, so the lowest incomplete offset is what
// is committed, and the runs of completed offsets above it travel in the
// commit's metadata:
//
//	offset    100 101 102 103 104 105 106 107
//	state      .   ✓   ✓   .   ✓   .   –   next to be read
//	           │   └─┬─┘       │       │
//	          Low  Ranges   Ranges    gap in the log: complete by definition
//	           └────────── Window ─────────┘
//
// A Tracker holds this picture; a Position is what is written and read back.
//
// # Guarantees
//
//   - Low never passes an offset that was added and is not done.
//   - An offset outside of Ranges may be run again after a restart; one inside
//     of them was done. What does not fit into the metadata is left out from the
//     top, so it is only run again and never skipped.
//   - Offsets that the log does not contain count as complete.
//   - At most Limit offsets lie between Low and the next offset, so a partition
//     is described in a bounded number of bytes.
//
// # Non-goals
//
// No I/O, no clock, no locks: the owner of the partition serialises calls. A
// tracker does not know jobs; it is the caller's rule that nothing is Done
// before its outcome is durable.
//
// # Cost
//
// Add and Done take constant time amortised over the window; Ranges takes one
// step per 64 offsets of the window and one per range. A tracker of the default
// limit is 512 bytes of bits.
package offsets

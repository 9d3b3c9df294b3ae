// Package controllog reads and writes the control log: the one topic with one partition that holds every registration, quota and
// switch, in order and for ever. It is the registry, its history and its audit at once.
//
// # Model
//
// A record is a command. [Fold] applies commands in the order of the log and nothing else: no clock, no randomness, no configuration
// but the topic's name and the installation's key. So every reader of the same records holds the same [State], and
// [State.Hash] proves it across replicas. A command that names another revision than the current one is refused by the fold, which makes the log
// the arbiter between concurrent writers.
//
//	record ──▶ MAC ──▶ version, format ──▶ request id ──▶ revision ──▶ state
//	            │             │                 │             │
//	         forged         stop            repeated        stale        (a refusal moves the sequence, never the state)
//
// [Follower] folds the log of a broker on a connection of its own and knows when the broker last confirmed that there is nothing newer.
// [Writer] appends a command and reads it back, so that its answer is the fold's verdict and not a hope.
//
// # Guarantees
//
//   - How records were batched by the broker or the network does not matter (TestFoldBatches).
//   - A record that this version cannot obey (unknown version, format, act or verb) stops the fold for good and loudly: going on without a
//     hold would be worse than not going on (TestFoldStops).
//   - A record whose MAC is wrong is skipped and reported. It cannot stop or change anything (TestFoldForged).
//   - A record that was removed, moved or edited shows as a broken chain in the verdict of the record after it (TestChain).
//   - Memory is bounded: sources by [MaxSources] and [MaxStateBytes], switches by [MaxSwitches], request ids by [RequestWindow].
//
// # Not its business
//
// The ttl of a switch: the state keeps the time, [State.Effective] compares it with the clock of whoever asks. Expiry changes no state
// and no hash.
package controllog

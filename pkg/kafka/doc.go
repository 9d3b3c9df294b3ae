// Package kafka is Spillway's one door to a Kafka-protocol log: a client with
// a deadline on every call, errors sorted by what may be done about them, the
// names and settings of the topics, and their installation.
//
// # Model
//
// A Client wraps one kafka-go transport: a pool of connections in which every
// connection carries one request at a time. Nothing here starts a goroutine
// except the transport itself, whose goroutines end with Close. The packages
// below build on it: produce (batches), shard (membership and consumption).
//
// # Guarantees
//
//   - Every call ends: by its context, or by CallTimeout when that is earlier.
//   - An append says what is known about it: nil, an error wrapping ErrUnsent
//     (the log does not hold the records) or one wrapping ErrFateUnknown.
//   - DeleteRecords never empties a partition. A broker that forgets the log
//     start of an empty partition starts it again at offset 0, and everything
//     written below the committed offset would then be invisible for ever.
//   - A forced Refresh is serialised, and callers that wait for one share it.
//
// # Non-goals
//
// Transactions, idempotent producers, compaction and read_committed are not
// used: records are idempotent by job id, and at-least-once is the contract.
package kafka

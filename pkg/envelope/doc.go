// Package envelope is the byte-level contract of everything Spillway writes to
// Kafka: where a source lives (Shard), what a job is called (JobID), what
// travels beside a record (Header, Transit), how a record proves its writer
// (MAC, Prev) and how the few fields that routing needs are read from a job
// without decoding the rest (Scan).
//
// # Guarantees
//
// The formats are fixed: a record that was written by the first release is
// read by every later one. Each has golden bytes in testdata, and each decoder
// is fuzzed against the full one. All functions are pure: no clock, no
// randomness, no I/O; callers pass both in. Decoders never panic, allocate in
// proportion to their input at most, and refuse what they do not understand
// with ErrMalformed, ErrUnknownValue or ErrVersion, so that callers can park
// such a record instead of dropping it.
//
// # Not here
//
// The format of commit metadata (pkg/offsets) and of the control log's fold
// (pkg/controllog). Nothing here talks to Kafka; pkg/kafka converts Header to
// its client's type.
package envelope

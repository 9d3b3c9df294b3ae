// Package produce writes records to the log in natural batches.
//
// # Model
//
// Every partition has a queue and at most one request in flight. What arrives
// while a request is under way is the next batch. So a lone record leaves at
// once, and under load batches grow by themselves until the log keeps up: no
// linger, no batch size to tune.
//
//	       Send                     one at a time               result
//	callers ───▶ queue of partition ─────────────▶ Client.Append ─────▶ done
//	                 ▲                                │ retriable
//	                 └── next batch                   └─▶ refresh, pause, again
//
// # Guarantees
//
//   - Records of one partition are written in the order of Send. A retry after
//     a lost answer may repeat a batch; it never reorders.
//   - done runs exactly once for every record that Send took.
//   - An error wraps kafka.ErrUnsent only if no attempt can have written the
//     record; otherwise it wraps kafka.ErrFateUnknown.
//   - Bytes are held from Send until the result is known, and never more than
//     Config.MaxBytes: a log that is away means refusals, not growth.
//   - A result comes within Config.Deadline plus one request (6 s) after Send.
//   - The Gate is asked before every single request, retries included.
//
// # Non-goals
//
// It does not deduplicate (records are idempotent by job id) and does not
// choose partitions.
package produce

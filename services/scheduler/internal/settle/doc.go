// Package settle makes durable what happened to jobs: events in outcomes, dead letters, and copies in lanes.
//
// It owns two goroutines (Run): one tells the engine and the homes what has become durable, in batches, because the engine's lock is
// short of time; one writes the moves that the engine asked for. Everything else runs on the caller's goroutine and never blocks for
// the log, except Spill, whose caller is intake and is meant to wait.
//
// Guarantees:
//   - An event is durable before its job's offset is complete, and a copy before the offset that it replaces (H2, H10): a crash in
//     between makes a duplicate, never a loss.
//   - Every record carries the epoch of its writer; a terminal event of a former owner does not count (H5).
//   - What could not be written is written again while this replica owns the shard, and dropped when it does not: the next owner runs
//     the job again.
//
// Bounds: what waits to be written is at most one settlement for each lease and one move for each queued job that the engine names,
// whose records the engine counts, and failedBytes of what intake has: it waits in Room, so a log that takes no writes slows it down.
package settle

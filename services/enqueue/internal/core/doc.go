// Package core decides what becomes of a job that somebody wants to enqueue: refused, and precisely why, or accepted, and into which log.
//
// # Model
//
// An [Admission] holds what has to be remembered between decisions: the accept rate of every source (a [Rate], the generic cell rate
// algorithm), the bytes of accepted jobs whose produce has not ended (a [Budget]) and which payload was last seen under an idempotency key (a
// [Recall]). Everything else arrives as facts: the caller, the job and a [View] of control log and status as they were last read. One mutex of
// the publish room guards an Admission; a decision takes well under a microsecond.
//
// # Guarantees
//
//   - A refusal changes nothing: no rate is spent, no memory is held (TestRefusalChangesNothing).
//   - A caller that is not bound to a source learns nothing of it: one text whether it is registered, blocked or never was
//     (TestS10OneTextForStrangers).
//   - One source never holds more than its share of the memory, so that a broker that stands still under a flood leaves room for everybody
//     else; the lowest priority is refused first (TestO1LowestPriorityIsRefusedFirst).
//   - Accepted per source: at most rate × t + burst in any time t, rate and burst being the quota's part of this replica (TestRateModel).
//   - Memory is bounded by the number of registered sources and by [Limits].
//
// # Not here
//
// Job ids, bytes of records, topics' names, clocks and goroutines: the publish room has them. The owner of the shard decides again at intake;
// what this package knows from status may be a beat old, and nothing but a worse place for a job follows from that.
package core

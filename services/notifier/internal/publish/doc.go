// Package publish is the verb room of the notifier that makes notifications durable.
//
//	api ───────────▶ Publish ┐
//	worker ─▶ Handle ────────┴▶ core.Check ─▶ core.Admit ─▶ record ─▶ notifications, partition of the channel ─▶ result
//	                              ▲              ▲
//	                     JSON, compacted    control log and live notifiers, as last read
//
// # Owners
//
// Run owns one goroutine, which counts the live notifiers. Publish and Handle run in their callers' goroutines; results of the producer come on
// the producer's. One mutex guards the admission; nothing blocks under it.
//
// # Guarantees
//
//   - A result without a refusal means that the log has the record on all in-sync replicas (TestDurableBeforeAnswer). Sockets are never waited
//     for: what becomes of the notification there is the deliver room's.
//   - A definite refusal never follows a record that may have been written: what is not known is FATE_UNKNOWN (TestFateUnknown).
//   - Data in a record is one line of JSON in UTF-8, so that it can stand in a frame of the protocol as it is (FuzzPayload).
//   - A job of type notify and a call of Publish pass the same check, the same quota and the same budget. The id of a job's notification is the
//     job's, so that attempts of a job make one notification in the eyes of clients.
//   - Records wait in at most Config.Inflight bytes; a log that is away means refusals, not growth (TestBudgetBound).
package publish

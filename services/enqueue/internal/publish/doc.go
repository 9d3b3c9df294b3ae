// Package publish is the verb room of enqueue: it makes jobs durable and answers only for those that are.
//
//	api ──▶ Publish ─▶ core.Admit ─▶ Encode ─▶ jobs.<priority> | lane of spill ─▶ result
//	           ▲           ▲
//	    own id by key   control log, marks and live replicas, as last read
//
// # Owners
//
// Run owns one goroutine: it watches status and keeps an index of what spills and how many replicas there are, so that a decision costs a few
// map look-ups. Publish runs in its caller's goroutine; results of the producer come on the producer's. One mutex guards the admission; nothing
// blocks under it.
//
// # Guarantees
//
//   - A result without a refusal means that the log has the record on all in-sync replicas (TestDurableBeforeAnswer).
//   - A definite refusal never follows a record that may have been written: what is not known is FATE_UNKNOWN (TestH20FateUnknown).
//   - A record goes to a lane only by a mark of the shard's owner. If the mark was stale, the owner of the lane finds the record and moves it
//     (reliability H36).
//   - Records wait in at most the admission's byte budget; a log that is away means refusals, not growth (TestBudgetBound).
package publish

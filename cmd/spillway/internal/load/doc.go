// Package load is `spillway load`, the open-loop load generator: it enqueues
// jobs on a fixed schedule whatever the answers do, runs their handlers through
// the worker SDK and judges the product by its own account alone.
//
//	plan.Run ──▶ sender (a goroutine a flow) ──▶ client SDK ──▶ enqueue
//	                 │ ids on file first             answers ──▶ tally.Book
//	worker SDK, here or in child processes ── starts, ends ──▶ tally.Book
//	at the end: census of the logs by the same ids        ──▶ tally.Ledger
//
// The logs are asked for outcomes once, when all is over; nothing that is
// measured goes through them.
package load

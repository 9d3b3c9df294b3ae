// Package replay is `spillway replay`: it plays a known outage against the
// product and gives a verdict by the product's promises.
//
//	judge.Plan ──▶ load/send ──▶ enqueue      (without Spillway: one topic)
//	handlers, 64 slots ── Publish ──▶ notifier ──▶ websocket clients, half of which never read
//	     │ starts, ends ──▶ tally.Book              │ frames ──▶ judge.Post
//	status ──▶ judge.Namer ──▶ Hold, Resume         ▼
//	processes ──▶ peak memory ──▶ judge.Report ──▶ verdict
//
// What is measured is measured here, by the clock and the ids of this process;
// the product is asked only who uses most, as an operator would ask, and at the
// end where its logs have the jobs. The package judge, which is pure, says what
// the figures are worth; the package plain is the opponent.
package replay

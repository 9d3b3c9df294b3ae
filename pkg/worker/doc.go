// Package worker runs jobs: it holds one stream to every scheduler replica, takes as many jobs as it has free slots,
// calls the handler of each job's type and reports how it ended.
//
//	w, err := worker.New(worker.Config{Schedulers: "dns:///scheduler:7410", Concurrency: 64})
//	w.Handle("tag", func(ctx context.Context, job *worker.Job) error { … })
//	err = w.Run(ctx) // returns after a graceful drain
//
// # What a handler may rely on
//
// A job is started at least once, so a handler must be idempotent on Job.ID. Its context ends before the job can be
// given to another worker: when the lease was not renewed for 16 s (of its 20 s), when the run timeout has passed,
// when an operator cancels it, or when the worker has used up its time to drain; context.Cause says which. A panic is
// an attempt that failed, nothing more. A nil error means done; Snooze asks for the job again later without costing an
// attempt; Permanent says that trying again is useless; any other error means try again by the source's policy.
//
// # A lease in the worker
//
//	         no slot: Return                       Revoke, only if not started: Return
//	Lease ──────────────────▶ ∅          ┌─────────────────────────────────────────────▶ ∅
//	  │                                  │
//	  └──────────▶ [accepted] ───────────┴──▶ [started] ──handler returns──▶ [reported] ──Settled──▶ ∅
//	               slot taken                 Started sent, renewed           slot free; the result is
//	                                          every 5 s                       repeated until it is named
//
// # Who does what
//
// One mutex guards everything; nothing blocks under it. Run owns a clock goroutine (deadlines, tickets, renewals), a
// goroutine that keeps the streams connected, two per stream (reader, writer) and one per running job. Writers are
// woken by a 1-deep channel and put everything that has come up since into one frame.
//
// # Bounds
//
// At most Concurrency jobs at a time; at most max(1024, Concurrency) results that no scheduler has settled yet, each
// with an error text of at most 2 KiB: when there are more, no slot is offered until some are settled.
package worker

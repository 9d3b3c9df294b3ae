// Package core decides what runs next: the engine of one scheduler replica.
//
// # Model
//
// One Engine owns any number of shards, and with a shard everything of its sources: what of them waits in memory, what
// runs, their quotas and switches, the ids they settled lately. The shell (the verb rooms) tells it facts and the time,
// and carries out what it answers; the engine itself has no clock, no goroutine and no I/O, and one goroutine owns it.
//
//	Offer ───────────▶ queued · spilled to the (source, type)'s lane · expired · duplicate
//	Next ────────────▶ a lease for a worker · a bid · tickets given back · idle until
//	Done, Tick ──────▶ settlements to make durable; Settled when they are
//	Apply ───────────▶ quotas and switches act at once
//	Summary, Heard ──▶ what several replicas that share one pool of workers must know of each other
//
// The order of work, from the outside in:
//
//	pool      the workers whose types overlap, directly or by way of others
//	 band     a priority: critical first up to its floor, then those below theirs, then by urgency (rank)
//	  line    a source at that priority, by virtual tag in worker-seconds ÷ weight
//	   queue  a tenant of it, by worker-seconds; first in, first out
//
// A line runs on its fair share as of right. Beyond it, it is a borrower: all borrowers together leave K slots of the
// pool, enough for what the others may need before slots come back, and divide the rest max-min (lend.go).
//
// # Guarantees
//
//   - At most one live lease for a job; its tokens rise (TestModel).
//   - Never more than burst + rate × d grants of a source or flow in any time d, nor more leases than its concurrency,
//     leases inherited from a former owner apart (TestModel).
//   - Nothing is granted of a held source, tenant or flow; what is queued of it is moved to its lane (TestModel).
//   - No job is forgotten: it is in the engine, handed back by a verdict or a move, or settled (TestModel).
//   - Queued jobs of the priority topics take at most Config.Memory (TestModel); jobs from lanes at most 256 a pair.
//   - Shares of sources that want more than they get are max-min by weight, within 5 % (TestSharesAgainstOracle).
//   - A flood of short or of hanging jobs costs the others at most 6 ms at p99 in a pool of 64 slots, with one engine or
//     three (TestFloodOfShortJobs, TestFloodThatHangs).
//
// # Non-goals
//
// Order within a flow is arrival order, best effort. Preemption: a slot that was lent comes back when its job ends.
// Between tenants the order is by virtual tags like that between sources, not by deficit round robin: with costs from
// 20 ms to minutes a quantum would be either many rounds or minutes of unfairness.
//
// # Cost
//
// Offer, Next and Done are O(log n) in the sources of one class of workers and the tenants of one source, and allocate
// nothing in the steady state. Tick is bounded: it looks at 2,048 jobs and 1,024 lines at a time. Only Apply, and a set
// of types that appears or disappears among the workers, costs as much as there are jobs.
package core

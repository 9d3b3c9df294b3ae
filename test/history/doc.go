// Package history judges the product from outside: a generator that sends jobs
// whatever the answers do, workers that write down what they run before they run
// it, and a checker that knows nothing but these files and the log.
//
//	generator ──calls──▶ the product ──jobs──▶ worker processes ──▶ effects
//	    │ invoke, ok, fail, info                   │ exec-start, exec-end
//	    ▼                                          ▼
//	 files of JSON lines, one a process, times of one clock ──▶ Check ──▶ Verdict
//	    ▲                                          ▲
//	nemesis: fault, heal; holds                 outcomes: fence, handover, settled, by a plain client
//
// # What makes it independent
//
// A job is known by the key that the generator made and put into its payload, never
// by an id that the product gave it. Keys are in a file before they are sent, a
// start is in a file before its effect; both survive kill -9 of their writer. Times
// are CLOCK_MONOTONIC, the same for every process of a machine. The checker is a
// pure function of what was written, and is itself tested with histories that have
// one anomaly each.
//
// # Bounds
//
// A run holds at most some hundred thousand jobs: the checker keeps all events in
// memory, 200 bytes each. Calls are given up after 45 s.
package history

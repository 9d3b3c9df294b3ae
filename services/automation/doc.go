// Package automation owns sources, quotas and switches, and proves that a switch has taken effect.
//
//	operators ──▶ api ──▶ registry ──▶ control ──▶ every service
//	                         ▲                        │ acknowledges in its beat
//	                         └──────── status ◀───────┘
//
// It writes what was asked for to the control log, reads it back, and answers a switch when every live scheduler and enqueue replica
// has acknowledged it, with the list of them. Everything else follows the log itself.
//
// It refuses to be needed: when it is dead, work goes on with the last known state, and switches stay in force.
//
// Guarantees: the record is the change, so no answer says OK before the record was read back (I15). After Hold has answered OK, no job
// of the scope starts anywhere (I10). A request id acts once. Several replicas may run at once: the log decides between them.
//
// Failure: without the broker nothing is changed and the answer says so (BROKER_UNAVAILABLE), or says that it may have been
// (NOT_CONFIRMED); a retry with the same request id is safe then. Killed, it loses nothing, because it keeps nothing.
//
// Rooms that own goroutines: registry (one, which notes expired switches). The front door runs the follower of the control log, the
// reader and writer of status, the producer and the servers.
package automation

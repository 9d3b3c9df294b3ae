// Package notifier makes notifications durable and brings them to websockets. It owns every websocket.
//
//	callers ──gRPC──▶ api ─────▶ publish ──▶ log notifications ──▶ deliver ──▶ websockets
//	jobs of type notify ─▶ worker ─▶ ┘            (every replica reads all of it)
//
// Two verb rooms, because nothing but the log connects them: [publish] acts on the log, [deliver] on sockets. Either goes on when the other cannot.
//
// # Guarantees
//
//   - OK means that the notification is on all in-sync replicas of the log. A definite refusal means that it is not, and never will be because of
//     this call. Everything else may have happened and is safe to try again with the same idempotency key: clients see the same id.
//   - No call, no job and no other client ever waits for a socket.
//   - A source costs the others nothing: its rate is bounded by its quota, its bytes in flight by a share.
//   - Memory is bounded: bytes in flight, the rings, what is given out at once, sessions, what a session may hold.
//
// # It refuses to
//
// make a job wait for a websocket, let a client cost more than its budget, keep what a slow client does not take (the log is the buffer), create
// topics, know anything of a job but its source, tenant and payload.
//
// # Failure
//
// Without schedulers, sockets and Publish go on; jobs of type notify wait for a notifier, other types do not. Without automation everything goes on.
// Without the log, Publish answers UNAVAILABLE or FATE_UNKNOWN within 20 s and refuses what would not fit into its memory meanwhile; sessions stay
// and get what they have missed when it is back; the replica is unready after 30 s. Killed, it loses nothing that it has answered OK for; clients
// come back with their cursors, to any replica.
//
// [publish]: internal/publish
// [deliver]: internal/deliver
package notifier

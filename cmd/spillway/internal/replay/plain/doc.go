// Package plain is the opponent of the replay: what a team builds first, and
// builds well. One topic with 8 partitions for all jobs; one consumer group,
// whose worker runs 64 handlers at a time and commits what is done in order; and
// the websockets in the same process, each written to by the handler that has
// something to say, with a deadline of ten seconds.
//
// It is not crippled: it batches, its commits lose nothing, its queues are
// bounded, it has both cores, and a client that takes nothing for ten seconds is
// cut off. What it lacks is what the product is about: it cannot tell one source
// from another, cannot stop one, and lets a job wait for a socket.
package plain

// Package shard makes a replica the owner of shards: it joins the schedulers'
// consumer group, says which shards a generation of the group gives to us, reads
// and writes their commits under the generation's fence, and fetches their
// partitions within a budget of bytes.
//
// # Model
//
//	     join                 own(ctx, g)                ctx ends
//	──▶ waiting ──▶ generation 7: shards 0, 3, 6 ──▶ drain, final commits ─┐
//	      ▲                                                               │
//	      └──────────────── join again, after any error ◀─────────────────┘
//
// The group's protocol is spoken here, by the calls of kafka.Client (join, sync,
// heartbeat, leave). A group assigns partitions; we read the assignment only as a set of shards,
// because partition q of every scheduler topic belongs to shard q mod P. The
// group's generation number fences: a commit by an owner of the past is refused
// by the broker. Produces are not fenced by it, so whoever grants or produces
// asks Generation.Alive first.
//
// # Guarantees
//
//   - Between two calls of own the group gives our shards to nobody before the
//     first has returned, unless it took longer than RebalanceTimeout or the
//     session was lost; then the fence holds.
//   - A partition without a commit is an error, never a guess of where to begin.
//   - A Loop never goes to the end of a partition by itself: an offset that the
//     log does not have leads to the log's start.
//   - The bytes fetched and not yet released stay within Budget, plus one
//     oversized batch for each loop.
//
// # Failure behaviour
//
// Every error of joining is followed by another attempt until the context ends.
// A member keeps its id over lost connections, so a coordinator that is killed or
// moves ends no generation: who lost it is not alive until a heartbeat is
// confirmed again, and goes on then, with nobody joining and nothing dealt anew.
// After LostAfter without an answer own is told (ErrLost). A coordinator that comes
// back without a memory (ErrForgotten) has forgotten all members at once: the first
// of them to lead the new group waits a moment for the others, and shards are dealt
// to those who had them. Retriable errors of fetching and committing refresh the
// cluster view and are retried with jitter.
package shard

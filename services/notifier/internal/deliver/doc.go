// Package deliver brings what is in the log notifications to the websockets of this replica.
//
//	log ─fetch─▶ partition (actor: ring, index of channels, seats) ─write─▶ session ─▶ socket
//	                 ▲ register, retry, leave                          │ not taken
//	   reader of a session ─────────┘ └───────── sweeper ◀─────────────┘
//
// Every replica reads all partitions, by hand and without a group. A partition has a goroutine that fetches and one, the actor, that owns its ring,
// its index of channels and the seats in it, so that replay and live delivery cannot race. A session has a goroutine that reads; nothing else of it
// is a goroutine. One sweeper tries all sessions again whose sockets were full, one clock pings and expires all sessions.
//
// # A seat
//
// is a session's place in one partition in which it has channels. It is either live, that is it was given everything below the partition's next
// offset, or behind at an offset:
//
//	        registered below the ring's end, or a write not taken whole (yet)
//	live ────────────────────────────────────────────────────────▶ behind(offset) ──┐ retry: replay from the ring, ≤ 16 KiB a piece
//	 ▲                       level with the ring's end                 │        ▲───┘ offset below the ring's start: gap, and on from there
//	 └────────────────────────────────────────────────────────────────┘
//
// The log is the buffer: what a socket does not take is not kept for it.
//
// # Guarantees
//
//   - A client gets the notifications of a channel in the order of the log, each once in a session, from where it was registered on; or a gap that
//     says so (TestNothingIsMissedInSilence). After a resume it may get again what it already had, with the same id.
//   - A session that does not read holds the rest of one frame, a pong, and at most 64 KiB of answers that it has asked for and not taken, and with
//     them a ping and a cursor: no notification waits for it. It delays nobody: no write waits (TestStalledReaders).
//   - Who lags and reads is asked and told its cursor all the same, and is not silent (TestWhoReadsSlowlyIsNotSilent); who takes nothing for the stall
//     time is closed (TestAStallHasItsTime).
//   - What a partition notes of a burst is bounded, however many hear it (TestABurstToAllIsDeliveredInBoundedMemory).
//   - Whatever a client sends is bounded: its size, its rate, the answers that wait for it.
//
// Non-goals: durability (the log has it), history beyond the ring, delivery to other replicas' sessions.
package deliver

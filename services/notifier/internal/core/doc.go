// Package core decides what the notifier may accept and who may receive it, and keeps what clients can come back for. It is pure: callers pass
// the time in, and nothing here waits.
//
//	channel.go       what a notification is addressed to
//	notification.go  what somebody asks for, and the judgement of its form
//	admission.go     refused, and precisely why, or admitted: caller, source, switches, bytes in flight, quota
//	quota.go         the bucket of a source's publish rate, and the line of jobs above it
//	refusal.go       the reasons
//	rights.go        which channels a token lets its subscriber hear
//	ring.go          the latest notifications of one partition, bounded in bytes
//	cursor.go        where a client is in all partitions, as bytes
//	pace.go          how often a client may speak
//	close.go         why a session ends, in numbers
//
// # Guarantees
//
//   - A refusal changes nothing: no token is spent, no byte is held (TestRefusalChangesNothing).
//   - A caller that is not bound to a source learns nothing of it: one text whether it is registered, blocked or never was
//     (TestS10OneTextForStrangers).
//   - Accepted per source: at most rate × t + a second's worth in any time t, the rate being the quota's part of this replica (TestBucketModel).
//   - One source never holds more than a quarter of the bytes in flight (TestBytesInFlight).
//   - A notification is of its channel's tenant, and a channel has one spelling (TestChannelsOfAnyName).
//   - Memory is bounded by the number of registered sources and by the limits that are passed in.
//
// # Not here
//
// JSON, ids, the bytes of records and of frames, clocks and goroutines: the rooms have them.
package core

// Package api translates between the wire and the core: it owns the protocol of WorkerService.Work.
//
// It checks what a frame may say (S16: only types that the caller's credential covers), binds a stream to its caller, and leaves
// everything else to the room behind Open. It has no state of its own. Each open stream has two goroutines, one that reads and one that
// writes; both end when the stream's handler returns.
package api

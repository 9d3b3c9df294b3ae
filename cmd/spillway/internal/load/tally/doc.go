// Package tally is the generator's own account of a run: what it sent, what it
// was answered, what its handlers saw. It asks nothing of the product, so the
// product cannot judge itself.
//
// All times are durations since the start of the run; waits and accept times
// are measured from the moment a job was due, never from when it was really
// sent, so that a generator or a service that falls behind shows up as waiting.
// Percentiles are exact: every job's times are kept (32 bytes a job).
package tally

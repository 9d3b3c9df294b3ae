package telemetry

import "time"

// joinWithin is how old a job may be for its first attempt to join the trace that created it: a reader of a trace waits no longer for its
// end, and collectors that sample by the tail have decided by then.
const joinWithin = 10 * time.Minute

// Joined tells whether an attempt (1 for the first) that starts now belongs into the trace in which its job was accepted. Any other attempt
// is a root of its own with a link.
func Joined(attempt int32, accepted, now time.Time) bool {
	return attempt == 1 && now.Sub(accepted) <= joinWithin
}

package core

import (
	"strconv"
	"time"
)

// Reason is the word that callers branch on; the contract names them all.
type Reason string

// The reasons that automation answers. Unavailable and Unconfirmed may follow a change that was made, the others never do.
const (
	Invalid       Reason = "INVALID"
	UnknownSource Reason = "UNKNOWN_SOURCE"
	HasBacklog    Reason = "HAS_BACKLOG"
	StalePreview  Reason = "STALE_PREVIEW"
	StaleRevision Reason = "STALE_REVISION"
	Conflict      Reason = "IDEMPOTENCY_CONFLICT"
	Full          Reason = "OVERLOADED"
	Unavailable   Reason = "BROKER_UNAVAILABLE"
	Unconfirmed   Reason = "NOT_CONFIRMED"
)

// Reasons lists every reason that this package can answer; the table of status codes is tested against it.
func Reasons() []Reason {
	return []Reason{Invalid, UnknownSource, HasBacklog, StalePreview, StaleRevision, Conflict, Full, Unavailable, Unconfirmed}
}

// Violation names a field of a request, such as "source.quota.rate", and what is wrong with it.
type Violation struct {
	Field, Description string
}

// Refusal is why a change was not made, or may not be in force.
type Refusal struct {
	Reason  Reason
	Message string
	// Violations names every bad field at once; only with Invalid.
	Violations []Violation
	// Metadata is for programs: the current revision, a silent replica, the sequence of a record.
	Metadata map[string]string
	// Retry is how long to wait before trying again; 0 when trying again is useless or may be done at once.
	Retry time.Duration
}

// Error is the message with its reason.
func (r *Refusal) Error() string { return string(r.Reason) + ": " + r.Message }

// soon is when a caller may try again what failed because a broker or replica was away.
const soon = time.Second

// NoSource refuses because a source is not registered.
func NoSource(name string) *Refusal {
	return &Refusal{Reason: UnknownSource, Message: "source is not registered", Metadata: map[string]string{"source": name}}
}

// Stale refuses because what the caller saw is no longer there. current is where it is, 0 when it is gone.
func Stale(message string, current int64) *Refusal {
	return &Refusal{Reason: StaleRevision, Message: message, Metadata: map[string]string{"revision": strconv.FormatInt(current, 10)}}
}

// Bad refuses a single field.
func Bad(field, description string) *Refusal {
	return &Refusal{Reason: Invalid, Message: "the request is invalid", Violations: []Violation{{field, description}}}
}

// Backlogged refuses to delete a source that has work.
func Backlogged(name string, jobs, bytes int64) *Refusal {
	return &Refusal{
		Reason: HasBacklog, Message: "the source has jobs that wait",
		Metadata: map[string]string{"source": name, "jobs": strconv.FormatInt(jobs, 10), "bytes": strconv.FormatInt(bytes, 10)},
	}
}

// NotWritten refuses because the control log could not be written; nothing was changed.
func NotWritten() *Refusal {
	return &Refusal{Reason: Unavailable, Message: "the control log cannot be written; nothing was changed", Retry: soon}
}

// NotRead refuses because the control log has not been read up to now; nothing was changed.
func NotRead() *Refusal {
	return &Refusal{Reason: Unavailable, Message: "the control log is not known up to now; nothing was changed", Retry: soon}
}

// NotReadBack says that a change may have been made: its record could not be read back in time.
func NotReadBack() *Refusal {
	return &Refusal{Reason: Unconfirmed, Message: "the change may be in the control log but could not be read back; repeat it with the same request_id", Retry: soon}
}

package core

import "time"

// Reason is the word that callers branch on; the contract names them all.
type Reason string

// The reasons. The first eleven are definite: the job was not accepted. The others may follow a job that was.
const (
	Invalid             Reason = "INVALID"
	UnknownSource       Reason = "UNKNOWN_SOURCE"
	UnknownType         Reason = "UNKNOWN_TYPE"
	PayloadTooLarge     Reason = "PAYLOAD_TOO_LARGE"
	NotAllowed          Reason = "NOT_ALLOWED"
	SourceBlocked       Reason = "SOURCE_BLOCKED"
	QuotaExceeded       Reason = "QUOTA_EXCEEDED"
	BacklogFull         Reason = "BACKLOG_FULL"
	Overloaded          Reason = "OVERLOADED"
	LanesExhausted      Reason = "LANES_EXHAUSTED"
	IdempotencyConflict Reason = "IDEMPOTENCY_CONFLICT"
	KeyExpired          Reason = "KEY_EXPIRED"
	FateUnknown         Reason = "FATE_UNKNOWN"
	BrokerUnavailable   Reason = "BROKER_UNAVAILABLE"
)

// Reasons lists every reason that this package can answer; the table of status codes is tested against it.
func Reasons() []Reason {
	return []Reason{
		Invalid, UnknownSource, UnknownType, PayloadTooLarge, NotAllowed, SourceBlocked, QuotaExceeded, BacklogFull, Overloaded,
		LanesExhausted, IdempotencyConflict, KeyExpired, FateUnknown, BrokerUnavailable,
	}
}

// Violation names a field of the job, such as "job.source", and what is wrong with it.
type Violation struct {
	Field, Description string
}

// Refusal is why a job was not accepted, or may not have been.
type Refusal struct {
	Reason  Reason
	Message string
	// Violations names every bad field at once; only with Invalid and PayloadTooLarge.
	Violations []Violation
	// Retry is how long to wait before trying again; 0 when trying again is useless or may be done at once.
	Retry time.Duration
	// Quota names the limit that was reached, such as "accept_rate"; only with reasons of exhausted resources.
	Quota string
	// Metadata is for programs: who blocked a source and until when.
	Metadata map[string]string
	// Unregistered says that registering the source or type would help; local mode does it.
	Unregistered bool
}

// Error is the message with its reason.
func (r *Refusal) Error() string { return string(r.Reason) + ": " + r.Message }

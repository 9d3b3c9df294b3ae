package core

import "time"

// Reason is the word that callers branch on; the contract names them all.
type Reason string

// The reasons. The first seven are definite: the notification was not accepted. The others may follow one that was.
const (
	Invalid           Reason = "INVALID"
	PayloadTooLarge   Reason = "PAYLOAD_TOO_LARGE"
	UnknownSource     Reason = "UNKNOWN_SOURCE"
	NotAllowed        Reason = "NOT_ALLOWED"
	SourceBlocked     Reason = "SOURCE_BLOCKED"
	QuotaExceeded     Reason = "QUOTA_EXCEEDED"
	Overloaded        Reason = "OVERLOADED"
	FateUnknown       Reason = "FATE_UNKNOWN"
	BrokerUnavailable Reason = "BROKER_UNAVAILABLE"
)

// Reasons lists every reason that this package can answer; the table of status codes is tested against it.
func Reasons() []Reason {
	return []Reason{
		Invalid, PayloadTooLarge, UnknownSource, NotAllowed, SourceBlocked, QuotaExceeded, Overloaded, FateUnknown, BrokerUnavailable,
	}
}

// Violation names a field of the notification, such as "channel", and what is wrong with it.
type Violation struct {
	Field, Description string
}

// Refusal is why a notification was not accepted, or may not have been.
type Refusal struct {
	Reason  Reason
	Message string
	// Violations names every bad field at once; only with Invalid and PayloadTooLarge.
	Violations []Violation
	// Retry is how long to wait before trying again; 0 when trying again is useless or may be done at once.
	Retry time.Duration
	// Quota names the limit that was reached, such as "publish_rate"; only with reasons of exhausted resources.
	Quota string
	// Metadata is for programs: who blocked a source and until when.
	Metadata map[string]string
}

// Error is the message with its reason, and the bad fields.
func (r *Refusal) Error() string {
	text := string(r.Reason) + ": " + r.Message
	for _, v := range r.Violations {
		text += "; " + v.Field + " " + v.Description
	}
	return text
}

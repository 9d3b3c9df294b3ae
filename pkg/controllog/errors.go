package controllog

import (
	"errors"
	"fmt"
)

// Why the fold refuses a command. A refused command is in the log and changes nothing. Test with errors.Is.
var (
	// ErrForged: the record's MAC is missing or wrong. Somebody without the installation's key wrote it.
	ErrForged = errors.New("record is not authentic")
	// ErrInvalid: the command contradicts itself; no reader of any version may act on it.
	ErrInvalid = errors.New("command is invalid")
	// ErrRepeated: a command with this request id was accepted before. Refusal.Current is its sequence.
	ErrRepeated = errors.New("request id was used before")
	// ErrConflict: a command of another kind or about something else has this request id. Refusal.Current is its sequence.
	ErrConflict = errors.New("request id was used for another command")
	// ErrStaleRevision: the source or scope is not at the revision that the writer saw. Refusal.Current is where it is, 0 if it does not exist.
	ErrStaleRevision = errors.New("revision is stale")
	// ErrUnknownSource: the command needs a source that is not registered.
	ErrUnknownSource = errors.New("source is not registered")
	// ErrFull: the state is at one of its bounds.
	ErrFull = errors.New("control state is full")
)

// ErrOtherKey is why a log with records has no configuration: all of them were sealed by somebody else.
var ErrOtherKey = errors.New("no record of the control log is sealed with this MAC key: the key is another installation's")

// What a [Writer] answers beside refusals.
var (
	// ErrUnavailable: the command is not in the log.
	ErrUnavailable = errors.New("control log cannot be written")
	// ErrNotConfirmed: the command may be in the log; it could not be read back in time. A retry with the same request id is safe.
	ErrNotConfirmed = errors.New("control record could not be read back")
)

// Refusal is the fold's refusal of one command.
type Refusal struct {
	// Err is one of the sentinel errors of this package.
	Err error
	// Sequence is that of the refused record.
	Sequence int64
	// Current is the sequence that stands against it: the current revision, or the earlier command with the same request id.
	Current int64
	// Detail says what is wrong, for people; may be empty.
	Detail string
}

// Error implements error.
func (r *Refusal) Error() string {
	if r.Detail != "" {
		return fmt.Sprintf("control record %d: %v: %s", r.Sequence, r.Err, r.Detail)
	}
	return fmt.Sprintf("control record %d: %v (current %d)", r.Sequence, r.Err, r.Current)
}

// Unwrap makes errors.Is find the sentinel.
func (r *Refusal) Unwrap() error { return r.Err }

// StopError is why a fold has stopped for good. Only another version of the program, or a person, can go on.
type StopError struct {
	// Sequence is that of the record that could not be obeyed.
	Sequence int64
	// Reason says why.
	Reason string
}

// Error implements error.
func (e *StopError) Error() string {
	return fmt.Sprintf("control log stopped at record %d: %s", e.Sequence, e.Reason)
}

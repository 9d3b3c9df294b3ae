// Package exit turns an error into the exit code that scripts rely on.
package exit

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
)

// The exit codes of every command.
const (
	OK           = 0
	Failed       = 1
	Usage        = 2
	NotFound     = 3
	Refused      = 4 // by policy: quota, role
	Precondition = 5
	Unavailable  = 6
	// Interrupted is what shells say of a command that SIGINT has ended: it was stopped before it knew its result.
	Interrupted = 130
)

// Error is an error with an exit code of its own.
type Error struct {
	Code int
	Err  error
}

// Errorf makes an Error as fmt.Errorf does.
func Errorf(code int, format string, args ...any) error {
	return &Error{Code: code, Err: fmt.Errorf(format, args...)}
}

// With gives err an exit code; nil stays nil.
func With(code int, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Code: code, Err: err}
}

// Error is the wrapped error's text.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// Code is the exit code of an error: its own, or that of the gRPC status in it.
func Code(err error) int {
	if err == nil {
		return OK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	if errors.Is(err, readyfile.ErrAbsent) {
		return Unavailable
	}
	switch status.Code(err) {
	case codes.InvalidArgument:
		return Usage
	case codes.NotFound:
		return NotFound
	case codes.PermissionDenied, codes.Unauthenticated, codes.ResourceExhausted:
		return Refused
	case codes.FailedPrecondition, codes.Aborted, codes.AlreadyExists:
		return Precondition
	case codes.Unavailable, codes.DeadlineExceeded:
		return Unavailable
	}
	return Failed
}

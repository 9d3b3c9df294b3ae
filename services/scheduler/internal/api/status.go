package api

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

// soon is when a worker that was turned away may come again.
const soon = time.Second

// refusals is what each of core's errors is on the wire.
var refusals = map[error]rpc.Error{
	frame.ErrNotAllowed:   {Code: codes.PermissionDenied, Reason: rpc.ReasonNotAllowed, Message: "not allowed"},
	frame.ErrTooManySlots: {Code: codes.ResourceExhausted, Reason: rpc.ReasonOverloaded, Message: "this caller's workers have too many slots", Retry: soon},
	frame.ErrReplaced:     {Code: codes.Unavailable, Reason: rpc.ReasonReplaced, Message: "the worker has a newer stream", Retry: soon},
	frame.ErrSlow:         {Code: codes.ResourceExhausted, Reason: rpc.ReasonOverloaded, Message: "the worker does not read its stream", Retry: soon},
	frame.ErrStopping:     {Code: codes.Unavailable, Reason: rpc.ReasonStopping, Message: "this replica stops", Retry: soon},
	frame.ErrClosed:       {Code: codes.Unavailable, Reason: rpc.ReasonReplaced, Message: "the stream is closed", Retry: soon},
}

// statusOf is the status of an error: nil for a clean end.
func statusOf(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	for known, refusal := range refusals {
		if errors.Is(err, known) {
			return refusal.Err()
		}
	}
	if s := status.FromContextError(err); errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return s.Err()
	}
	return err // a status already: of the stream itself, or made here
}

func notAllowed(message string) error {
	return (&rpc.Error{Code: codes.PermissionDenied, Reason: rpc.ReasonNotAllowed, Message: message}).Err()
}

func invalid(field, description string) error {
	return (&rpc.Error{
		Code: codes.InvalidArgument, Reason: rpc.ReasonInvalid, Message: "a frame cannot be read",
		Violations: []rpc.Violation{{Field: field, Description: description}},
	}).Err()
}

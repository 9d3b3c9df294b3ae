package api

import (
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/services/automation/internal/core"
)

// codeOf maps reasons to codes: the contract. UNAVAILABLE says that the change may have been made, the others that it was not.
var codeOf = map[core.Reason]codes.Code{
	core.Invalid:       codes.InvalidArgument,
	core.UnknownSource: codes.NotFound,
	core.HasBacklog:    codes.FailedPrecondition,
	core.StalePreview:  codes.FailedPrecondition,
	core.StaleRevision: codes.Aborted,
	core.Conflict:      codes.AlreadyExists,
	core.Full:          codes.ResourceExhausted,
	core.Unavailable:   codes.Unavailable,
	core.Unconfirmed:   codes.Unavailable,
}

// failure is an error as callers see it.
func failure(err error) error {
	refusal := (*core.Refusal)(nil)
	if !errors.As(err, &refusal) {
		return status.FromContextError(err).Err()
	}
	e := &rpc.Error{
		Code: codeOf[refusal.Reason], Reason: string(refusal.Reason), Message: refusal.Message, Metadata: refusal.Metadata, Retry: refusal.Retry,
	}
	for _, v := range refusal.Violations {
		e.Violations = append(e.Violations, rpc.Violation{Field: v.Field, Description: v.Description})
	}
	return e.Err()
}

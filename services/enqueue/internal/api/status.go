package api

import (
	"google.golang.org/grpc/codes"

	"github.com/spillway/spillway/pkg/rpc"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	"github.com/spillway/spillway/services/enqueue/internal/core"
)

// codeOf maps reasons to codes. It is the contract: a code of the first seven kinds says that the job was certainly not accepted, ABORTED and
// UNAVAILABLE that it may have been.
var codeOf = map[core.Reason]codes.Code{
	core.Invalid:             codes.InvalidArgument,
	core.UnknownType:         codes.InvalidArgument,
	core.PayloadTooLarge:     codes.InvalidArgument,
	core.UnknownSource:       codes.NotFound,
	core.NotAllowed:          codes.PermissionDenied,
	core.SourceBlocked:       codes.FailedPrecondition,
	core.QuotaExceeded:       codes.ResourceExhausted,
	core.BacklogFull:         codes.ResourceExhausted,
	core.Overloaded:          codes.ResourceExhausted,
	core.LanesExhausted:      codes.ResourceExhausted,
	core.IdempotencyConflict: codes.AlreadyExists,
	core.KeyExpired:          codes.Aborted,
	core.FateUnknown:         codes.Aborted,
	core.BrokerUnavailable:   codes.Unavailable,
}

// toError is the refusal of a job of source as callers see it.
func toError(source string, r *core.Refusal) *rpc.Error {
	e := &rpc.Error{Code: codeOf[r.Reason], Reason: string(r.Reason), Message: r.Message, Metadata: r.Metadata, Retry: r.Retry}
	for _, v := range r.Violations {
		e.Violations = append(e.Violations, rpc.Violation{Field: v.Field, Description: v.Description})
	}
	if r.Quota != "" {
		e.Quota = []rpc.QuotaViolation{{Subject: "source:" + source, Description: r.Quota}}
	}
	return e
}

func failure(source string, r *core.Refusal) error { return toError(source, r).Err() }

func itemError(source string, r *core.Refusal) *enqueuev1.EnqueueBatchResponse_Item {
	return &enqueuev1.EnqueueBatchResponse_Item{Result: &enqueuev1.EnqueueBatchResponse_Item_Error{Error: toError(source, r).Proto()}}
}

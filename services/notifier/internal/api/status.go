package api

import (
	"google.golang.org/grpc/codes"

	"github.com/spillway/spillway/pkg/rpc"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

// codeOf maps reasons to codes. It is the contract: ABORTED and UNAVAILABLE say that the notification may have been accepted, every other code here
// that it certainly was not.
var codeOf = map[core.Reason]codes.Code{
	core.Invalid:           codes.InvalidArgument,
	core.PayloadTooLarge:   codes.InvalidArgument,
	core.UnknownSource:     codes.NotFound,
	core.NotAllowed:        codes.PermissionDenied,
	core.SourceBlocked:     codes.FailedPrecondition,
	core.QuotaExceeded:     codes.ResourceExhausted,
	core.Overloaded:        codes.ResourceExhausted,
	core.FateUnknown:       codes.Aborted,
	core.BrokerUnavailable: codes.Unavailable,
}

// toError is the refusal of a notification of source as callers see it.
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

func itemError(source string, r *core.Refusal) *notifierv1.PublishBatchResponse_Item {
	return &notifierv1.PublishBatchResponse_Item{Result: &notifierv1.PublishBatchResponse_Item_Error{Error: toError(source, r).Proto()}}
}

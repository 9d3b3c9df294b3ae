package rpc

import (
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is the domain of every ErrorInfo that Spillway sends.
const Domain = "spillway.dev"

// Error is a refusal as callers see it. Callers branch on Code and Reason,
// never on Message.
type Error struct {
	Code codes.Code
	// Reason is one of the Reason constants; "" sends no ErrorInfo.
	Reason string
	// Message is one sentence for people. It must hold nothing internal.
	Message string
	// Metadata goes into ErrorInfo: names and values that a program may use.
	Metadata map[string]string
	// Violations name the fields of an invalid request, all at once.
	Violations []Violation
	// Quota names the quotas that refused the request.
	Quota []QuotaViolation
	// Retry is when to try again; 0 sends no RetryInfo.
	Retry time.Duration
}

// Violation is one field of a request that broke a rule.
type Violation struct {
	Field       string // path from the request, such as job.source
	Description string
	Rule        string // the rule's id, such as string.pattern; may be ""
}

// QuotaViolation is one quota that a request would exceed.
type QuotaViolation struct {
	Subject     string // such as source:crm-autotag
	Description string
}

// Error is the code, reason and message in one line.
func (e *Error) Error() string {
	if e.Reason == "" {
		return e.Code.String() + ": " + e.Message
	}
	return e.Code.String() + " " + e.Reason + ": " + e.Message
}

// Err is the status error to return from a handler; nil for a nil Error.
func (e *Error) Err() error {
	if e == nil {
		return nil
	}
	return e.GRPCStatus().Err()
}

// Proto is the error as one item of a batch carries it.
func (e *Error) Proto() *spb.Status { return e.GRPCStatus().Proto() }

// GRPCStatus lets gRPC send an Error that a handler returned as it is.
func (e *Error) GRPCStatus() *status.Status {
	s := status.New(e.Code, e.Message)
	details := make([]protoadapt.MessageV1, 0, 4)
	if e.Reason != "" {
		details = append(details, &errdetails.ErrorInfo{Domain: Domain, Reason: e.Reason, Metadata: e.Metadata})
	}
	if len(e.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, v := range e.Violations {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{
				Field: v.Field, Description: v.Description, Reason: v.Rule})
		}
		details = append(details, bad)
	}
	if len(e.Quota) > 0 {
		quota := &errdetails.QuotaFailure{}
		for _, v := range e.Quota {
			quota.Violations = append(quota.Violations, &errdetails.QuotaFailure_Violation{
				Subject: v.Subject, Description: v.Description})
		}
		details = append(details, quota)
	}
	if e.Retry > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.Retry)})
	}
	if len(details) == 0 {
		return s
	}
	full, err := s.WithDetails(details...)
	if err != nil { // only for code OK, which is no refusal
		return status.New(codes.Internal, "a refusal without a code")
	}
	return full
}

// FromError reads an Error back from what an RPC returned. It is nil for nil;
// an error that never was a status has code UNKNOWN.
func FromError(err error) *Error {
	if err == nil {
		return nil
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	s, _ := status.FromError(err)
	return FromStatus(s.Proto())
}

// FromStatus reads an Error back from one item of a batch; nil for OK.
// Unknown details, and ErrorInfo of other domains, are left out.
func FromStatus(p *spb.Status) *Error {
	s := status.FromProto(p)
	if s.Code() == codes.OK {
		return nil
	}
	e := &Error{Code: s.Code(), Message: s.Message()}
	for _, detail := range s.Details() {
		switch d := detail.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == Domain {
				e.Reason, e.Metadata = d.GetReason(), d.GetMetadata()
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Violations = append(e.Violations, Violation{Field: v.GetField(), Description: v.GetDescription(), Rule: v.GetReason()})
			}
		case *errdetails.QuotaFailure:
			for _, v := range d.GetViolations() {
				e.Quota = append(e.Quota, QuotaViolation{Subject: v.GetSubject(), Description: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.Retry = max(d.GetRetryDelay().AsDuration(), 0)
		}
	}
	return e
}

// ReasonOf is the reason of an error that an RPC returned, "" when it has
// none.
func ReasonOf(err error) string {
	if e := FromError(err); e != nil {
		return e.Reason
	}
	return ""
}

// RetryAfter is how long the server asked to wait before another try, 0 when
// it did not.
func RetryAfter(err error) time.Duration {
	if e := FromError(err); e != nil {
		return e.Retry
	}
	return 0
}

// The reasons of ErrorInfo. They are part of the contract: one may be added,
// none changes its meaning or its code.
const (
	// NOT_FOUND
	ReasonUnknownSource = "UNKNOWN_SOURCE"
	ReasonUnknownJob    = "UNKNOWN_JOB"
	// INVALID_ARGUMENT
	ReasonInvalid         = "INVALID"
	ReasonUnknownType     = "UNKNOWN_TYPE"
	ReasonPayloadTooLarge = "PAYLOAD_TOO_LARGE"
	// FAILED_PRECONDITION
	ReasonSourceBlocked = "SOURCE_BLOCKED"
	ReasonHoldFirst     = "HOLD_FIRST"
	ReasonStalePreview  = "STALE_PREVIEW"
	ReasonHasBacklog    = "HAS_BACKLOG"
	// RESOURCE_EXHAUSTED
	ReasonQuotaExceeded  = "QUOTA_EXCEEDED"
	ReasonBacklogFull    = "BACKLOG_FULL"
	ReasonOverloaded     = "OVERLOADED"
	ReasonLanesExhausted = "LANES_EXHAUSTED"
	// ALREADY_EXISTS
	ReasonIdempotencyConflict = "IDEMPOTENCY_CONFLICT"
	// UNAUTHENTICATED
	ReasonNoCredentials = "NO_CREDENTIALS"
	// PERMISSION_DENIED
	ReasonNotAllowed = "NOT_ALLOWED"
	// ABORTED
	ReasonFateUnknown   = "FATE_UNKNOWN"
	ReasonKeyExpired    = "KEY_EXPIRED"
	ReasonStaleRevision = "STALE_REVISION"
	// UNAVAILABLE
	ReasonBrokerUnavailable = "BROKER_UNAVAILABLE"
	ReasonNotConfirmed      = "NOT_CONFIRMED"
	ReasonReplaced          = "REPLACED" // the worker has a newer stream
	ReasonStopping          = "STOPPING" // the replica stops
	// in band, of an attempt
	ReasonRunTimeout   = "RUN_TIMEOUT"
	ReasonStaleLease   = "STALE_LEASE"
	ReasonHandlerPanic = "HANDLER_PANIC"
	ReasonNoHandler    = "NO_HANDLER"
)

package client

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spillway/spillway/pkg/rpc"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

// Error is why a job or a notification was not accepted, or may not have been. Branch on Refused, Code and Reason, never on the text.
type Error struct {
	// Code is the gRPC status code, Reason the word that says why; empty when the failure has none, such as a broken connection.
	Code   codes.Code
	Reason string
	// Message is for people.
	Message string
	// Refused is true when it was certainly not accepted by any try of this call.
	Refused bool
	// Retry is how long the service asks to wait; 0 when it does not say.
	Retry time.Duration
	// Fields names what is wrong with it, as "job.source: must be …", or "channel: …" of a notification.
	Fields []string

	cause   error
	publish bool // it is about a notification
}

// Error is the reason and the message.
func (e *Error) Error() string {
	text := e.Reason
	if text == "" {
		text = e.Code.String()
	}
	verb := "enqueue"
	if e.publish {
		verb = "publish"
	}
	text = fmt.Sprintf("%s: %s: %s", verb, text, e.Message)
	for _, f := range e.Fields {
		text += "; " + f
	}
	return text
}

// Unwrap is the answer that the Error was made of.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus lets status.Code and status.FromError see the code.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// Reason is the reason of an error of this package; empty for other errors.
func Reason(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// Refused says that the error of a job or a notification means that it was certainly not accepted.
func Refused(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Refused
}

// definite says whether a code means that the job was certainly not accepted. Only these do: the contract names them.
func definite(code codes.Code) bool {
	switch code {
	case codes.NotFound, codes.InvalidArgument, codes.FailedPrecondition, codes.ResourceExhausted, codes.AlreadyExists, codes.Unauthenticated,
		codes.PermissionDenied:
		return true
	default:
		return false
	}
}

// unsendable refuses a job whose text is not valid UTF-8; nil: it can be sent. gRPC would fail to encode it, and with it every other job of the
// request, as if the fate of all were unknown. The service judges everything else.
func unsendable(s *jobv1.JobSpec) *Error {
	var wrong []rpc.Violation
	check := func(field string, texts ...string) {
		if slices.ContainsFunc(texts, func(text string) bool { return !utf8.ValidString(text) }) {
			wrong = append(wrong, rpc.Violation{Field: "job." + field, Description: "must be valid UTF-8"})
		}
	}
	check("source", s.GetSource())
	check("tenant", s.GetTenant())
	check("type", s.GetType())
	check("content_type", s.GetContentType())
	check("idempotency_key", s.GetIdempotencyKey())
	check("parent_job_id", s.GetParentJobId())
	check("labels", slices.Collect(maps.Keys(s.GetLabels()))...)
	check("labels", slices.Collect(maps.Values(s.GetLabels()))...)
	if len(wrong) == 0 {
		return nil
	}
	return refusal(&rpc.Error{
		Code: codes.InvalidArgument, Reason: rpc.ReasonInvalid, Violations: wrong, Message: "not sent: the job cannot be encoded",
	})
}

// refusal reads an answer; err is not nil.
func refusal(err error) *Error {
	in := rpc.FromError(err)
	e := &Error{Code: in.Code, Reason: in.Reason, Message: in.Message, Refused: definite(in.Code), Retry: in.Retry, cause: err}
	for _, v := range in.Violations {
		e.Fields = append(e.Fields, v.Field+": "+v.Description)
	}
	return e
}

// afterUnknown is a refusal that answers a retry: the first try may have been accepted, and this says nothing about it.
func (e *Error) afterUnknown() *Error {
	what := "job"
	if e.publish {
		what = "notification"
	}
	return &Error{
		Code: codes.Aborted, Reason: rpc.ReasonFateUnknown, Retry: e.Retry, cause: e, publish: e.publish,
		Message: "an earlier try of this " + what + " may have been accepted; the last one was refused: " + e.Error(),
	}
}

package rpc_test

import (
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spillway/spillway/pkg/rpc"
)

func TestErrorsSurviveTheWire(t *testing.T) {
	for _, e := range []*rpc.Error{
		{Code: codes.NotFound, Reason: rpc.ReasonUnknownSource, Message: "no source x", Metadata: map[string]string{"source": "x"}},
		{Code: codes.InvalidArgument, Reason: rpc.ReasonInvalid, Message: "invalid", Violations: []rpc.Violation{{Field: "job.source", Description: "d", Rule: "string.pattern"}, {Field: "job.type"}}},
		{Code: codes.ResourceExhausted, Reason: rpc.ReasonQuotaExceeded, Quota: []rpc.QuotaViolation{{Subject: "source:x", Description: "rate"}}, Retry: time.Second},
		{Code: codes.Unavailable, Message: "no reason", Retry: time.Millisecond},
		{Code: codes.Internal},
	} {
		for name, back := range map[string]*rpc.Error{
			"status": rpc.FromError(e.Err()), "item": rpc.FromStatus(e.Proto()), "itself": rpc.FromError(fmt.Errorf("wrapped: %w", e)),
			"wrapped status": rpc.FromError(fmt.Errorf("wrapped: %w", e.Err())),
		} {
			if name == "wrapped status" {
				back.Message = e.Message // gRPC adds the outer text
			}
			if !reflect.DeepEqual(back, e) {
				t.Errorf("%s:\n got %+v\nwant %+v", name, back, e)
			}
		}
		if rpc.ReasonOf(e.Err()) != e.Reason || rpc.RetryAfter(e.Err()) != e.Retry || status.Code(e) != e.Code {
			t.Errorf("%v reads as %q, %v", e, rpc.ReasonOf(e.Err()), rpc.RetryAfter(e.Err()))
		}
	}
}

func TestErrorsOfOthers(t *testing.T) {
	if rpc.FromError(nil) != nil || rpc.ReasonOf(nil) != "" || rpc.RetryAfter(nil) != 0 || (*rpc.Error)(nil).Err() != nil {
		t.Error("nil is an error")
	}
	if e := rpc.FromError(errors.New("x")); e.Code != codes.Unknown || e.Reason != "" {
		t.Errorf("%+v", e)
	}
	foreign, err := status.New(codes.Aborted, "x").WithDetails(&errdetails.ErrorInfo{Domain: "example.com", Reason: rpc.ReasonFateUnknown}, &errdetails.Help{})
	if err != nil {
		t.Fatal(err)
	}
	if e := rpc.FromError(foreign.Err()); e.Code != codes.Aborted || e.Reason != "" {
		t.Errorf("another domain's reason is taken for ours: %+v", e)
	}
	if err := (&rpc.Error{Reason: "X"}).Err(); status.Code(err) != codes.Internal {
		t.Errorf("a refusal with code OK is %v", err)
	}
}

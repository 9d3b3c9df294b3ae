package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"

	"github.com/spillway/spillway/pkg/rpc"
)

// Handler runs one job. See the package comment for what its error means.
type Handler func(ctx context.Context, job *Job) error

// Middleware wraps every handler. The first one given to Use is the outermost.
type Middleware func(next Handler) Handler

// Why a job's context has ended: context.Cause of it is one of these.
var (
	// ErrLeaseLost: the lease was not renewed in time or was refused; another worker may run the job.
	ErrLeaseLost = errors.New("worker: lease lost")
	// ErrRunTimeout: the job's run timeout has passed.
	ErrRunTimeout = fmt.Errorf("worker: run timeout: %w", context.DeadlineExceeded)
	// ErrRevoked: an operator cancelled the job or its source.
	ErrRevoked = errors.New("worker: revoked")
	// ErrStopping: the worker stops and the job did not end within Config.Drain.
	ErrStopping = errors.New("worker: stopping")
)

const (
	maxErrorText = 2 << 10 // of Attempt.error
	maxErrorType = 128
	maxSnooze    = 30 * 24 * time.Hour
)

type snoozeError struct{ delay time.Duration }

func (e snoozeError) Error() string { return "snoozed for " + e.delay.String() }

// Snooze returns an error that asks for the job again after d (0 to 30 days), at no cost of an attempt.
func Snooze(d time.Duration) error { return snoozeError{min(max(0, d), maxSnooze)} }

type permanentError struct{ err error }

func (e permanentError) Error() string { return e.err.Error() }
func (e permanentError) Unwrap() error { return e.err }

// Permanent marks an error that trying again cannot mend: the job goes to the dead letters. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanentError{err}
}

// reasonError is an attempt's failure with a reason in band.
type reasonError struct{ reason, text string }

func (e *reasonError) Error() string { return e.text }

// JSON makes a handler of a function that takes the payload decoded from JSON. A payload that cannot be decoded is a
// permanent failure.
func JSON[T any](f func(ctx context.Context, job *Job, payload T) error) Handler {
	return func(ctx context.Context, job *Job) error {
		var v T
		if err := json.Unmarshal(job.Payload, &v); err != nil {
			return Permanent(fmt.Errorf("worker: decode JSON payload: %w", err))
		}
		return f(ctx, job, v)
	}
}

// Proto makes a handler of a function that takes the payload decoded from protobuf; T is a generated message's pointer
// type. A payload that cannot be decoded is a permanent failure.
func Proto[T proto.Message](f func(ctx context.Context, job *Job, payload T) error) Handler {
	var zero T
	kind := zero.ProtoReflect().Type()
	return func(ctx context.Context, job *Job) error {
		v := kind.New().Interface().(T)
		if err := proto.Unmarshal(job.Payload, v); err != nil {
			return Permanent(fmt.Errorf("worker: decode protobuf payload: %w", err))
		}
		return f(ctx, job, v)
	}
}

// broken is the failure of a handler that did not return: it panicked, or ended its goroutine.
func broken(panicked any) error {
	if panicked == nil {
		panicked = "the handler called runtime.Goexit"
	}
	return &reasonError{rpc.ReasonHandlerPanic, fmt.Sprintf("panic: %v\n%s", panicked, debug.Stack())}
}

// outcome translates what the handler returned into the result to report. cause is why the context ended, if it has.
func outcome(err, cause error) *schedulerv1.Result {
	r := &schedulerv1.Result{Kind: schedulerv1.ResultKind_RESULT_KIND_SUCCESS}
	if err == nil {
		return r
	}
	var snooze snoozeError
	var permanent permanentError
	switch {
	case errors.As(err, &snooze):
		r.Kind, r.Delay = schedulerv1.ResultKind_RESULT_KIND_SNOOZE, newDuration(snooze.delay)
		return r
	case errors.As(err, &permanent):
		r.Kind = schedulerv1.ResultKind_RESULT_KIND_PERMANENT
	default:
		r.Kind = schedulerv1.ResultKind_RESULT_KIND_RETRY
	}
	r.Error, r.ErrorType = cut(err.Error(), maxErrorText), cut(errorType(err, cause), maxErrorType)
	return r
}

// errorType names the kind of an error: a reason in band, else the Go type at the root of its chain.
func errorType(err, cause error) string {
	var reason *reasonError
	if errors.As(err, &reason) {
		return reason.reason
	}
	if errors.Is(cause, ErrRunTimeout) {
		return rpc.ReasonRunTimeout
	}
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return reflect.TypeOf(err).String()
		}
		err = next
	}
}

// cut makes text fit n bytes of valid UTF-8, which a proto string must be.
func cut(text string, n int) string {
	if len(text) > n {
		text = text[:n]
	}
	return strings.ToValidUTF8(text, "")
}

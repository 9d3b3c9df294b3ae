package rpc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	// maxViolations bounds how much a refusal can grow; a batch of a thousand
	// bad jobs is told of the first ones.
	maxViolations = 64
	// afterExpiry is how long a stream lives on when its token has expired
	// (S5): time to drain and come back with a fresh one.
	afterExpiry = time.Minute

	healthPrefix = "/grpc.health.v1.Health/"
	scheme       = "bearer "
)

// gate stands between the wire and the handlers. It has no state of its own.
type gate struct {
	roles     map[string]Role // complete and fixed once the server is made
	verifier  *Verifier
	validator protovalidate.Validator
	deadline  time.Duration
	calls     *tracing
	log       *slog.Logger
}

func (g *gate) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	if !g.calls.off() && !strings.HasPrefix(info.FullMethod, healthPrefix) {
		var c *call
		ctx, c = g.calls.server(ctx, info.FullMethod)
		defer func() { c.end(ctx, err) }()
	}
	defer g.contain(ctx, info.FullMethod, &err)
	// WithTimeout keeps an earlier deadline of the caller's and cuts a later.
	ctx, cancel := context.WithTimeout(ctx, g.deadline)
	defer cancel()
	caller, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	if caller != nil {
		ctx = context.WithValue(ctx, callerKey{}, caller)
	}
	if err := g.validate(req); err != nil {
		return nil, err
	}
	resp, err = handler(ctx, req)
	if err != nil {
		return nil, g.outward(ctx, info.FullMethod, err)
	}
	return resp, nil
}

func (g *gate) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	ctx := ss.Context()
	defer g.contain(ctx, info.FullMethod, &err)
	caller, err := g.admit(ctx, info.FullMethod)
	if err != nil {
		return err
	}
	if caller != nil {
		expires, cancel := context.WithDeadline(ctx, caller.Expires.Add(afterExpiry))
		defer cancel()
		ctx = context.WithValue(expires, callerKey{}, caller)
	}
	if err := handler(srv, &checkedStream{ServerStream: ss, ctx: ctx, gate: g}); err != nil {
		return g.outward(ctx, info.FullMethod, err)
	}
	return nil
}

// checkedStream gives a handler the caller and only valid messages.
type checkedStream struct {
	grpc.ServerStream
	ctx  context.Context
	gate *gate
}

func (s *checkedStream) Context() context.Context { return s.ctx }

func (s *checkedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	return s.gate.validate(m)
}

// admit refuses compressed calls and verifies the token and the role. The
// caller is nil for a method that is open to all.
func (g *gate) admit(ctx context.Context, method string) (*Caller, error) {
	// Exporters of telemetry register gzip for the whole process. A unary
	// request is unpacked before this, bounded by MaxReceive; a stream's is not.
	if s, ok := grpc.ServerTransportStreamFromContext(ctx).(interface{ RecvCompress() string }); ok {
		if encoding := s.RecvCompress(); encoding != "" && encoding != "identity" {
			return nil, status.Errorf(codes.Unimplemented, "compression is not supported")
		}
	}
	if strings.HasPrefix(method, healthPrefix) {
		return nil, nil
	}
	token, ok := bearerToken(ctx)
	if !ok {
		return nil, noCredentials()
	}
	caller, err := g.verifier.Verify(token, time.Now())
	switch {
	case errors.Is(err, ErrNotReady):
		return nil, (&Error{Code: codes.Unavailable, Reason: ReasonBrokerUnavailable, Retry: time.Second,
			Message: "credentials cannot be checked yet"}).Err()
	case err != nil:
		g.log.DebugContext(ctx, "token refused", "method", method, "error", err)
		return nil, noCredentials()
	}
	// A method that is not in the table cannot be reached: NewServer refused.
	if role := g.roles[method]; role == "" || !caller.Has(role) {
		return nil, (&Error{Code: codes.PermissionDenied, Reason: ReasonNotAllowed, Message: "not allowed"}).Err()
	}
	return &caller, nil
}

func noCredentials() error {
	return (&Error{Code: codes.Unauthenticated, Reason: ReasonNoCredentials, Message: "a valid bearer token is required"}).Err()
}

// bearerToken is the one token of the call; two are as bad as none.
func bearerToken(ctx context.Context) (string, bool) {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 || len(values[0]) <= len(scheme) || !strings.EqualFold(values[0][:len(scheme)], scheme) {
		return "", false
	}
	return values[0][len(scheme):], true
}

// validate holds a message to the rules in its proto.
func (g *gate) validate(m any) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return (&Error{Code: codes.InvalidArgument, Reason: ReasonInvalid, Message: "not a protobuf message"}).Err()
	}
	err := g.validator.Validate(msg)
	if err == nil {
		return nil
	}
	if e := invalid(err); e != nil {
		return e.Err()
	}
	return err // a rule that does not compile: INTERNAL, through outward or contain
}

// invalid turns a protovalidate error into the refusal that names every field;
// nil when err is something else.
func invalid(err error) *Error {
	var bad *protovalidate.ValidationError
	if !errors.As(err, &bad) {
		return nil
	}
	e := &Error{Code: codes.InvalidArgument, Reason: ReasonInvalid}
	var fields []string
	for i, v := range bad.Violations {
		if i == maxViolations {
			e.Message = fmt.Sprintf(" and %d more", len(bad.Violations)-i)
			break
		}
		field := protovalidate.FieldPathString(v.Proto.GetField())
		e.Violations = append(e.Violations, Violation{Field: field, Description: v.Proto.GetMessage(), Rule: v.Proto.GetRuleId()})
		fields = append(fields, field)
	}
	e.Message = "invalid: " + strings.Join(fields, ", ") + e.Message
	return e
}

// outward lets through what is meant for callers and replaces the rest.
func (g *gate) outward(ctx context.Context, method string, err error) error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.Err()
	}
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Err() // without the text it was wrapped in
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return status.FromContextError(err).Err()
	}
	id := requestID(ctx)
	g.log.ErrorContext(ctx, "internal error", "method", method, "request_id", id, "error", err)
	return internal(id)
}

// contain ends the call of a handler that panicked, and only that.
func (g *gate) contain(ctx context.Context, method string, err *error) {
	r := recover()
	if r == nil {
		return
	}
	id := requestID(ctx)
	g.log.ErrorContext(ctx, "handler panicked", "method", method, "request_id", id, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	*err = internal(id)
}

func internal(id string) error {
	return status.Errorf(codes.Internal, "internal error (request %s)", id)
}

// requestID ties an answer to a log line: the trace's id where there is one.
func requestID(ctx context.Context) string {
	if s := trace.SpanContextFromContext(ctx); s.HasTraceID() {
		return s.TraceID().String()
	}
	return rand.Text()
}

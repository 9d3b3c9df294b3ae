package rpc

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// maxViolations and maxField bound how much a refusal can grow: a path
	// holds keys of maps, which are the caller's.
	maxViolations = 64
	maxField      = 256
	// maxElements bounds what it costs to find all violations, each of which is
	// a kilobyte: a request with more elements in its lists and maps is told of
	// the first one only. The most that a valid one holds, a batch's jobs, are
	// judged one by one behind the gate.
	maxElements = 1024
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

// verdict is what the front has found of a call's credentials.
type verdict struct {
	caller *Caller
	err    error
}

type verdictKey struct{}

// before judges the credentials of a unary method's calls before handle reads
// their requests. Who is turned away passes the chain without one, so that the
// call is traced and counted like any other.
func (g *gate) before(method string, handle grpc.MethodHandler) grpc.MethodHandler {
	return func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (resp any, err error) {
		defer g.contain(ctx, method, &err)
		var v verdict
		v.caller, v.err = g.admit(ctx, method)
		ctx = context.WithValue(ctx, verdictKey{}, v)
		if v.err != nil {
			return interceptor(ctx, nil, &grpc.UnaryServerInfo{Server: srv, FullMethod: method}, nil)
		}
		return handle(srv, ctx, dec, interceptor)
	}
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
	judged, ok := ctx.Value(verdictKey{}).(verdict)
	if !ok { // of a service that was not registered at the front: health
		judged.caller, judged.err = g.admit(ctx, info.FullMethod)
	}
	if judged.err != nil {
		return nil, judged.err
	}
	if judged.caller != nil {
		ctx = context.WithValue(ctx, callerKey{}, judged.caller)
	}
	if err := g.validate(req, true); err != nil {
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
	return s.gate.validate(m, false)
}

// admit refuses compressed calls and verifies the token and the role. The
// caller is nil for a method that is open to all.
func (g *gate) admit(ctx context.Context, method string) (*Caller, error) {
	// Exporters of telemetry register gzip for the whole process. Nothing is
	// unpacked before this.
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

// firstOnly makes the validator stop at the first violation.
var firstOnly = []protovalidate.ValidationOption{protovalidate.WithFailFast()}

// validate holds a message to the rules in its proto. What a refusal costs is
// bounded whatever is in the message: all asks for every violation of it, which
// are looked for only if it is small.
func (g *gate) validate(m any, all bool) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return (&Error{Code: codes.InvalidArgument, Reason: ReasonInvalid, Message: "not a protobuf message"}).Err()
	}
	err := g.validator.Validate(msg, firstOnly...)
	if err == nil {
		return nil
	}
	if all && elements(msg.ProtoReflect(), maxElements) < maxElements {
		if every := g.validator.Validate(msg); every != nil {
			err = every
		}
	}
	if e := invalid(err); e != nil {
		return e.Err()
	}
	return err // a rule that does not compile: INTERNAL, through outward or contain
}

// elements counts what is in the lists and maps of a message and of the
// messages in it, up to a limit.
func elements(m protoreflect.Message, limit int) (n int) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap():
			n += value.Map().Len()
			if field.MapValue().Message() != nil {
				value.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					n += elements(v.Message(), limit-n)
					return n < limit
				})
			}
		case field.IsList():
			list := value.List()
			n += list.Len()
			for i := 0; field.Message() != nil && i < list.Len() && n < limit; i++ {
				n += elements(list.Get(i).Message(), limit-n)
			}
		case field.Message() != nil:
			n += elements(value.Message(), limit-n)
		}
		return n < limit
	})
	return n
}

// invalid turns a protovalidate error into the refusal that names the fields;
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
		if len(field) > maxField {
			field = strings.ToValidUTF8(field[:maxField], "") + "…"
		}
		e.Violations = append(e.Violations, Violation{Field: field, Description: v.Proto.GetMessage(), Rule: v.Proto.GetRuleId()})
		if !slices.Contains(fields, field) { // a field may break several rules
			fields = append(fields, field)
		}
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

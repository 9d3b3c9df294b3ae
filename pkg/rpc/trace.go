package rpc

import (
	"context"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/spillway/spillway/pkg/telemetry"
)

// tracing makes a span and a measurement of each unary call, and nothing at
// all when nobody looks. Streams have none: Work lasts for hours, and what
// travels on it carries the trace of its own job.
//
// What comes in from outside is linked and never a parent, so that no caller
// can merge or force traces (S38), unless the telemetry says that all callers
// are ours. Only W3C trace context is read and written:
// baggage ends here (S39).
type tracing struct {
	telemetry *telemetry.Telemetry
	kind      trace.SpanKind
	calls     metric.Float64Histogram // nil: not metered
}

// callBuckets are the conventions' bounds, in seconds.
var callBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10}

func newTracing(t *telemetry.Telemetry, kind trace.SpanKind, name string) (*tracing, error) {
	tr := &tracing{telemetry: t, kind: kind}
	if !t.Metering() {
		return tr, nil
	}
	var err error
	tr.calls, err = t.Meter().Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription("Duration of calls."),
		metric.WithExplicitBucketBoundaries(callBuckets...))
	return tr, err
}

// off tells that a call need not be looked at.
func (t *tracing) off() bool { return !t.telemetry.Tracing() && t.calls == nil }

// call is one call that is being traced or metered.
type call struct {
	*tracing
	span  trace.Span
	began time.Time
	attrs []attribute.KeyValue
}

func (t *tracing) begin(ctx context.Context, method string, opts ...trace.SpanStartOption) (context.Context, *call) {
	c := &call{tracing: t, began: time.Now(), attrs: []attribute.KeyValue{
		telemetry.KeyRPCSystem.String("grpc"), telemetry.KeyRPCMethod.String(method[1:]),
	}}
	ctx, c.span = t.telemetry.Tracer().Start(ctx, method[1:], append(opts, trace.WithSpanKind(t.kind), trace.WithAttributes(c.attrs...))...)
	return ctx, c
}

func (c *call) end(ctx context.Context, err error) {
	code := status.Code(err)
	outcome := telemetry.KeyRPCStatus.String(statusName(code))
	if c.calls != nil {
		c.calls.Record(ctx, time.Since(c.began).Seconds(), metric.WithAttributes(append(slices.Clip(c.attrs), outcome)...))
	}
	c.span.SetAttributes(outcome)
	if reason := ReasonOf(err); reason != "" {
		c.span.SetAttributes(telemetry.KeyReason.String(reason))
	}
	if c.kind == trace.SpanKindClient && code != codes.OK || isFault(code) {
		c.span.SetStatus(otelcodes.Error, "")
	}
	c.span.End()
}

// server begins the call of a handler; the caller's context becomes a link, or
// the parent of callers that are ours.
func (t *tracing) server(ctx context.Context, method string) (context.Context, *call) {
	var remote trace.SpanContext
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		remote = trace.SpanContextFromContext(t.telemetry.Propagator().Extract(context.Background(), carrier(md)))
	}
	switch {
	case !remote.IsValid():
		return t.begin(ctx, method, trace.WithNewRoot())
	case t.telemetry.JoinsCallers():
		return t.begin(trace.ContextWithRemoteSpanContext(ctx, remote), method)
	}
	return t.begin(ctx, method, trace.WithNewRoot(), trace.WithLinks(trace.Link{SpanContext: remote}))
}

// client is the interceptor of Dial.
func (t *tracing) client(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, c := t.begin(ctx, method)
	md, ok := metadata.FromOutgoingContext(ctx)
	if !ok {
		md = metadata.MD{}
	}
	t.telemetry.Propagator().Inject(ctx, carrier(md)) // md is a copy
	err := invoke(metadata.NewOutgoingContext(ctx, md), method, req, reply, cc, opts...)
	c.end(ctx, err)
	return err
}

// isFault tells the codes that are the server's doing and not its caller's.
func isFault(code codes.Code) bool {
	switch code {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	}
	return false
}

// statusName is a code in the spelling of the conventions: NOT_FOUND.
func statusName(code codes.Code) string {
	switch code {
	case codes.OK:
		return "OK"
	case codes.Canceled:
		return "CANCELLED"
	}
	var b strings.Builder
	for i, r := range code.String() {
		if i > 0 && 'A' <= r && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToUpper(b.String())
}

// carrier is metadata as a propagator sees it.
type carrier metadata.MD

func (c carrier) Get(key string) string {
	if values := metadata.MD(c).Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

func (c carrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}

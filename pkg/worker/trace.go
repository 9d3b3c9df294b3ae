package worker

import (
	"context"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/telemetry"
)

// creation is the context in which a job was enqueued, and when it was granted.
type creation struct {
	traceparent, tracestate string
	grantedAt               *timestamppb.Timestamp
}

// trace returns the context that the handler gets and what ends its span. Without a tracer it costs nothing but the
// parent of what the handler enqueues.
func (w *Worker) trace(l *lease) (ctx context.Context, finish func(error)) {
	ctx = client.WithParent(l.ctx, client.Parent{JobID: l.job.ID, Source: l.job.Source, Priority: l.job.Priority, Depth: int32(l.job.Depth)})
	if !w.cfg.Telemetry.Tracing() {
		return ctx, func(error) {}
	}
	tracer, now := w.cfg.Telemetry.Tracer(), time.Now()
	carrier := propagation.MapCarrier{"traceparent": l.parent.traceparent, "tracestate": l.parent.tracestate}
	remote := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
	attrs := []attribute.KeyValue{
		telemetry.KeyJobID.String(l.job.ID), telemetry.KeySource.String(l.job.Source), telemetry.KeyTenant.String(l.job.Tenant),
		telemetry.KeyType.String(l.job.Type), telemetry.KeyAttempt.Int(l.job.Attempt),
	}
	opts := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(now), trace.WithAttributes(attrs...),
		trace.WithAttributes(telemetry.KeySystem.String("kafka"), telemetry.KeyOperation.String("process"), telemetry.KeyOperationType.String("process")),
	}
	if remote.IsValid() {
		opts = append(opts, trace.WithLinks(trace.Link{SpanContext: remote}))
	}
	if remote.IsValid() && telemetry.Joined(int32(l.job.Attempt), l.job.AcceptedAt, now) {
		ctx = trace.ContextWithRemoteSpanContext(ctx, remote)
		w.traceWait(ctx, tracer, l, attrs)
	} else {
		opts = append(opts, trace.WithNewRoot())
	}
	ctx, span := tracer.Start(ctx, telemetry.SpanProcess(l.job.Type), opts...)
	return ctx, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, "")
			span.SetAttributes(telemetry.KeyErrorType.String(errorType(err, context.Cause(ctx))))
		}
		span.End()
	}
}

// traceWait shows the wait of a job as a span of its own, from its acceptance to its grant, with its causes in seconds.
func (w *Worker) traceWait(ctx context.Context, tracer trace.Tracer, l *lease, attrs []attribute.KeyValue) {
	if l.job.AcceptedAt.IsZero() || l.parent.grantedAt == nil {
		return
	}
	for _, wait := range l.waits {
		cause := strings.ToLower(strings.TrimPrefix(wait.GetCause().String(), "WAIT_CAUSE_"))
		attrs = append(attrs, attribute.Float64(string(telemetry.KeyWait)+"."+cause, wait.GetDuration().AsDuration().Seconds()))
	}
	granted := l.parent.grantedAt.AsTime()
	if granted.Before(l.job.AcceptedAt) {
		granted = l.job.AcceptedAt // the clocks of two replicas
	}
	_, span := tracer.Start(ctx, telemetry.SpanQueueWait, trace.WithTimestamp(l.job.AcceptedAt), trace.WithAttributes(attrs...))
	span.End(trace.WithTimestamp(granted))
}

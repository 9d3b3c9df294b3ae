package publish

import (
	"context"
	"strconv"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/telemetry"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

// topic is the topic's name in spans, without the prefix.
var topic = kafka.Topics{}.Notifications()

// tracer makes the span of every record: the record carries its context, and deliveries are its children.
type tracer struct{ telemetry *telemetry.Telemetry }

// span ends with the record's result; the zero value is no span.
type span struct{ trace.Span }

// send starts the span of a record. Its attributes are there from the start, because they decide whether it is sampled.
func (t tracer) send(ctx context.Context, id string, partition int, d *core.Draft) (context.Context, span) {
	if !t.telemetry.Tracing() {
		return ctx, span{}
	}
	ctx, s := t.telemetry.Tracer().Start(ctx, telemetry.SpanSend(topic), trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		telemetry.KeySource.String(d.Source), telemetry.KeyTenant.String(d.Tenant), telemetry.KeySystem.String("kafka"),
		telemetry.KeyOperation.String("send"), telemetry.KeyOperationType.String("send"), telemetry.KeyDestination.String(topic),
		telemetry.KeyPartition.String(strconv.Itoa(partition)), telemetry.KeyMessageID.String(id),
	))
	if d.JobID != "" {
		s.SetAttributes(telemetry.KeyJobID.String(d.JobID))
	}
	return ctx, span{s}
}

// inject writes the trace context into a record's headers; without one it writes nothing.
func (t tracer) inject(ctx context.Context, headers *[]kafka.Header) {
	if trace.SpanContextFromContext(ctx).IsValid() {
		t.telemetry.Propagator().Inject(ctx, envelope.Carrier{Headers: headers})
	}
}

func (s span) end(err error) {
	if s.Span == nil {
		return
	}
	if err != nil {
		s.SetStatus(codes.Error, string(fate(err).Reason))
	}
	s.End()
}

// meter counts what becomes of notifications; nil when nobody looks.
type meter struct{ accepted, refused metric.Int64Counter }

func newMeter(t *telemetry.Telemetry) (*meter, error) {
	if !t.Metering() {
		return nil, nil
	}
	accepted, err := t.Meter().Int64Counter(telemetry.MetricPublished, metric.WithDescription("Notifications that were made durable."), metric.WithUnit("{notification}"))
	if err != nil {
		return nil, err
	}
	refused, err := t.Meter().Int64Counter(telemetry.MetricUnpublished, metric.WithDescription("Notifications that were refused, or whose fate is unknown."), metric.WithUnit("{notification}"))
	if err != nil {
		return nil, err
	}
	return &meter{accepted, refused}, nil
}

// count adds one result. Only registered sources become a label: others are refused before anybody looked them up, and could be invented without
// end.
func (m *meter) count(ctx context.Context, source string, refusal *core.Refusal) {
	switch {
	case m == nil:
	case refusal == nil:
		m.accepted.Add(ctx, 1, metric.WithAttributes(telemetry.KeySource.String(source)))
	case refusal.Reason == core.SourceBlocked || refusal.Reason == core.QuotaExceeded || refusal.Reason == core.Overloaded || refusal.Reason == core.FateUnknown:
		m.refused.Add(ctx, 1, metric.WithAttributes(telemetry.KeySource.String(source), telemetry.KeyReason.String(string(refusal.Reason))))
	default:
		m.refused.Add(ctx, 1, metric.WithAttributes(telemetry.KeyReason.String(string(refusal.Reason))))
	}
}

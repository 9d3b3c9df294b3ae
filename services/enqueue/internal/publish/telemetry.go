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
	"github.com/spillway/spillway/services/enqueue/internal/core"
)

// tracer makes the span of every record: its context is the creation context of the job, which the record carries on every hop.
type tracer struct{ telemetry *telemetry.Telemetry }

// span ends with the record's result; the zero value is no span.
type span struct{ trace.Span }

// send starts the span of a record. Its attributes are there from the start, because they decide whether it is sampled.
func (t tracer) send(ctx context.Context, id string, home core.Home, job *core.Job, place *core.Placement) (context.Context, span) {
	if !t.telemetry.Tracing() {
		return ctx, span{}
	}
	ctx, s := t.telemetry.Tracer().Start(ctx, telemetry.SpanSend(home.Topic), trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
		telemetry.KeyJobID.String(id), telemetry.KeySource.String(job.Source), telemetry.KeyTenant.String(job.Tenant), telemetry.KeyType.String(job.Type),
		telemetry.KeyPriority.String(place.Own.String()), telemetry.KeySystem.String("kafka"), telemetry.KeyOperation.String("send"),
		telemetry.KeyOperationType.String("send"), telemetry.KeyDestination.String(home.Topic),
		telemetry.KeyPartition.String(strconv.Itoa(int(home.Partition))), telemetry.KeyMessageID.String(id),
	))
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

// meter counts what becomes of jobs; nil when nobody looks.
type meter struct{ accepted, refused metric.Int64Counter }

func newMeter(t *telemetry.Telemetry) (*meter, error) {
	if !t.Metering() {
		return nil, nil
	}
	accepted, err := t.Meter().Int64Counter(telemetry.MetricAccepted, metric.WithDescription("Jobs that were made durable."), metric.WithUnit("{job}"))
	if err != nil {
		return nil, err
	}
	refused, err := t.Meter().Int64Counter(telemetry.MetricRefused, metric.WithDescription("Jobs that were refused, or whose fate is unknown."), metric.WithUnit("{job}"))
	if err != nil {
		return nil, err
	}
	return &meter{accepted, refused}, nil
}

// count adds one result. Only registered sources become a label: others are refused before anybody looked them up, and could be invented
// without end.
func (m *meter) count(ctx context.Context, job *core.Job, place *core.Placement, result *core.Result) {
	switch {
	case m == nil:
	case result.Refusal == nil:
		m.accepted.Add(ctx, 1, metric.WithAttributes(telemetry.KeySource.String(job.Source), telemetry.KeyPriority.String(place.Topic.String()),
			telemetry.KeyVerdict.String(verdict(result.Verdict))))
	case result.Refusal.Reason == core.UnknownSource || result.Refusal.Reason == core.NotAllowed || result.Refusal.Reason == core.PayloadTooLarge:
		m.refused.Add(ctx, 1, metric.WithAttributes(telemetry.KeyReason.String(string(result.Refusal.Reason))))
	default:
		m.refused.Add(ctx, 1, metric.WithAttributes(telemetry.KeySource.String(job.Source), telemetry.KeyReason.String(string(result.Refusal.Reason))))
	}
}

func verdict(v core.Verdict) string {
	switch v {
	case core.Spilled:
		return "spilled"
	case core.Delayed:
		return "delayed"
	default:
		return "accepted"
	}
}

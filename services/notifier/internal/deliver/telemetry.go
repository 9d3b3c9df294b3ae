package deliver

import (
	"context"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/telemetry"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

// class is the delivery class as clients know it.
func class(c notifierv1.DeliveryClass) string {
	switch c {
	case notifierv1.DeliveryClass_DELIVERY_CLASS_STATE:
		return "STATE"
	case notifierv1.DeliveryClass_DELIVERY_CLASS_EPHEMERAL:
		return "EPHEMERAL"
	}
	return "EVENT"
}

// spans are those of the notifications of one batch whose senders are traced; nil: none is.
type spans struct {
	room *Room
	list map[int]*span // by their entries
}

type span struct {
	trace.Span
	sockets int
}

func (r *Room) spans() *spans {
	if !r.ports.Telemetry.Tracing() {
		return nil
	}
	return &spans{room: r, list: map[int]*span{}}
}

// begin starts the span of an entry, in the trace of its record, if that is recorded.
func (s *spans) begin(entry, partition int, m *kafka.Message, n *logv1.Notification) {
	if s == nil {
		return
	}
	remote := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), envelope.Carrier{Headers: &m.Headers}))
	if !remote.IsSampled() {
		return
	}
	attributes := []attribute.KeyValue{
		telemetry.KeySource.String(n.GetSource()), telemetry.KeyTenant.String(n.GetTenant()),
		telemetry.KeySystem.String("kafka"), telemetry.KeyOperation.String("deliver"), telemetry.KeyOperationType.String("process"),
		telemetry.KeyDestination.String("notifications"), telemetry.KeyPartition.String(strconv.Itoa(partition)), telemetry.KeyMessageID.String(n.GetId()),
	}
	if n.GetJobId() != "" {
		attributes = append(attributes, telemetry.KeyJobID.String(n.GetJobId()))
	}
	options := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(attributes...), trace.WithLinks(trace.Link{SpanContext: remote}),
	}
	ctx := context.Background()
	if telemetry.Joined(1, n.GetAt().AsTime(), time.Now()) { // not what a replica that starts reads again of long ago
		ctx = trace.ContextWithRemoteSpanContext(ctx, remote)
	} else {
		options = append(options, trace.WithNewRoot())
	}
	_, started := s.room.ports.Telemetry.Tracer().Start(ctx, telemetry.SpanDeliver, options...)
	s.list[entry] = &span{Span: started}
}

// took counts a socket for entries that it took.
func (s *spans) took(entries []int) {
	if s == nil || len(s.list) == 0 {
		return
	}
	for _, n := range entries {
		if one := s.list[n]; one != nil {
			one.sockets++
		}
	}
}

func (s *spans) end() {
	if s == nil {
		return
	}
	for _, one := range s.list {
		one.SetAttributes(telemetry.KeySessions.Int(one.sockets))
		one.End()
	}
}

// meters count what becomes of sessions and notifications. Those of nobody count nothing.
type meters struct {
	on                                                          bool
	written, behind, gaps, closed, away, skipped, notUnderstood metric.Int64Counter
	ages                                                        metric.Float64Histogram
}

func newMeters(r *Room) meters {
	if !r.ports.Telemetry.Metering() {
		return meters{}
	}
	meter := r.ports.Telemetry.Meter()
	count := func(name, text, unit string) metric.Int64Counter {
		c, _ := meter.Int64Counter(name, metric.WithDescription(text), metric.WithUnit(unit)) // what is returned with an error counts nothing
		return c
	}
	m := meters{
		on:            true,
		written:       count(telemetry.MetricDelivered, "Notifications that sockets took.", "{notification}"),
		behind:        count(telemetry.MetricSlow, "Times that a session fell behind.", "{session}"),
		gaps:          count(telemetry.MetricGaps, "Gaps that clients were told of.", "{gap}"),
		closed:        count(telemetry.MetricEnded, "Sessions that the notifier ended, by close code.", "{session}"),
		away:          count(telemetry.MetricTurnedAway, "Sessions that were refused before they began.", "{session}"),
		skipped:       count(telemetry.MetricSkipped, "Notifications that nobody was given.", "{notification}"),
		notUnderstood: count(telemetry.MetricUnknown, "Frames of clients that are not known.", "{frame}"),
	}
	m.ages, _ = meter.Float64Histogram(telemetry.MetricAge, metric.WithDescription("Time from acceptance until a replica has read it."), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 60))
	_, _ = meter.Int64ObservableUpDownCounter(telemetry.MetricSessions, metric.WithDescription("Sessions."), metric.WithUnit("{session}"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(int64(r.Sessions()))
			return nil
		}))
	return m
}

func (m *meters) add(c metric.Int64Counter, n int, labels ...attribute.KeyValue) {
	if m.on && n > 0 {
		c.Add(context.Background(), int64(n), metric.WithAttributes(labels...))
	}
}

func (m *meters) delivered(n int)        { m.add(m.written, n) }
func (m *meters) slow()                  { m.add(m.behind, 1) }
func (m *meters) gap(reason string)      { m.add(m.gaps, 1, telemetry.KeyReason.String(reason)) }
func (m *meters) refused(code core.Code) { m.add(m.away, 1, telemetry.KeyCode.Int(int(code))) }
func (m *meters) skip(reason string)     { m.add(m.skipped, 1, telemetry.KeyReason.String(reason)) }
func (m *meters) unknown()               { m.add(m.notUnderstood, 1) }

// ended counts a session that was ended with a code. Code 0 is the client's or the network's doing, or a fault that is logged.
func (m *meters) ended(code core.Code) {
	if code != 0 {
		m.add(m.closed, 1, telemetry.KeyCode.Int(int(code)))
	}
}

func (m *meters) age(d time.Duration) {
	if m.on {
		m.ages.Record(context.Background(), max(0, d.Seconds()))
	}
}

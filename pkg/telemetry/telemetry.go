package telemetry

import (
	"context"
	"log/slog"
	"net/http"

	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// Telemetry is what a part of Spillway reports through. It is made once, by
// pkg/telemetry/export or by a test, and handed down in Deps; nothing reads a
// global. A nil *Telemetry reports nothing.
type Telemetry struct {
	tracing, metering bool
	joins             bool
	traces            trace.TracerProvider
	meters            metric.MeterProvider
	tracer            trace.Tracer
	metrics           http.Handler
	logs              slog.Handler
	shutdown          func(context.Context) error
}

// Config is what New is made of. Absent parts report nothing.
type Config struct {
	TracerProvider trace.TracerProvider
	MeterProvider  metric.MeterProvider
	// JoinCallers has calls go on in their callers' traces. Without it they are
	// roots of their own with a link: who calls could else force and merge traces.
	JoinCallers bool
	// Metrics serves the Prometheus text of MeterProvider.
	Metrics http.Handler
	// Logs exports log records.
	Logs slog.Handler
	// Shutdown flushes and ends the providers.
	Shutdown func(context.Context) error
}

// New makes a Telemetry of given providers.
func New(cfg Config) *Telemetry {
	t := &Telemetry{
		tracing: cfg.TracerProvider != nil, metering: cfg.MeterProvider != nil, joins: cfg.JoinCallers,
		traces: cfg.TracerProvider, meters: cfg.MeterProvider,
		metrics: cfg.Metrics, logs: cfg.Logs, shutdown: cfg.Shutdown,
	}
	if t.traces == nil {
		t.traces = tracenoop.NewTracerProvider()
	}
	if t.meters == nil {
		t.meters = metricnoop.NewMeterProvider()
	}
	t.tracer = t.traces.Tracer(Scope)
	return t
}

// Nop reports nothing and costs nothing.
func Nop() *Telemetry { return nop }

var nop = New(Config{})

func (t *Telemetry) orNop() *Telemetry {
	if t == nil {
		return nop
	}
	return t
}

// Tracing tells whether spans go anywhere. Code on the hot path asks first, so
// that nothing is prepared for nobody.
func (t *Telemetry) Tracing() bool { return t.orNop().tracing }

// Metering tells whether measurements go anywhere.
func (t *Telemetry) Metering() bool { return t.orNop().metering }

// JoinsCallers tells whether a call goes on in its caller's trace.
func (t *Telemetry) JoinsCallers() bool { return t.orNop().joins }

// TracerProvider is never nil.
func (t *Telemetry) TracerProvider() trace.TracerProvider { return t.orNop().traces }

// MeterProvider is never nil.
func (t *Telemetry) MeterProvider() metric.MeterProvider { return t.orNop().meters }

// Tracer is the one tracer of Spillway's own spans.
func (t *Telemetry) Tracer() trace.Tracer { return t.orNop().tracer }

// Meter is the one meter of Spillway's own instruments.
func (t *Telemetry) Meter() metric.Meter { return t.orNop().meters.Meter(Scope) }

// Propagator carries trace context over gRPC and in record headers. It is W3C
// trace context alone: baggage of callers ends at the edge and never reaches a
// record.
func (t *Telemetry) Propagator() propagation.TextMapPropagator { return propagation.TraceContext{} }

// Metrics serves the Prometheus text; nil when that is off.
func (t *Telemetry) Metrics() http.Handler { return t.orNop().metrics }

// Shutdown flushes what is not exported yet and ends the exporters, within
// ctx. It is the last step of a stop.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if t == nil || t.shutdown == nil {
		return nil
	}
	return t.shutdown(ctx)
}

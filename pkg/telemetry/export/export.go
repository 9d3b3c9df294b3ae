// Package export makes the providers behind pkg/telemetry: OpenTelemetry's SDK
// and exporters, as the standard OTEL_ variables ask. It belongs to main; the
// SDKs that users import do not need it.
//
// Nothing is exported unless asked for: traces, metrics and logs each by
// OTEL_{TRACES,METRICS,LOGS}_EXPORTER or by an endpoint in
// OTEL_EXPORTER_OTLP_ENDPOINT. A collector that is away costs dropped data,
// never a blocked caller: all processors have bounded queues.
package export

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"

	"github.com/spillway/spillway/pkg/telemetry"
)

const (
	// valueLimit caps an attribute, in bytes: nothing of ours is longer, and
	// an error text must not become a payload.
	valueLimit = 1 << 10
	// seriesLimit is how many label sets one instrument keeps before the rest
	// is folded into an overflow series: 2,000 sources by five priorities, in
	// about 5 MiB for a histogram. The default of 2,000 would hide the source
	// that floods.
	seriesLimit = 10_000
)

// Setting changes what Setup makes.
type Setting func(*settings)

type settings struct {
	replica    string
	prometheus bool
	join       bool
}

// Replica names the instance in the resource (service.instance.id).
func Replica(name string) Setting { return func(s *settings) { s.replica = name } }

// Prometheus serves the metrics as text, by Telemetry.Metrics.
func Prometheus() Setting { return func(s *settings) { s.prometheus = true } }

// JoinCallers has calls go on in their callers' traces (telemetry.Config).
func JoinCallers() Setting { return func(s *settings) { s.join = true } }

// Setup makes the telemetry of one process. service is its service.name unless
// OTEL_SERVICE_NAME says otherwise. When nothing is asked for the result costs
// nothing. It sets no global and does no I/O that it waits for; the exporters'
// goroutines end with Telemetry.Shutdown.
func Setup(ctx context.Context, service string, change ...Setting) (*telemetry.Telemetry, error) {
	var s settings
	for _, c := range change {
		c(&s)
	}
	if disabled() {
		return telemetry.Nop(), nil
	}
	res, err := describe(ctx, service, s.replica)
	if err != nil {
		return nil, fmt.Errorf("telemetry: resource: %w", err)
	}
	var (
		cfg  telemetry.Config
		made ends
	)
	for _, signal := range []func(context.Context, *resource.Resource, settings, *telemetry.Config, *ends) error{traces, metrics, logs} {
		if err := signal(ctx, res, s, &cfg, &made); err != nil {
			return nil, errors.Join(fmt.Errorf("telemetry: %w", err), made.shutdown(ctx))
		}
	}
	if len(made) == 0 {
		return telemetry.Nop(), nil
	}
	cfg.Shutdown, cfg.JoinCallers = made.shutdown, s.join
	return telemetry.New(cfg), nil
}

// ends are the shutdowns of what was made.
type ends []func(context.Context) error

func (e ends) shutdown(ctx context.Context) error {
	errs := make([]error, 0, len(e))
	for _, end := range e {
		errs = append(errs, end(ctx))
	}
	return errors.Join(errs...)
}

func traces(ctx context.Context, res *resource.Resource, _ settings, cfg *telemetry.Config, made *ends) error {
	if !asked("TRACES") {
		return nil
	}
	exporter, err := autoexport.NewSpanExporter(ctx)
	if err != nil {
		return fmt.Errorf("traces: %w", err)
	}
	sampler, err := samplerFromEnv()
	if err != nil {
		return errors.Join(err, exporter.Shutdown(ctx))
	}
	limits := trace.NewSpanLimits() // takes OTEL_SPAN_* and OTEL_ATTRIBUTE_*
	if limits.AttributeValueLengthLimit < 0 {
		limits.AttributeValueLengthLimit = valueLimit
	}
	provider := trace.NewTracerProvider(
		trace.WithResource(res), trace.WithBatcher(exporter), trace.WithSampler(sampler), trace.WithRawSpanLimits(limits))
	cfg.TracerProvider = provider
	*made = append(*made, provider.Shutdown)
	return nil
}

func metrics(ctx context.Context, res *resource.Resource, s settings, cfg *telemetry.Config, made *ends) error {
	opts := []metric.Option{metric.WithResource(res), metric.WithCardinalityLimit(seriesLimit)}
	if asked("METRICS") {
		reader, err := autoexport.NewMetricReader(ctx)
		if err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		opts = append(opts, metric.WithReader(reader))
	}
	if s.prometheus {
		reader, handler, err := prometheusText()
		if err != nil {
			return fmt.Errorf("prometheus: %w", err)
		}
		opts = append(opts, metric.WithReader(reader))
		cfg.Metrics = handler
	}
	if len(opts) == 2 {
		return nil
	}
	provider := metric.NewMeterProvider(opts...)
	cfg.MeterProvider = provider
	*made = append(*made, provider.Shutdown)
	return nil
}

func logs(ctx context.Context, res *resource.Resource, _ settings, cfg *telemetry.Config, made *ends) error {
	if !asked("LOGS") {
		return nil
	}
	exporter, err := autoexport.NewLogExporter(ctx)
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	provider := sdklog.NewLoggerProvider(sdklog.WithResource(res), sdklog.WithAttributeValueLengthLimit(valueLimit),
		sdklog.WithProcessor(sdklog.NewBatchProcessor(exporter)))
	cfg.Logs = &logHandler{logger: provider.Logger(telemetry.Scope, log.WithInstrumentationVersion(version()))}
	*made = append(*made, provider.Shutdown)
	return nil
}

func disabled() bool { return strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") }

// asked tells whether the environment wants a signal (TRACES, METRICS, LOGS)
// exported. autoexport alone would export everything to localhost.
func asked(signal string) bool {
	if exporter := os.Getenv("OTEL_" + signal + "_EXPORTER"); exporter != "" {
		return exporter != "none"
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

// describe makes the resource: what is said of this process with everything.
// The environment comes last and wins.
func describe(ctx context.Context, service, replica string) (*resource.Resource, error) {
	attrs := []attribute.KeyValue{
		attribute.String("service.name", service), attribute.String("service.namespace", "spillway"),
		attribute.String("service.version", version()),
	}
	if replica != "" {
		attrs = append(attrs, attribute.String("service.instance.id", replica))
	}
	res, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(), resource.WithProcessPID(),
		resource.WithAttributes(attrs...), resource.WithFromEnv())
	if errors.Is(err, resource.ErrPartialResource) {
		return res, nil // a host without a name is no reason not to start
	}
	return res, err
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		return info.Main.Version
	}
	return "unknown"
}

package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	apitrace "go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/spillway/spillway/pkg/telemetry"
)

func TestMain(m *testing.M) {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "OTEL_") {
			os.Unsetenv(name)
		}
	}
	goleak.VerifyTestMain(m)
}

func TestNothingIsExportedUnlessAsked(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"nothing":  {},
		"none":     {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
		"disabled": {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"},
	} {
		t.Run(name, func(t *testing.T) {
			for k, v := range env {
				t.Setenv(k, v)
			}
			tel, err := Setup(t.Context(), "test")
			if err != nil || tel != telemetry.Nop() {
				t.Errorf("%v, %v", tel, err)
			}
		})
	}
}

func TestEachSignalIsAskedForAlone(t *testing.T) {
	for variable, want := range map[string]string{
		"OTEL_TRACES_EXPORTER": "true false", "OTEL_METRICS_EXPORTER": "false true", "OTEL_LOGS_EXPORTER": "false false",
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv(variable, "console")
			tel, err := Setup(t.Context(), "test", Replica("r-0"))
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(tel.Tracing(), tel.Metering()); got != want || tel.Metrics() != nil {
				t.Errorf("tracing, metering: %s, want %s", got, want)
			}
			if err := tel.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// A collector that is not there must not keep a service from starting or working, and stopping takes no longer than it may.
func TestAbsentCollectorHoldsNobodyUp(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	began := time.Now()
	tel, err := Setup(t.Context(), "test")
	if err != nil || !tel.Tracing() || !tel.Metering() {
		t.Fatal(err)
	}
	for range 5000 { // more than the queue holds
		_, span := tel.Tracer().Start(t.Context(), "x")
		span.End()
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began = time.Now()
	_ = tel.Shutdown(ctx) // fails, for want of a collector
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the stop took %v", took)
	}
}

func TestSetupRefusesWhatItCannotDo(t *testing.T) {
	for variable, value := range map[string]string{
		"OTEL_TRACES_SAMPLER": "jaeger_remote", "OTEL_TRACES_SAMPLER_ARG": "2", "OTEL_LOGS_EXPORTER": "pigeon",
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv("OTEL_TRACES_EXPORTER", "console")
			t.Setenv(variable, value)
			if _, err := Setup(t.Context(), "test"); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestPrometheusText(t *testing.T) {
	tel, err := Setup(t.Context(), "test", Prometheus())
	if err != nil {
		t.Fatal(err)
	}
	counter, err := tel.Meter().Int64Counter("spillway.job.accepted")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(t.Context(), 3, metric.WithAttributes(telemetry.KeySource.String("crm")))
	w := httptest.NewRecorder()
	tel.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text, _ := io.ReadAll(w.Body)
	for _, want := range []string{`spillway_job_accepted_total{`, `spillway_source="crm"`, "go_goroutines", `service_name="test"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestEnvironmentNamesTheService(t *testing.T) {
	t.Setenv("OTEL_SERVICE_NAME", "mine")
	res, err := describe(t.Context(), "test", "r-0")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[attribute.Key]string{"service.name": "mine", "service.instance.id": "r-0", "service.namespace": "spillway"} {
		if got, _ := res.Set().Value(key); got.AsString() != want {
			t.Errorf("%s is %s", key, got.AsString())
		}
	}
}

// One decision for all traces of a job, whatever its parent says.
func TestSamplerDecidesByJob(t *testing.T) {
	for _, ratio := range []float64{0, 0.1, 0.5, 1} {
		recorder := tracetest.NewSpanRecorder()
		tracer := trace.NewTracerProvider(trace.WithSampler(newSampler(ratio)), trace.WithSpanProcessor(recorder)).Tracer("t")
		const jobs = 20000
		sampled := 0
		for i := range jobs {
			id := telemetry.KeyJobID.String(fmt.Sprintf("019cb73d-3271-7005-af92-%012x", i))
			ctx, first := tracer.Start(t.Context(), "send", apitrace.WithAttributes(id))
			_, child := tracer.Start(ctx, "process", apitrace.WithAttributes(id))
			_, retry := tracer.Start(ctx, "process", apitrace.WithNewRoot(), apitrace.WithAttributes(id))
			foreign := apitrace.ContextWithRemoteSpanContext(t.Context(), apitrace.NewSpanContext(apitrace.SpanContextConfig{
				TraceID: apitrace.TraceID{1}, SpanID: apitrace.SpanID{1}, TraceFlags: apitrace.TraceFlags(i & 1)}))
			_, parented := tracer.Start(foreign, "send", apitrace.WithAttributes(id))
			_, handler := tracer.Start(ctx, "inner") // no job of its own: as its parent
			all := []bool{first.SpanContext().IsSampled(), child.SpanContext().IsSampled(), retry.SpanContext().IsSampled(),
				parented.SpanContext().IsSampled(), handler.SpanContext().IsSampled()}
			for _, s := range all {
				if s != all[0] {
					t.Fatalf("job %d at %v: %v", i, ratio, all)
				}
			}
			if all[0] {
				sampled++
			}
		}
		if got := float64(sampled) / jobs; math.Abs(got-ratio) > 0.02 {
			t.Errorf("ratio %v samples %v", ratio, got)
		}
	}
}

// The hash is shared by processes of different releases.
func TestGoldenSamplerHash(t *testing.T) {
	if got := hash("019cb73d-3271-7005-af92-36021a0b95d7"); got != 0x8c885012d248cfac {
		t.Errorf("%#x", got)
	}
}

type logExporter struct{ lines []string }

func (e *logExporter) Export(_ context.Context, records []sdklog.Record) error {
	for _, r := range records {
		line := fmt.Sprintf("%v %s %s", r.Severity(), r.Body().AsString(), r.TraceID())
		r.WalkAttributes(func(a attribute.KeyValue) bool {
			line += fmt.Sprintf(" %s=%s", a.Key, a.Value.String())
			return true
		})
		e.lines = append(e.lines, line)
	}
	return nil
}
func (*logExporter) Shutdown(context.Context) error   { return nil }
func (*logExporter) ForceFlush(context.Context) error { return nil }

func TestLogRecordsAreExportedWhole(t *testing.T) {
	e := new(logExporter)
	provider := sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewSimpleProcessor(e)))
	logger := slog.New(&logHandler{logger: provider.Logger("t", log.WithInstrumentationVersion("1"))})
	ctx := apitrace.ContextWithSpanContext(t.Context(), apitrace.NewSpanContext(apitrace.SpanContextConfig{
		TraceID: apitrace.TraceID{1}, SpanID: apitrace.SpanID{2}}))
	logger.With("a", 1).WithGroup("g").With("b", true).WarnContext(ctx, "hello",
		"f", 1.5, "d", time.Second, slog.Group("h", "s", "x"), "err", errors.New("broken"))
	logger.Debug("not for export")
	want := "WARN hello 01000000000000000000000000000000 a=1 g.b=true g.f=1.5 g.d=1s g.h.s=x g.err=broken"
	if len(e.lines) != 1 || e.lines[0] != want {
		t.Errorf("got  %q\nwant %q", e.lines, want)
	}
}

// Off must cost nothing that a job path could notice.
func BenchmarkSpanWhenOff(b *testing.B) {
	tel := telemetry.Nop()
	b.ReportAllocs()
	for b.Loop() {
		if tel.Tracing() {
			_, span := tel.Tracer().Start(context.Background(), "x")
			span.End()
		}
	}
}

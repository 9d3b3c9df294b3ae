package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

func TestJoined(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, c := range []struct {
		attempt int32
		age     time.Duration
		want    bool
	}{{1, 0, true}, {1, joinWithin, true}, {1, joinWithin + 1, false}, {2, 0, false}, {0, 0, false}, {1, -time.Second, true}} {
		if got := Joined(c.attempt, now.Add(-c.age), now); got != c.want {
			t.Errorf("attempt %d after %v: %v", c.attempt, c.age, got)
		}
	}
}

// TestNilReportsNothing: whoever is given no telemetry can use it all the same.
func TestNilReportsNothing(t *testing.T) {
	for _, none := range []*Telemetry{nil, Nop(), New(Config{})} {
		if none.Tracing() || none.Metering() || none.Metrics() != nil {
			t.Error("reports")
		}
		_, span := none.Tracer().Start(t.Context(), "x")
		span.End()
		if span.IsRecording() {
			t.Error("records")
		}
		if _, err := none.Meter().Int64Counter("x"); err != nil {
			t.Error(err)
		}
		if err := none.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if !New(Config{TracerProvider: tracenoop.NewTracerProvider()}).Tracing() {
		t.Error("a provider that was given counts")
	}
}

func TestPropagatorDropsBaggage(t *testing.T) {
	if fields := Nop().Propagator().Fields(); !slices.Equal(fields, []string{"traceparent", "tracestate"}) {
		t.Errorf("carries %v", fields)
	}
}

func TestLogLinesCarryTheirTrace(t *testing.T) {
	var out, exported bytes.Buffer
	tel := New(Config{Logs: slog.NewTextHandler(&exported, nil)})
	log := slog.New(tel.LogHandler(slog.NewTextHandler(&out, nil))).With("a", 1)
	ctx := trace.ContextWithSpanContext(context.Background(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2},
	}))
	log.InfoContext(ctx, "in")
	log.Info("out")
	lines := strings.Split(out.String(), "\n")
	if !strings.Contains(lines[0], "trace_id=01000000000000000000000000000000 span_id=0200000000000000") || strings.Contains(lines[1], "trace_id") {
		t.Errorf("got\n%s", out.String())
	}
	if strings.Count(exported.String(), "a=1") != 2 {
		t.Errorf("exported\n%s", exported.String())
	}
}

// TestGoldenNames: dashboards, alerts and the sampler rely on these; a changed name is a breaking change.
func TestGoldenNames(t *testing.T) {
	keys := []attribute.Key{
		KeyJobID, KeySource, KeyTenant, KeyType, KeyPriority, KeyAttempt, KeyReason, KeyVerdict, KeyWait, KeySessions, KeyCode,
		KeySystem, KeyOperation, KeyOperationType, KeyDestination, KeyPartition, KeyMessageID, KeyErrorType,
	}
	var b strings.Builder
	fmt.Fprintln(&b, "scope", Scope)
	for _, name := range []string{SpanSend("jobs.default"), SpanSend("spill"), SpanQueueWait, SpanProcess("tag"), SpanDeliver} {
		fmt.Fprintln(&b, "span", name)
	}
	for _, k := range keys {
		fmt.Fprintln(&b, "key", k)
	}
	for _, m := range []string{
		MetricAccepted, MetricRefused, MetricPublished, MetricUnpublished, MetricQueueWait, MetricSessions, MetricDelivered, MetricSlow, MetricGaps, MetricEnded, MetricTurnedAway, MetricSkipped,
		MetricUnknown, MetricAge,
	} {
		fmt.Fprintln(&b, "metric", m)
	}
	want, err := os.ReadFile("testdata/names.txt")
	if err != nil || b.String() != string(want) {
		t.Errorf("%v; names are now\n%s", err, b.String())
	}
}

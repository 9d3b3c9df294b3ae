package notifier_test

import (
	"context"
	"maps"
	"slices"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/telemetry"
	"github.com/spillway/spillway/services/notifier"
)

// The record carries the context of the span that wrote it.
func TestTraceContext(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(recorder))
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		resp, err := w.publish(request("crm"))
		if err != nil {
			t.Fatal(err)
		}
		found := w.log()[envelope.Shard("user:t1:anna", shards)]
		carried := trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), envelope.Carrier{Headers: &found[0].Headers}))
		spans := map[trace.SpanID]sdktrace.ReadOnlySpan{}
		for _, span := range recorder.Ended() {
			spans[span.SpanContext().SpanID()] = span
		}
		span := spans[carried.SpanID()]
		if span == nil {
			t.Fatalf("no span is the creation context %v", carried)
		}
		if span.Name() != "send notifications" || span.SpanKind() != trace.SpanKindProducer || !slices.Contains(span.Attributes(), telemetry.KeyMessageID.String(resp.GetId())) ||
			!slices.Contains(span.Attributes(), telemetry.KeySource.String("crm")) || !slices.Contains(span.Attributes(), telemetry.KeyTenant.String("t1")) {
			t.Errorf("span %s %s %v", span.Name(), span.SpanKind(), span.Attributes())
		}
		if parent := spans[span.Parent().SpanID()]; parent == nil || parent.SpanKind() != trace.SpanKindServer || parent.Name() != "spillway.notifier.v1.NotifierService/Publish" {
			t.Errorf("parent %v", parent)
		}
	}, func(_ *notifier.Config, d *notifier.Deps) {
		d.Telemetry = telemetry.New(telemetry.Config{TracerProvider: provider})
	})
}

func TestCounters(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		w.register("slow", rate(1))
		for _, source := range []string{"crm", "crm", "slow", "slow", "stranger-1", "stranger-2"} {
			w.publish(request(source))
		}
		var all metricdata.ResourceMetrics
		if err := reader.Collect(w.ctx, &all); err != nil {
			t.Fatal(err)
		}
		got := map[string]int64{}
		for _, scope := range all.ScopeMetrics {
			for _, m := range scope.Metrics {
				if sum, ok := m.Data.(metricdata.Sum[int64]); ok && (m.Name == "spillway.notification.accepted" || m.Name == "spillway.notification.refused") {
					for _, point := range sum.DataPoints {
						got[m.Name+" "+point.Attributes.Encoded(attribute.DefaultEncoder())] += point.Value
					}
				}
			}
		}
		want := map[string]int64{
			"spillway.notification.accepted spillway.source=crm":                                2,
			"spillway.notification.accepted spillway.source=slow":                               1,
			"spillway.notification.refused spillway.reason=QUOTA_EXCEEDED,spillway.source=slow": 1,
			"spillway.notification.refused spillway.reason=NOT_ALLOWED":                         2, // names that anybody can invent are no labels
		}
		if !maps.Equal(got, want) {
			t.Errorf("counted %v", got)
		}
	}, func(_ *notifier.Config, d *notifier.Deps) {
		d.Telemetry = telemetry.New(telemetry.Config{MeterProvider: provider})
	})
}

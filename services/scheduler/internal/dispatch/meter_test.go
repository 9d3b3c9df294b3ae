package dispatch

import (
	"context"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/spillway/spillway/pkg/telemetry"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

// TestQueueWaitIsMeasured and its labels are bounded, however many sources there are (S40).
func TestQueueWaitIsMeasured(t *testing.T) {
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader), metric.WithCardinalityLimit(2*maxLabels))
	m := newMeter(telemetry.New(telemetry.Config{MeterProvider: provider}), slog.New(slog.DiscardHandler))
	accepted := time.Unix(100, 0)
	var leases []frame.Granted
	for i := range maxLabels + 1000 {
		job := &core.Job{Source: strconv.Itoa(i), AcceptedAt: accepted}
		leases = append(leases, frame.Granted{Lease: core.Lease{Job: job, Priority: core.High}, At: accepted.Add(2 * time.Second)})
	}
	m.granted(t.Context(), leases)
	var got metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &got); err != nil {
		t.Fatal(err)
	}
	points := got.ScopeMetrics[0].Metrics[0].Data.(metricdata.Histogram[float64]).DataPoints
	if len(points) != maxLabels+1 {
		t.Fatalf("%d series", len(points))
	}
	for _, p := range points {
		source, _ := p.Attributes.Value(telemetry.KeySource)
		if priority, _ := p.Attributes.Value(telemetry.KeyPriority); priority.AsString() != "high" || p.Sum != 2*float64(p.Count) || (source.AsString() == "other") != (p.Count == 1000) {
			t.Fatalf("%v: %d waits of %f s in all", p.Attributes, p.Count, p.Sum)
		}
	}
}

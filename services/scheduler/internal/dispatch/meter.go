package dispatch

import (
	"context"
	"log/slog"
	"sync"

	"go.opentelemetry.io/otel/metric"

	"github.com/spillway/spillway/pkg/telemetry"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

// maxLabels is how many (source, priority) pairs are told apart; others are "other". The sources are registered ones, but there may be many.
const maxLabels = 5000

// waitBuckets reach from what a person does not notice to a backlog of hours, in seconds.
var waitBuckets = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 14400}

// meter measures grants; nil when nobody looks. Each session has its own goroutine at it, so that nothing is measured under the engine's
// lock.
type meter struct {
	wait metric.Float64Histogram

	mu     sync.Mutex
	labels map[label]metric.RecordOption // at most maxLabels and one for each priority of "other"
}

type label struct {
	source   string
	priority core.Priority
}

func newMeter(t *telemetry.Telemetry, log *slog.Logger) *meter {
	if !t.Metering() {
		return nil
	}
	wait, err := t.Meter().Float64Histogram(telemetry.MetricQueueWait, metric.WithUnit("s"),
		metric.WithDescription("Time from a job's acceptance to its grant."), metric.WithExplicitBucketBoundaries(waitBuckets...))
	if err != nil {
		log.Error("waits are not measured", "error", err)
		return nil
	}
	return &meter{wait: wait, labels: map[label]metric.RecordOption{}}
}

// granted measures the leases of a frame.
func (m *meter) granted(ctx context.Context, leases []frame.Granted) {
	if m == nil || len(leases) == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range leases {
		g := &leases[i]
		if g.Job.AcceptedAt.IsZero() {
			continue
		}
		of := label{g.Job.Source, g.Priority}
		if _, ok := m.labels[of]; !ok && len(m.labels) >= maxLabels {
			of.source = "other"
		}
		option, ok := m.labels[of]
		if !ok {
			option = metric.WithAttributes(telemetry.KeySource.String(of.source), telemetry.KeyPriority.String(of.priority.String()))
			m.labels[of] = option
		}
		m.wait.Record(ctx, max(0, g.At.Sub(g.Job.AcceptedAt).Seconds()), option)
	}
}

package controllog_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
)

// newLeader is a log whose leader says, while behind is set, that the log ends at 1.
type newLeader struct {
	controllog.Log
	behind atomic.Bool
}

func (l *newLeader) Fetch(ctx context.Context, topic string, partition int, from int64, maxBytes int, maxWait time.Duration) (kafka.Batch, error) {
	b, err := l.Log.Fetch(ctx, topic, partition, from, maxBytes, maxWait)
	if l.behind.Load() {
		b = kafka.Batch{HighWatermark: 1}
	}
	return b, err
}

// TestNewLeaderLagsBehind: a leader that has just been elected says for a moment that the log ends before what was read. Nothing is
// confirmed by that, and nobody stops for it; the one that goes on saying so has lost its log.
func TestNewLeaderLagsBehind(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.append(put("a", controllog.NoRevision))
		log := &newLeader{Log: w.broker.Client(t, "reader", topic)}
		f := controllog.NewFollower(log, topic, key, slog.New(slog.DiscardHandler))
		w.running.Go(func() { _ = f.Run(w.ctx) })
		<-f.Folded()

		log.behind.Store(true)
		time.Sleep(time.Second)
		at := f.Confirmed()
		time.Sleep(5 * time.Second)
		if !f.Confirmed().Equal(at) {
			t.Error("a leader that lags behind has confirmed the state")
		}
		log.behind.Store(false)
		time.Sleep(time.Second)
		if age := time.Since(f.Confirmed()); age > 500*time.Millisecond {
			t.Errorf("confirmed %s ago, %v", age, f.Ready())
		}

		log.behind.Store(true)
		time.Sleep(30 * time.Second)
		var stop *controllog.StopError
		if err := f.Ready(); !errors.As(err, &stop) || !strings.Contains(stop.Reason, "ends at 1") {
			t.Errorf("a log that lost its end: %v", err)
		}
	})
}

package controllog_test

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/produce"
)

// TestFreshUnderLoad: a process and a broker that are busy with jobs to the last core do not age the control state, because it is
// followed by a goroutine and a connection of its own. Real time; everything, the broker too, is in this one process, which is worse
// than the product.
func TestFreshUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("two seconds of real time")
	}
	broker := kafkatest.Start(t)
	broker.CreateTopic(t, topic, 1)
	broker.CreateTopic(t, "jobs", 8)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	follower := controllog.NewFollower(broker.Client(t, "control", topic), topic, key, slog.New(slog.DiscardHandler))
	running.Go(func() { follower.Run(ctx) })
	<-follower.Folded()

	jobs := broker.Client(t, "jobs", "jobs")
	producer := produce.New(jobs, produce.Config{MaxBytes: 4 << 20})
	running.Go(func() { producer.Run(ctx) })
	var work sync.Mutex
	written := 0
	for partition := range 8 {
		record := kafka.Record{Topic: "jobs", Partition: partition, Value: make([]byte, 512)}
		for range 16 { // as many callers as keep every core busy
			running.Go(func() {
				for ctx.Err() == nil {
					if _, err := producer.Produce(ctx, record); err == nil {
						work.Lock()
						written++
						work.Unlock()
					}
				}
			})
		}
		running.Go(func() {
			for next := int64(0); ctx.Err() == nil; {
				if b, err := jobs.Fetch(ctx, "jobs", partition, next, 1<<20, 100*time.Millisecond); err == nil {
					next += int64(len(b.Messages))
				}
			}
		})
	}
	var worst time.Duration
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		worst = max(worst, time.Since(follower.Confirmed()))
	}
	work.Lock()
	defer work.Unlock()
	t.Logf("%d records written in 2 s on %d cores; the state was never older than %v", written, runtime.GOMAXPROCS(0), worst)
	if worst > 500*time.Millisecond {
		t.Errorf("the state was %v old: grants would have stopped", worst)
	}
}

package enqueue_test

import (
	"sync"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/client"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

// unlimited is a source that no quota stops.
func unlimited(s *automationv1.Source) { s.Quota = &automationv1.Quota{} }

// BenchmarkEnqueueBatch is 8 callers with batches of 500 jobs of 256 B, everything in one process: broker, service, callers.
func BenchmarkEnqueueBatch(b *testing.B) {
	w, end := start(b)
	defer end()
	w.ready()
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	for _, name := range names {
		w.register(name, unlimited)
	}
	const batch = 500
	b.ResetTimer()
	began := time.Now()
	var calls sync.WaitGroup
	for _, name := range names {
		calls.Go(func() {
			for range b.N {
				req := &enqueuev1.EnqueueBatchRequest{Jobs: make([]*jobv1.JobSpec, batch)}
				for i := range req.Jobs {
					req.Jobs[i] = &jobv1.JobSpec{Source: name, Type: "tag", Payload: make([]byte, 256)}
				}
				resp, err := w.enqueue.EnqueueBatch(w.ctx, req)
				if err != nil || resp.GetItems()[batch-1].GetOk() == nil {
					b.Error(resp.GetItems()[batch-1], err)
				}
			}
		})
	}
	calls.Wait()
	b.ReportMetric(float64(b.N*batch*len(names))/time.Since(began).Seconds(), "jobs/s")
}

// BenchmarkCallers is 64 callers with one job each, over the SDK, which lets them share requests, and as they are.
func BenchmarkCallers(b *testing.B) {
	w, end := start(b)
	defer end()
	w.ready()
	w.register("a", unlimited)
	sdk := client.New(w.conn)
	defer sdk.Close()
	payload := make([]byte, 256)
	for _, way := range []struct {
		name string
		call func() error
	}{
		{"SDK", func() error {
			_, err := sdk.Enqueue(w.ctx, client.Job{Source: "a", Type: "tag", Payload: payload})
			return err
		}},
		{"unary", func() error {
			_, err := w.enqueue.Enqueue(w.ctx, &enqueuev1.EnqueueRequest{Job: &jobv1.JobSpec{Source: "a", Type: "tag", Payload: payload}})
			return err
		}},
	} {
		b.Run(way.name, func(b *testing.B) {
			began := time.Now()
			var calls sync.WaitGroup
			for range 64 {
				calls.Go(func() {
					for range b.N {
						if err := way.call(); err != nil {
							b.Error(err)
						}
					}
				})
			}
			calls.Wait()
			b.ReportMetric(float64(64*b.N)/time.Since(began).Seconds(), "jobs/s")
		})
	}
}

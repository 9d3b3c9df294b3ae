package notifier_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

// What a notification costs from the call to a log in memory and back, alone and in batches of a hundred.
func BenchmarkPublish(b *testing.B) {
	w, end := start(b)
	defer end()
	w.ready()
	w.register("crm", rate(1e6))
	b.Run("alone", func(b *testing.B) {
		var failed atomic.Int64
		b.SetParallelism(32)
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if _, err := w.publish(request("crm")); err != nil {
					failed.Add(1)
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "notifications/s")
		if failed.Load() > 0 {
			b.Fatal(failed.Load(), "failed")
		}
	})
	b.Run("batch", func(b *testing.B) {
		b.SetParallelism(4)
		b.RunParallel(func(p *testing.PB) {
			for more := p.Next(); more; {
				req := &notifierv1.PublishBatchRequest{}
				for i := 0; i < 100 && more; i++ {
					req.Notifications = append(req.Notifications, request("crm", func(r *notifierv1.PublishRequest) { r.Channel = fmt.Sprint("user:t1:", i) }))
					more = p.Next()
				}
				if _, err := w.notifier.PublishBatch(w.ctx, req); err != nil {
					b.Error(err)
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "notifications/s")
	})
}

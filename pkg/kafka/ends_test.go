package kafka_test

import (
	"context"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
)

// After a restart of the broker the pool is full of dead connections. The
// transport asks for every offset over one of its own, and where it breaks the
// answer is code -1, which was taken for the broker's last word.
func TestReadsOutliveABrokersRestart(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, broker *kafkatest.Broker, client *kafka.Client) {
		for range 20 {
			if _, err := client.Ends(ctx, "t", []int{0, 1, 2, 3}); err != nil {
				t.Fatal(err)
			}
			if _, err := client.OffsetAt(ctx, "t", 0, time.Unix(0, 0)); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Committed(ctx, "g", "t", []int{0, 1}); err != nil {
				t.Fatal(err)
			}
			broker.Cut()
		}
	})
}

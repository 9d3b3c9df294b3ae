package kafka_test

import (
	"context"
	"testing"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
)

// The transport asks for every offset by itself; when connections break, some of
// them come back as code -1, which no caller would have tried again.
func TestEndsOverBrokenConnectionsCanBeRetried(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context, broker *kafkatest.Broker, client *kafka.Client) {
		for range 20 {
			if _, err := client.Ends(ctx, "t", []int{0, 1, 2, 3}); err != nil && !kafka.Retriable(err) {
				t.Fatal(err)
			}
			broker.Cut()
		}
	})
}

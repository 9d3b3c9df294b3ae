package trace

import (
	"strings"
	"testing"

	"github.com/spillway/spillway/test/apache"
)

// TestApacheTraceFromCallerToSocket is the same on Apache Kafka.
func TestApacheTraceFromCallerToSocket(t *testing.T) {
	cluster := apache.Start(t, apache.Config{Brokers: 1})
	s := begin(t, true, "--kafka", strings.Join(cluster.Addresses(), ","))
	t.Run("Published", s.published)
	t.Run("Notified", s.notified)
}

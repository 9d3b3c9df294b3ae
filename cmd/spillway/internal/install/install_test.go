package install

import (
	"log/slog"
	"testing"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
)

func TestInstallTwiceIsOneInstallation(t *testing.T) {
	broker := kafkatest.Start(t)
	client := broker.Client(t, "install-test")
	layout := kafka.Layout{Topics: kafka.Topics{Prefix: "test."}, Shards: 2, Lanes: 2, Durability: kafka.Single}
	key, log := []byte("0123456789abcdef0123456789abcdef"), slog.New(slog.DiscardHandler)
	first, err := Run(t.Context(), client, layout, key, log)
	if err != nil || first == "" {
		t.Fatalf("cluster id %q, %v", first, err)
	}
	again, err := Run(t.Context(), client, layout, key, log)
	if err != nil || again != first {
		t.Errorf("installed again: %q, %v; want %q", again, err, first)
	}
	if ends, err := client.Ends(t.Context(), layout.Control(), []int{0}); err != nil || ends[0].Next != 1 {
		t.Errorf("control log holds %v, %v; want one record", ends[0], err)
	}
	layout.Lanes = 3
	if _, err := Run(t.Context(), client, layout, key, log); err == nil {
		t.Error("another number of lanes was installed")
	}
	layout.Lanes, layout.Prefix = 2, "other."
	if id, err := Run(t.Context(), client, layout, key, log); err != nil || id == first {
		t.Errorf("another prefix: %q, %v; want an installation of its own", id, err)
	}
}

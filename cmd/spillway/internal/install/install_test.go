package install

import (
	"bytes"
	"errors"
	"testing"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
)

func TestInstallTwiceIsOneInstallation(t *testing.T) {
	broker := kafkatest.Start(t)
	client := broker.Client(t, "install-test")
	layout := kafka.Layout{Topics: kafka.Topics{Prefix: "test."}, Shards: 2, Lanes: 2, Durability: kafka.Single}
	key := []byte("0123456789abcdef0123456789abcdef")
	first, err := Run(t.Context(), client, layout, key)
	if err != nil || first == "" {
		t.Fatalf("cluster id %q, %v", first, err)
	}
	again, err := Run(t.Context(), client, layout, key)
	if err != nil || again != first {
		t.Errorf("installed again: %q, %v; want %q", again, err, first)
	}
	if ends, err := client.Ends(t.Context(), layout.Control(), []int{0}); err != nil || ends[0].Next != 1 {
		t.Errorf("control log holds %v, %v; want one record", ends[0], err)
	}
	layout.Lanes = 3
	if _, err := Run(t.Context(), client, layout, key); err == nil {
		t.Error("another number of lanes was installed")
	}
	layout.Lanes, layout.Prefix = 2, "other."
	if id, err := Run(t.Context(), client, layout, key); err != nil || id == first {
		t.Errorf("another prefix: %q, %v; want an installation of its own", id, err)
	}
}

// TestAnInstallationOfAnotherKeyIsLeftAlone: its layout cannot be known, and a
// configuration of ours in its control log would be a forgery to its services.
func TestAnInstallationOfAnotherKeyIsLeftAlone(t *testing.T) {
	broker := kafkatest.Start(t)
	client := broker.Client(t, "install-test")
	layout := kafka.Layout{Topics: kafka.Topics{Prefix: "test."}, Shards: 2, Lanes: 3, Durability: kafka.Single}
	ours, others := bytes.Repeat([]byte("o"), 32), bytes.Repeat([]byte("x"), 32)
	if _, ok, err := Existing(t.Context(), client, layout.Topics, ours); ok || err != nil {
		t.Fatalf("nothing is installed: %v, %v", ok, err)
	}
	if _, err := Run(t.Context(), client, layout, ours); err != nil {
		t.Fatal(err)
	}
	if found, ok, err := Existing(t.Context(), client, layout.Topics, ours); !ok || err != nil || found != layout {
		t.Errorf("found %+v, %v, %v; want %+v", found, ok, err, layout)
	}
	if _, _, err := Existing(t.Context(), client, layout.Topics, others); !errors.Is(err, controllog.ErrOtherKey) {
		t.Errorf("looked at with another key: %v", err)
	}
	if _, err := Run(t.Context(), client, layout, others); !errors.Is(err, controllog.ErrOtherKey) {
		t.Errorf("installed with another key: %v", err)
	}
	if ends, err := client.Ends(t.Context(), layout.Control(), []int{0}); err != nil || ends[0].Next != 1 {
		t.Errorf("control log holds %v, %v; want the one record it had", ends[0], err)
	}
	if err := kafka.Remove(t.Context(), client, layout.Topics); err != nil {
		t.Fatal(err)
	}
	if _, copies, err := client.Survey(t.Context(), layout.Control()); copies != 0 || err != nil {
		t.Errorf("removed, and there are %d copies, %v", copies, err)
	}
}

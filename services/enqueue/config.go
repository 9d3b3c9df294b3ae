package enqueue

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/services/enqueue/internal/core"
)

// Config is what an operator sets.
type Config struct {
	// Replica is this replica's name, kept over restarts.
	Replica string `env:"SPILLWAY_REPLICA" default:"enqueue-0" doc:"name of this replica, kept over restarts"`
	// Address is where others reach this replica; empty: the listener's.
	Address string `env:"SPILLWAY_ADVERTISE" doc:"host:port at which others reach this replica; empty: the listener's address"`
	// Prefix is the topics' prefix.
	Prefix string `env:"SPILLWAY_PREFIX" default:"spillway." doc:"prefix of the topics"`
	// Durability is the declared durability mode.
	Durability string `env:"SPILLWAY_DURABILITY" default:"replicated" doc:"replicated (RF 3, min ISR 2) or single: weaker topics are refused"`
	// Payload is the largest payload, in bytes.
	Payload int `env:"SPILLWAY_ENQUEUE_PAYLOAD" default:"262144" unit:"bytes" doc:"largest payload of a job; at most 900 KiB"`
	// Inflight bounds the jobs that wait for the log, in bytes.
	Inflight int64 `env:"SPILLWAY_ENQUEUE_INFLIGHT" default:"25165824" unit:"bytes" doc:"jobs that wait for the log; more are refused with OVERLOADED"`
	// Keys bounds the memory of idempotency keys, in bytes.
	Keys int64 `env:"SPILLWAY_ENQUEUE_KEYS" default:"8388608" unit:"bytes" doc:"memory of idempotency keys, to refuse another payload under one"`
	// Register is the address of automation, in local mode only.
	Register string `env:"SPILLWAY_ENQUEUE_REGISTER" doc:"local mode only: automation's address, where unknown sources and types are registered for whoever asks"`
	// RegisterTokenFile holds the credential for Register.
	RegisterTokenFile string `env:"SPILLWAY_ENQUEUE_REGISTER_TOKEN_FILE" doc:"local mode only: file with a token of role admin"`
	// Reflection serves gRPC reflection.
	Reflection bool `env:"SPILLWAY_REFLECTION" default:"false" doc:"serve gRPC reflection to role read"`
}

// Bounds of settings.
const (
	// minInflight holds the largest job in a share of the lowest priority.
	minInflight = 8 << 20
	maxInflight = 16 << 30
	minKeys     = 64 << 10
	maxKeys     = 4 << 30
)

// Validate returns what is wrong, everything at once.
func (c Config) Validate() error {
	var wrong []error
	if c.Replica == "" || len(c.Replica) > 64 || !utf8.ValidString(c.Replica) {
		wrong = append(wrong, fmt.Errorf("SPILLWAY_REPLICA is %q, want 1 to 64 bytes of text", c.Replica))
	}
	if c.Durability != kafka.Replicated && c.Durability != kafka.Single {
		wrong = append(wrong, fmt.Errorf("SPILLWAY_DURABILITY is %q, want replicated or single", c.Durability))
	}
	if c.Payload < 1 || c.Payload > core.HardPayloadBytes {
		wrong = append(wrong, fmt.Errorf("SPILLWAY_ENQUEUE_PAYLOAD is %d bytes, want 1 to %d: a larger job could not be moved", c.Payload, core.HardPayloadBytes))
	}
	if c.Inflight < minInflight || c.Inflight > maxInflight {
		wrong = append(wrong, fmt.Errorf("SPILLWAY_ENQUEUE_INFLIGHT is %d bytes, want 8 MiB to 16 GiB", c.Inflight))
	}
	if c.Keys < minKeys || c.Keys > maxKeys {
		wrong = append(wrong, fmt.Errorf("SPILLWAY_ENQUEUE_KEYS is %d bytes, want 64 KiB to 4 GiB", c.Keys))
	}
	if c.Register == "" && c.RegisterTokenFile != "" {
		wrong = append(wrong, errors.New("SPILLWAY_ENQUEUE_REGISTER_TOKEN_FILE is set and SPILLWAY_ENQUEUE_REGISTER is not"))
	}
	return errors.Join(wrong...)
}

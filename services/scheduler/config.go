package scheduler

import (
	"errors"
	"fmt"
	"time"

	group "github.com/spillway/spillway/pkg/kafka/shard"
	"github.com/spillway/spillway/services/scheduler/internal/shard"
)

// Config is what an operator sets.
type Config struct {
	// Replica is this replica's name, kept over restarts: scheduler-0.
	Replica string `env:"SPILLWAY_REPLICA" default:"scheduler-0" doc:"name of this replica, kept over restarts"`
	// Address is where workers reach this replica; empty: the listener's.
	Address string `env:"SPILLWAY_ADVERTISE" doc:"host:port at which workers reach this replica; empty: the listener's address"`
	// Prefix is the topics' prefix.
	Prefix string `env:"SPILLWAY_PREFIX" default:"spillway." doc:"prefix of the topics"`
	// Durability is the declared durability mode: replicated or single.
	Durability string `env:"SPILLWAY_DURABILITY" default:"replicated" doc:"replicated (RF 3, min ISR 2) or single: weaker topics are refused"`
	// Memory bounds the jobs that wait in memory, in bytes.
	Memory int64 `env:"SPILLWAY_SCHEDULER_MEMORY" default:"67108864" unit:"bytes" doc:"jobs that wait in memory; the rest is in lanes"`
	// Reserve is the part of others' need that is never lent.
	Reserve float64 `env:"SPILLWAY_SCHEDULER_RESERVE" default:"0.7" doc:"part of others' need for slots that is never lent: 0 to 1"`
	// TrimEvery is how often the space of finished jobs is given back; 0 is the default.
	TrimEvery time.Duration `env:"SPILLWAY_SCHEDULER_TRIM_EVERY" default:"1m" doc:"how often records of finished jobs are deleted from the log, 1 s to 1 h; 32 MiB of a partition go at once"`
	// Reflection serves gRPC reflection.
	Reflection bool `env:"SPILLWAY_REFLECTION" default:"false" doc:"serve gRPC reflection to role read"`
}

// The times that only work together (architecture §6): no knobs, one profile.
const (
	freshness  = 500 * time.Millisecond // a control log confirmed longer ago fences grants
	aliveFor   = group.AliveFor         // after a heartbeat of the group jobs are granted for so long
	session    = group.SessionTimeout
	suspended  = shard.Suspended // how long leases are renewed without a generation
	leaseTTL   = 20 * time.Second
	renewEvery = 5 * time.Second
	quarantine = shard.Quarantine
)

// checkTimes holds the profile together. Grants end within aliveFor of the last heartbeat, renewals within suspended of it, and what was granted or
// renewed last is over a TTL later; a takeover may begin right after that heartbeat.
func checkTimes() error {
	if !(freshness < aliveFor && aliveFor < session && session < suspended) || quarantine < max(suspended, aliveFor)+leaseTTL || 3*renewEvery > leaseTTL {
		return errors.New("scheduler: the times of leases, sessions and quarantine do not fit together")
	}
	return nil
}

// Validate returns what is wrong, everything at once.
func (c Config) Validate() error {
	var wrong []error
	if c.Replica == "" {
		wrong = append(wrong, errors.New("SPILLWAY_REPLICA is empty"))
	}
	if c.Durability != "replicated" && c.Durability != "single" {
		wrong = append(wrong, fmt.Errorf("SPILLWAY_DURABILITY is %q, want replicated or single", c.Durability))
	}
	if c.Memory < 4<<20 || c.Memory > 1<<40 {
		wrong = append(wrong, fmt.Errorf("SPILLWAY_SCHEDULER_MEMORY is %d bytes, want 4 MiB to 1 TiB", c.Memory))
	}
	if !(c.Reserve >= 0 && c.Reserve <= 1) {
		wrong = append(wrong, fmt.Errorf("SPILLWAY_SCHEDULER_RESERVE is %v, want 0 to 1", c.Reserve))
	}
	if c.TrimEvery != 0 && (c.TrimEvery < time.Second || c.TrimEvery > time.Hour) {
		wrong = append(wrong, fmt.Errorf("SPILLWAY_SCHEDULER_TRIM_EVERY is %v, want 1 s to 1 h", c.TrimEvery))
	}
	wrong = append(wrong, checkTimes())
	return errors.Join(wrong...)
}

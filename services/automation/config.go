package automation

import (
	"errors"

	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	"github.com/spillway/spillway/services/automation/internal/api"
	"github.com/spillway/spillway/services/automation/internal/core"
)

// Config is what an operator sets. Quotas and switches are not here: they live in the control log.
type Config struct {
	// Replica is this replica's name.
	Replica string `env:"SPILLWAY_REPLICA" default:"automation-0" doc:"name of this replica, kept over restarts"`
	// Address is where others reach this replica; empty: the listener's.
	Address string `env:"SPILLWAY_ADVERTISE" doc:"host:port at which this replica is reached; empty: the listener's address"`
	// Prefix is the topics' prefix.
	Prefix string `env:"SPILLWAY_PREFIX" default:"spillway." doc:"prefix of the topics"`
	// Reflection serves gRPC reflection.
	Reflection bool `env:"SPILLWAY_REFLECTION" default:"false" doc:"serve gRPC reflection to role read"`
}

// Validate returns what is wrong.
func (c Config) Validate() error {
	if c.Replica == "" {
		return errors.New("SPILLWAY_REPLICA is empty")
	}
	return nil
}

// DefaultQuota is the quota of a source that asks for none, for tools that change parts of it.
func DefaultQuota() *automationv1.Quota { return api.ToQuota(core.DefaultQuota()) }

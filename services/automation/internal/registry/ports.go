package registry

import (
	"context"

	"github.com/spillway/spillway/services/automation/internal/core"
)

// Control is the control log as this replica has folded it. All methods may be called from any goroutine.
type Control interface {
	// Ready says why the state cannot be relied on, or nil.
	Ready() error
	// Source returns a registered source, complete, with the state that its switch makes of it.
	Source(name string) (core.Source, bool)
	// Sources returns up to limit sources whose names have the prefix, by name, the first after a name.
	Sources(prefix, after string, limit int) []core.Source
	// Switch returns the switch on exactly a scope, also when its time is over.
	Switch(scope core.Scope) (core.Switch, bool)
	// Switches returns all switches that nobody ended, by scope, also those whose time is over.
	Switches() []core.Switch
	// Ramps returns the resumes that asked for a rate, by scope, also those whose ramp is over.
	Ramps() []core.Switch
	// Requested finds an accepted change by its request id.
	Requested(id string) (sequence int64, ok bool)
	// Append writes a change and reads it back. repeated: it had been made before, at sequence. An error is a *core.Refusal.
	Append(ctx context.Context, change core.Change) (sequence int64, repeated bool, err error)
}

// Fleet is what status says of all replicas. All methods may be called from any goroutine.
type Fleet interface {
	// View returns the live replicas.
	View() core.View
	// Changed is closed at the next news; take it before View.
	Changed() <-chan struct{}
	// Backlogs returns what waits, as last reported.
	Backlogs() []core.Backlog
}

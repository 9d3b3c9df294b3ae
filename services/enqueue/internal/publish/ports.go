package publish

import (
	"context"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/status"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// Producer writes records: a *produce.Producer. Errors wrap kafka.ErrUnsent or kafka.ErrFateUnknown.
type Producer interface {
	// Send never blocks. done runs once, and only when Send took the record.
	Send(rec kafka.Record, done func(offset int64, err error)) error
	// Produce waits; a record that was not on its way when ctx ends is dropped, and the error then wraps kafka.ErrUnsent.
	Produce(ctx context.Context, rec kafka.Record) (offset int64, err error)
}

// Control is the folded control log: a *controllog.Follower.
type Control interface {
	State() *controllog.State
	// Changed is closed with the next state. Take it before State.
	Changed() <-chan struct{}
}

// Beats are the replicas' beats: a *status.Reader.
type Beats interface {
	Live(kind logv1.ReplicaKind) []*status.Replica
	Marks() []*logv1.SpillMark
	// Changed is closed with the next beat. Take it before the others.
	Changed() <-chan struct{}
	// Ready is nil while Live can be relied on.
	Ready() error
}

// Registrar registers what local mode does not know yet; it needs role admin at automation. Its errors mean nothing certain: the fold tells.
type Registrar interface {
	// Register asks for a new source.
	Register(ctx context.Context, source *automationv1.Source) error
	// Extend asks for other types of a source at the given etag.
	Extend(ctx context.Context, name string, types []string, etag string) error
}

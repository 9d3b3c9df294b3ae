package publish

import (
	"context"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/status"
	"github.com/spillway/spillway/pkg/telemetry"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// Ports are what the room works with.
type Ports struct {
	Producer  Producer
	Control   Control
	Beats     Beats
	Telemetry *telemetry.Telemetry
}

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
}

// Beats are the replicas' beats: a *status.Reader.
type Beats interface {
	Live(kind logv1.ReplicaKind) []*status.Replica
	// Changed is closed with the next beat. Take it before Live.
	Changed() <-chan struct{}
	// Ready is nil while Live can be relied on.
	Ready() error
}

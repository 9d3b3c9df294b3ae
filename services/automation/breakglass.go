package automation

import (
	"context"
	"errors"
	"log/slog"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/lifecycle"
	"github.com/spillway/spillway/pkg/rpc"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	"github.com/spillway/spillway/services/automation/internal/api"
)

// Access is what somebody needs who acts without a running automation: the broker and the installation's key.
type Access struct {
	Log *slog.Logger
	// Kafka opens a client.
	Kafka func(clientID string) (*kafka.Client, error)
	// MACKey seals the records.
	MACKey []byte
	// Prefix is the topics' prefix.
	Prefix string
	// Actor is who is named in the audit.
	Actor string
}

// BreakGlass throws switches with every automation replica dead: it writes the control log itself and reads the proof from status,
// with the same rules and the same record for the audit. act is called once the log is folded; its context speaks for Access.Actor. A view of status that is
// younger than a second proves nothing before no scheduler can grant any more, so a switch takes half a second here.
func BreakGlass(ctx context.Context, access Access, act func(ctx context.Context, switches automationv1.SwitchServiceServer) error) (err error) {
	if access.Log == nil || access.Kafka == nil || len(access.MACKey) == 0 || access.Actor == "" {
		return errors.New("automation: break-glass needs a log, the broker, the MAC key and an actor")
	}
	d, err := newDesk(Config{Replica: "break-glass", Prefix: access.Prefix}, access.Log, access.Kafka, access.MACKey)
	if err != nil {
		return err
	}
	defer d.close()
	running := lifecycle.NewGroup(ctx)
	d.start(running)
	defer func() {
		running.Stop()
		err = errors.Join(err, running.Wait())
	}()
	select {
	case <-d.follower.Folded():
	case <-running.Context().Done():
		return errors.Join(d.follower.Ready(), context.Cause(running.Context()))
	}
	return act(rpc.WithCaller(running.Context(), rpc.Caller{Subject: access.Actor}), api.New(d.room))
}

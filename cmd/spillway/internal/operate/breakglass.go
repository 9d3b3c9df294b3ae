package operate

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/user"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/locate"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/rights"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	"github.com/spillway/spillway/services/automation"
)

// switcher throws switches: automation over gRPC, or its rules in this process.
type switcher interface {
	// Hold is SwitchService.Hold.
	Hold(ctx context.Context, req *automationv1.HoldRequest) (*automationv1.HoldResponse, error)
	// Resume is SwitchService.Resume.
	Resume(ctx context.Context, req *automationv1.ResumeRequest) (*automationv1.ResumeResponse, error)
}

// remote is automation over gRPC.
type remote struct {
	client automationv1.SwitchServiceClient
}

// Hold implements switcher.
func (r remote) Hold(ctx context.Context, req *automationv1.HoldRequest) (*automationv1.HoldResponse, error) {
	return r.client.Hold(ctx, req)
}

// Resume implements switcher.
func (r remote) Resume(ctx context.Context, req *automationv1.ResumeRequest) (*automationv1.ResumeResponse, error) {
	return r.client.Resume(ctx, req)
}

// throw calls f with automation, or with breakGlass with its rules in this process.
func (o *options) throw(cmd *cobra.Command, breakGlass bool, f func(ctx context.Context, s switcher) error) error {
	if !breakGlass {
		return o.call(cmd, func(ctx context.Context, conn *grpc.ClientConn) error {
			return f(ctx, remote{automationv1.NewSwitchServiceClient(conn)})
		})
	}
	target, err := o.find()
	if err != nil {
		return err
	}
	access, err := accessTo(target)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), callWithin)
	defer cancel()
	return explain(automation.BreakGlass(ctx, access, func(ctx context.Context, s automationv1.SwitchServiceServer) error { return f(ctx, s) }))
}

// accessTo needs what only operators of the installation have: the broker's address and the key of the control log.
func accessTo(target readyfile.File) (automation.Access, error) {
	if target.Broker.Address == "" || target.MACKeyFile == "" {
		return automation.Access{}, exit.Errorf(exit.Unavailable, "--break-glass needs the broker's address and the MAC key file: set %s and %s",
			locate.KafkaVariable, locate.MACKeyFileVariable)
	}
	key, err := config.ReadMACKey(target.MACKeyFile)
	if err != nil {
		return automation.Access{}, fmt.Errorf("MAC key: %w", err)
	}
	opener, err := connect.Of(target.Broker).Opener()
	if err != nil {
		return automation.Access{}, exit.With(exit.Usage, err)
	}
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	return automation.Access{
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Kafka: func(clientID string) (*kafka.Client, error) {
			return opener.Client(clientID, rights.Topics(rights.Operator, kafka.Topics{Prefix: target.Prefix})...)
		},
		MACKey: key, Prefix: target.Prefix, Actor: "break-glass:" + name,
	}, nil
}

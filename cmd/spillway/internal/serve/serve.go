// Package serve is `spillway serve`: one service in this process, from its
// configuration in the environment to its end.
//
//	environment ─▶ Config ─▶ Deps (log, telemetry, listeners) ─▶ New ─▶ Run ─▶ flush telemetry
package serve

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/spillway/spillway/cmd/spillway/internal/process"
)

// untilStdinFlag is how a supervisor that holds our standard input says so.
const untilStdinFlag = "until-stdin-closes"

// Command is `spillway serve`.
func Command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "run one service, configured by SPILLWAY_* in the environment",
		Args:  cobra.NoArgs,
	}
	for _, s := range services {
		cmd.AddCommand(s.command())
	}
	cmd.AddCommand(brokerCommand())
	return cmd
}

// until returns a context that ends with SIGTERM or SIGINT, and with standard
// input if stdin is true.
func until(ctx context.Context, stdin bool) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	if !stdin {
		return ctx, stop
	}
	ctx, cancel := process.UntilParentEnds(ctx)
	return ctx, func() { cancel(); stop() }
}

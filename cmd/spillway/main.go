// Command spillway is the whole of Spillway in one binary: the services, the
// local mode with its broker, and the operator's tool.
//
// Standard output carries data, standard error talk. Exit codes: 0 ok, 1 error,
// 2 usage, 3 not found, 4 refused by policy, 5 precondition, 6 unavailable, 130
// interrupted before there was a result (replay).
package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/spillway/spillway/cmd/spillway/internal/dev"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/health"
	"github.com/spillway/spillway/cmd/spillway/internal/install"
	"github.com/spillway/spillway/cmd/spillway/internal/job"
	"github.com/spillway/spillway/cmd/spillway/internal/keyring"
	"github.com/spillway/spillway/cmd/spillway/internal/ledger"
	"github.com/spillway/spillway/cmd/spillway/internal/load"
	"github.com/spillway/spillway/cmd/spillway/internal/operate"
	"github.com/spillway/spillway/cmd/spillway/internal/replay"
	"github.com/spillway/spillway/cmd/spillway/internal/serve"
)

// release is the version that an image was built with (Dockerfile, -X); "" has
// the module's.
var release string

func main() {
	err := root().ExecuteContext(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "spillway: "+err.Error())
	}
	os.Exit(exit.Code(err))
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "spillway",
		Short: "background work for many tenants, in which no source can harm another",
		// Errors are printed once, by main; usage only when asked for.
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exit.With(exit.Usage, err) })
	cmd.AddCommand(dev.Command(), load.Command(), replay.Command(), job.Command(), operate.Source(), operate.Switch(), ledger.Command(), install.Command(), keyring.Command(), serve.Command(), health.Command(), version())
	usageErrors(cmd)
	return cmd
}

// usageErrors gives wrong arguments of any command the exit code of usage, and
// flags that are required and missing.
func usageErrors(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil && !cmd.HasSubCommands() {
		check = cobra.ArbitraryArgs
	}
	if check == nil {
		check = cobra.NoArgs
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return exit.With(exit.Usage, err)
		}
		return exit.With(exit.Usage, cmd.ValidateRequiredFlags())
	}
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			return exit.Errorf(exit.Usage, "%s needs a command; see %s --help", cmd.CommandPath(), cmd.CommandPath())
		}
	}
	for _, sub := range cmd.Commands() {
		usageErrors(sub)
	}
}

func version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the version of this binary",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return exit.Errorf(exit.Failed, "this binary holds no build information")
			}
			name, revision := info.Main.Version, ""
			if release != "" {
				name = release
			}
			for _, s := range info.Settings {
				if s.Key == "vcs.revision" {
					revision = " " + s.Value
				}
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "spillway %s%s %s\n", name, revision, info.GoVersion)
			return err
		},
	}
}

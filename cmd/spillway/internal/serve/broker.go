package serve

import (
	"errors"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/spillway/spillway/cmd/spillway/internal/broker"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
)

func brokerCommand() *cobra.Command {
	var config broker.Config
	var untilStdin bool
	var logLevel string
	cmd := &cobra.Command{
		Use:   "broker",
		Short: "the embedded broker, for local use on one machine",
		Long: `broker serves the Kafka protocol on a Unix socket from a directory. It survives
kill -9, not the loss of its disk, and is not a production broker.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config.Dir == "" || config.Socket == "" {
				return exit.Errorf(exit.Usage, "--data-dir and --socket are required")
			}
			var level slog.Level
			if err := level.UnmarshalText([]byte(logLevel)); err != nil {
				return exit.With(exit.Usage, err)
			}
			collectSeldom()
			ctx, stop := until(cmd.Context(), untilStdin)
			defer stop()
			config.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
			err := broker.Run(ctx, config)
			if errors.Is(err, broker.ErrLocked) {
				return exit.With(exit.Precondition, err)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&config.Dir, "data-dir", "", "directory of the logs")
	f.StringVar(&config.Socket, "socket", "", "path of the Unix socket")
	f.Int64Var(&config.MaxBytes, "max-bytes", 0, "cap of the store in bytes (default 1 GiB)")
	f.StringVar(&config.Prefix, "prefix", "", "prefix of the installation's topics")
	f.StringVar(&logLevel, "log-level", "INFO", "DEBUG, INFO, WARN or ERROR")
	f.BoolVar(&untilStdin, untilStdinFlag, false, "stop when standard input ends")
	return cmd
}

package dev

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/process"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/kafka"
)

// maxReplicas bounds --schedulers, --enqueues and --notifiers: more than shards of the
// embedded broker have nothing to do.
const maxReplicas = 8

// Command is `spillway dev`.
func Command() *cobra.Command {
	var opts Options
	var brokers string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "run everything on this machine: broker and services, each a process of its own",
		Long: `dev starts the embedded broker, installs the topics in it and starts the
services, each as a process of its own on loopback addresses. It starts again
what ends, and stops everything when it is stopped.

The embedded broker survives kill -9 and is for one machine; it is not for
production.

With --kafka it uses a Kafka cluster instead. It installs the topics there, or
takes up what this data directory has installed there before. An installation is
sealed with a key of its data directory: another one cannot use it, but may have
its own under another --prefix. For a cluster that wants TLS or a login, set
SPILLWAY_KAFKA_TLS, _CA_FILE, _SASL, _USER and _PASSWORD_FILE.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case opts.PortBase != 0 && (opts.PortBase < 1024 || opts.PortBase > maxPort-pagesPort):
				return exit.Errorf(exit.Usage, "--port-base: want 0 or a port from 1024 to %d", maxPort-pagesPort)
			case opts.Schedulers < 1 || opts.Schedulers > maxReplicas, opts.Enqueues < 1 || opts.Enqueues > maxReplicas:
				return exit.Errorf(exit.Usage, "--schedulers, --enqueues: want 1 to %d", maxReplicas)
			case opts.Notifiers < 0 || opts.Notifiers > maxReplicas:
				return exit.Errorf(exit.Usage, "--notifiers: want 0 to %d", maxReplicas)
			case new(slog.Level).UnmarshalText([]byte(opts.LogLevel)) != nil:
				return exit.Errorf(exit.Usage, "--log-level: want DEBUG, INFO, WARN or ERROR")
			}
			if brokers != "" {
				var err error
				if opts.Log, err = connect.Environment(); err != nil {
					return exit.With(exit.Usage, err)
				}
				opts.Log.Kafka = brokers
				if opts.Log, err = opts.Log.Absolute(); err != nil {
					return err
				}
			} else if opts.Prefix != "" {
				return exit.Errorf(exit.Usage, "--prefix needs --kafka: the embedded broker holds one installation")
			}
			return main(cmd, opts)
		},
	}
	f := cmd.Flags()
	f.StringVar(&opts.DataDir, "data-dir", "", "where logs, keys and dev.json are (default <user cache dir>/spillway/dev)")
	f.IntVar(&opts.PortBase, "port-base", 7400, "first port: enqueue +0, scheduler +10, notifier +20, automation +30, each one's admin port +1, websockets +22, pages +80; 0: free ports")
	f.StringVar(&opts.ReadyFile, "ready-file", "", "also write dev.json here when everything is ready")
	f.StringVar(&opts.LogLevel, "log-level", "INFO", "what the services tell at least: DEBUG, INFO, WARN or ERROR")
	f.StringVar(&brokers, "kafka", "", "use this Kafka cluster, host:port,… (default: the embedded broker)")
	f.StringVar(&opts.Prefix, "prefix", "", "prefix of the topics' names in that cluster (default "+kafka.DefaultPrefix+")")
	f.IntVar(&opts.Schedulers, "schedulers", 1, "scheduler replicas")
	f.IntVar(&opts.Enqueues, "enqueues", 1, "enqueue replicas")
	f.IntVar(&opts.Notifiers, "notifiers", 1, "notifier replicas, 0 for none")
	return cmd
}

func main(cmd *cobra.Command, opts Options) (err error) {
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if opts.DataDir == "" {
		if opts.DataDir, err = readyfile.DefaultDir(); err != nil {
			return err
		}
	}
	if opts.DataDir, err = filepath.Abs(opts.DataDir); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if err := os.MkdirAll(opts.DataDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	out := process.NewOutput(os.Stderr, process.Terminal(os.Stderr))
	log := slog.New(slog.NewTextHandler(out, nil))
	began := time.Now()
	d, err := Start(ctx, opts, out, log)
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil // stopped while it started
		}
		return err
	}
	fmt.Fprintf(out, "spillway dev is ready after %.1f s; Ctrl-C stops it\n%s", time.Since(began).Seconds(), d.Summary())
	<-ctx.Done()
	stop() // a second signal ends the process at once; the children follow it
	fmt.Fprintln(out, "stopping")
	d.Stop()
	return nil
}

package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/dev"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/process"
	"github.com/spillway/spillway/cmd/spillway/internal/replay/judge"
	"github.com/spillway/spillway/cmd/spillway/internal/replay/plain"
	"github.com/spillway/spillway/cmd/spillway/internal/temporary"
)

// options are what a replay is asked for.
type options struct {
	times      judge.Times
	without    bool
	output     string
	brokers    string
	schedulers int
}

// Command is `spillway replay`.
func Command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "replay [" + judge.Avochato + "]",
		Short: "play a known outage against Spillway, and give a verdict",
		Long: `replay plays an outage and says which promises were kept.

avochato-2020, which is played when none is named: twenty tenants work as always, 10 jobs a second each of 20 ms,
every job tells its tenant's websocket clients at its end, and half of these
never read. Then a routine automation that nobody watches begins 10,000 jobs a
second of the same type, on the same 64 slots, which tell them, too. It is found,
held, resumed and worked off.

It starts a "spillway dev" of its own in a temporary directory; with --kafka on
that cluster, whose topics have a prefix of their own and are deleted at the end.
With --without-spillway the same traffic goes through one topic and a plain
consumer group, whose worker holds the websockets.

It ends with 0 if every promise that it measured was kept, with 1 if one was
broken, and with 130 if it was interrupted before there was a verdict.`,
		Args: cobra.MaximumNArgs(1), ValidArgs: []string{judge.Avochato},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && args[0] != judge.Avochato {
				return exit.Errorf(exit.Usage, "scenario %q: there is %s", args[0], judge.Avochato)
			}
			if o.output != "table" && o.output != "json" {
				return exit.Errorf(exit.Usage, "-o: want table or json")
			}
			if err := o.times.Check(); err != nil {
				return exit.With(exit.Usage, err)
			}
			if o.schedulers < 1 {
				return exit.Errorf(exit.Usage, "--schedulers: want at least 1")
			}
			return main(cmd, o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "table", "table or json")
	f.BoolVar(&o.without, "without-spillway", false, "the same traffic through a plain consumer group")
	f.StringVar(&o.brokers, "kafka", "", "on this Kafka cluster, host:port,… (default: the embedded broker)")
	f.IntVar(&o.schedulers, "schedulers", 1, "scheduler replicas")
	f.DurationVar(&o.times.Quiet, "quiet", 15*time.Second, "how long the tenants run alone")
	f.DurationVar(&o.times.Flood, "flood", 15*time.Second, "how long the flood runs before it is held")
	f.DurationVar(&o.times.Held, "held", 3*time.Second, "how long it stays held, while it goes on arriving")
	f.DurationVar(&o.times.Drain, "drain", 100*time.Second, "how long its backlog may take after that")
	f.DurationVar(&o.times.After, "after", 8*time.Second, "how long the tenants run on when it is gone")
	cmd.AddCommand(&cobra.Command{
		Use: plain.Command, Hidden: true, Args: cobra.NoArgs,
		Short: "the worker of --without-spillway, started by it",
		RunE: func(cmd *cobra.Command, _ []string) error {
			collectSeldom()
			return plain.Main(cmd.Context())
		},
	})
	return cmd
}

// collectSeldom keeps this process, which is all callers, handlers and clients of the
// scenario in one, from measuring its own collector, and gives the opponent's worker
// what the product's notifier has.
func collectSeldom() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300)
	}
}

func main(cmd *cobra.Command, o options) (err error) {
	collectSeldom()
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	terminal := process.Terminal(os.Stderr)
	out := process.NewOutput(os.Stderr, terminal)
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelWarn}))
	dir, err := os.MkdirTemp("", "spillway-replay-")
	if err != nil {
		return fmt.Errorf("temporary directory: %w", err)
	}
	keep := false
	defer func() {
		if !keep {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	on, err := o.open(ctx, dir, out, log)
	if err != nil {
		return verdictless(ctx, err)
	}
	defer func() { err = errors.Join(err, on.stop(keep)) }()
	r := &runner{times: o.times, on: on, ids: filepath.Join(dir, "replay.ids")}
	r.report.Without = o.without
	clear := ""
	if terminal {
		r.live, clear = out, "\r\x1b[K"
	}
	began := time.Now()
	r.say = func(format string, args ...any) {
		fmt.Fprintf(out, "%s%5.1f s  %s\n", clear, time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	report, err := r.play(ctx)
	if err != nil {
		return verdictless(ctx, err)
	}
	report.Judge()
	if err := write(report, o.output, cmd.OutOrStdout()); err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if report.Ledger.Lost > 0 {
		keep = true
		return exit.Errorf(exit.Failed, "%d jobs were lost; their ids are among those in %s", report.Ledger.Lost, r.ids)
	}
	if report.Verdict != judge.Kept {
		return exit.Errorf(exit.Failed, "%s: a promise was broken", judge.Avochato)
	}
	return nil
}

// verdictless is the error of a replay without a report. One that was interrupted fails in many ways, and has broken no promise.
func verdictless(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return exit.With(exit.Interrupted, errStopped)
}

func write(report *judge.Report, output string, w io.Writer) error {
	if output == "json" {
		return report.WriteJSON(w)
	}
	return report.WriteTable(w)
}

// open sets the stage.
func (o options) open(ctx context.Context, dir string, out *process.Output, log *slog.Logger) (stage, error) {
	var cluster connect.Settings
	prefix := ""
	if o.brokers != "" {
		var err error
		if cluster, err = connect.Environment(); err != nil {
			return nil, exit.With(exit.Usage, err)
		}
		cluster.Kafka, prefix = o.brokers, temporary.Prefix("replay")
	}
	if o.without {
		return openOpponent(ctx, dir, cluster, prefix+"default", out, log)
	}
	return openProduct(ctx, dir, dev.Options{Schedulers: o.schedulers, Enqueues: 1, Log: cluster, Prefix: prefix}, out, log)
}

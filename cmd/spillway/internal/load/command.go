package load

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/dev"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/work"
	"github.com/spillway/spillway/cmd/spillway/internal/locate"
	"github.com/spillway/spillway/cmd/spillway/internal/process"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/cmd/spillway/internal/temporary"
)

// demonstration is what runs without --flow: five ordinary sources and, after
// demonstrationQuiet, a flood of more than 64 slots of 20 ms can take.
var demonstration = []string{
	"crm-autotag=20,work=20ms", "inbox-sync=20,work=20ms", "billing-reminders=10,work=20ms", "csv-import=10,work=20ms", "campaign-send=20,work=20ms",
	"flood=5000,work=20ms",
}

const (
	demonstrationQuiet   = 5 * time.Second
	demonstrationSending = 6 * time.Second
	demonstrationDrain   = 15 * time.Second
)

// Command is `spillway load`.
func Command() *cobra.Command {
	var (
		specs                       []string
		hold, output, dataDir, ids  string
		opts                        Options
		schedulers, enqueues, slots int
		brokers                     string
	)
	cmd := &cobra.Command{
		Use:   "load [--flow NAME=RATE[,key=value…] …]",
		Short: "send jobs on a fixed schedule, run them and count what became of each",
		Long: `load enqueues jobs on a fixed schedule whatever the answers do, runs their
handlers, waits for the drain and prints what waited, what finished and whether
anything was lost, by its own account of every id.

A flow is NAME=RATE (jobs per second) with keys: work=20ms (how long a handler
takes), hang=2%:10s (a share of jobs that takes longer), tenants=1, type=load,
priority=P, payload=256 (bytes). NAME*20=10 makes NAME-01 … NAME-20. Flows named
flood… stay silent in the quiet phase.

Without a running "spillway dev" it starts one of its own in a temporary
directory, with --kafka always one on that cluster, whose topics have a prefix of
their own and are deleted at the end. Without --flow it shows a flood that harms nobody, in under half a
minute. SIGTERM or Ctrl-C ends sending, drains and prints; a second one stops.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(specs) == 0 {
				specs = demonstration
				setUnless(cmd, "quiet", &opts.Quiet, demonstrationQuiet)
				setUnless(cmd, "for", &opts.For, demonstrationSending)
				setUnless(cmd, "drain", &opts.Drain, demonstrationDrain)
			}
			opts.Slots, opts.IDs = slots, ids
			if err := opts.complete(specs, hold, output); err != nil {
				return exit.With(exit.Usage, err)
			}
			own := dev.Options{Schedulers: schedulers, Enqueues: enqueues}
			if brokers != "" {
				var err error
				if own.Log, err = connect.Environment(); err != nil {
					return exit.With(exit.Usage, err)
				}
				own.Log.Kafka, own.Prefix = brokers, temporary.Prefix("load")
			}
			return main(cmd, opts, output, dataDir, own)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&specs, "flow", nil, "a flow to send, NAME=RATE[,key=value…]; may be given several times")
	f.IntVar(&slots, "workers", 64, "slots for running jobs, divided over 4 SDK workers")
	f.IntVar(&opts.Processes, "worker-processes", 0, "divide the slots over so many processes of their own instead")
	f.DurationVar(&opts.Quiet, "quiet", 0, "send all but the flood… flows alone for so long first, reported apart")
	f.DurationVar(&opts.For, "for", 30*time.Second, "how long to send")
	f.DurationVar(&opts.Drain, "drain", 60*time.Second, "how long to wait for what is left")
	f.StringVar(&hold, "hold", "", "hold a flow during the run and resume it, FLOW@10s+5s of the sending time")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	f.StringVar(&dataDir, "data-dir", "", "data directory of the running dev (default <user cache dir>/spillway/dev)")
	f.StringVar(&ids, "ids", "", "file that every id is written to before it is sent (default: a temporary one, kept if anything was lost)")
	f.IntVar(&schedulers, "schedulers", 1, "schedulers of a dev of its own")
	f.IntVar(&enqueues, "enqueues", 1, "enqueue replicas of a dev of its own")
	f.StringVar(&brokers, "kafka", "", "start a dev of its own on this Kafka cluster, host:port,…")
	cmd.AddCommand(&cobra.Command{
		Use: work.Command, Hidden: true, Args: cobra.NoArgs,
		Short: "a worker process of load, started by it",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return work.Main(cmd.Context(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
		},
	})
	return cmd
}

func setUnless(cmd *cobra.Command, flag string, to *time.Duration, value time.Duration) {
	if !cmd.Flags().Changed(flag) {
		*to = value
	}
}

// maxJobs bounds the generator's memory: at 32 bytes a job, 640 MiB.
const maxJobs = 20_000_000

func (o *Options) complete(specs []string, hold, output string) error {
	var err error
	if o.Flows, err = plan.Parse(specs); err != nil {
		return err
	}
	if hold != "" {
		if o.Hold, err = ParseHold(hold, o.Flows); err != nil {
			return fmt.Errorf("--hold %s: %w", hold, err)
		}
	}
	switch {
	case o.Slots < 1 || o.Slots > 10_000:
		return errors.New("--workers: want 1 to 10,000 slots")
	case o.Processes < 0 || o.Processes > o.Slots:
		return errors.New("--worker-processes: want at least one slot for each")
	case o.Quiet < 0 || o.For <= 0 || o.Drain < 0:
		return errors.New("--quiet, --for and --drain: want durations, --for above 0")
	case output != "table" && output != "json":
		return errors.New("-o: want table or json")
	case plan.NewRun(0, o.Flows, o.Quiet, o.For).Jobs() > maxJobs:
		return fmt.Errorf("more than %d jobs: send less or for a shorter time", maxJobs)
	}
	return nil
}

// main runs a load against the running dev or one of its own.
func main(cmd *cobra.Command, opts Options, output, dataDir string, own dev.Options) (err error) {
	ctx, sending, stopSignals := process.Signals(cmd.Context())
	defer stopSignals()
	terminal := process.Terminal(os.Stderr)
	out := process.NewOutput(os.Stderr, terminal)
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelWarn}))

	dir, err := os.MkdirTemp("", "spillway-load-")
	if err != nil {
		return fmt.Errorf("temporary directory: %w", err)
	}
	keep := false
	defer func() {
		if !keep {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	target, stop, err := attach(ctx, dataDir, dir, own, out, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop(keep)) }()
	if opts.IDs == "" {
		opts.IDs = filepath.Join(dir, "load.ids")
	}
	r := &runner{opts: opts, target: target, log: log, begin: func() { fmt.Fprintf(out, "sending %s\n", describe(opts)) }}
	if terminal {
		r.line = out
	}
	if opts.Processes > 0 {
		tell := func(pids []int) { fmt.Fprintf(out, "workers %s\n", join(pids)) }
		if r.workers, err = work.NewProcesses(opts.Processes, r.poolConfig(target()), r, out, log, tell); err != nil {
			return err
		}
	}
	report, err := r.Run(ctx, sending)
	if err != nil {
		return err
	}
	if output == "json" {
		err = report.WriteJSON(cmd.OutOrStdout())
	} else {
		err = report.WriteTable(cmd.OutOrStdout())
	}
	if err != nil {
		return fmt.Errorf("print the report: %w", err)
	}
	if report.Ledger.Lost > 0 {
		keep = true
		return exit.Errorf(exit.Failed, "%d jobs were lost; their ids are among those in %s", report.Ledger.Lost, opts.IDs)
	}
	return nil
}

// attach finds the running dev, or starts one in dir.
// stop ends it; with keep its topics in a cluster stay, to be looked at.
func attach(ctx context.Context, dataDir, dir string, own dev.Options, out *process.Output, log *slog.Logger) (target func() readyfile.File, stop func(keep bool) error, err error) {
	if own.Log.Kafka == "" {
		found, err := locate.Find(dataDir)
		if err == nil {
			return func() readyfile.File {
				// Pids change when a process is started again.
				if now, err := readyfile.Read(found.DataDir); err == nil {
					return now
				}
				return found
			}, func(bool) error { return nil }, nil
		}
		if !errors.Is(err, readyfile.ErrAbsent) {
			return nil, nil, err
		}
		fmt.Fprintln(out, "no spillway dev is running")
	}
	return temporary.Start(ctx, dir, own, out, log)
}

func describe(o Options) string {
	names := make([]string, 0, len(o.Flows))
	for _, f := range o.Flows {
		if len(names) == 8 {
			names = append(names, fmt.Sprintf("… %d in all", len(o.Flows)))
			break
		}
		names = append(names, fmt.Sprintf("%s=%g/s", f.Name, f.Rate))
	}
	text := strings.Join(names, " ")
	if o.Quiet > 0 {
		text += fmt.Sprintf(", %v without floods,", o.Quiet)
	}
	return fmt.Sprintf("%s for %v", text, o.For)
}

func join(pids []int) string {
	texts := make([]string, len(pids))
	for i, pid := range pids {
		texts[i] = strconv.Itoa(pid)
	}
	return strings.Join(texts, " ")
}

package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/cmd/spillway/internal/load/account"
	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/send"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
	"github.com/spillway/spillway/cmd/spillway/internal/load/work"
	"github.com/spillway/spillway/cmd/spillway/internal/process"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/rpc"
)

// Options are what a run is asked for.
type Options struct {
	Flows []plan.Flow
	// Slots is how many jobs run at a time, in all.
	Slots int
	// Processes, above 0, divides the slots over so many processes.
	Processes  int
	Quiet, For time.Duration
	// Drain is how long to wait, after the sending time, for what is left.
	Drain time.Duration
	Hold  *Hold
	// IDs is the file that ids are written to before they are sent.
	IDs string
}

// runner is one run under way.
type runner struct {
	opts   Options
	target func() readyfile.File // where everything is, now
	// begin is called when everything is prepared and sending begins.
	begin func()
	// line draws progress; nil for none.
	line io.Writer
	log  *slog.Logger

	sender  *send.Sender
	book    *tally.Book
	workers *work.Processes
	warm    chan string  // types of warm-up jobs that ran
	start   atomic.Int64 // sender.Base for the handlers, in Unix nanoseconds
}

const (
	// warmTimeout is how long workers may take to be connected.
	warmTimeout = 30 * time.Second
	// lead is between the end of preparations and the first due job.
	lead = 50 * time.Millisecond
	// seedShift keeps seeds exact in JSON numbers, which have 53 bits.
	seedShift = 64 - 53
	// drainEvery is how often it is looked whether jobs are left.
	drainEvery = 20 * time.Millisecond
)

// Run sends, runs, drains and accounts. sending ends the sending time early,
// ctx the whole run: what is known by then is reported.
func (r *runner) Run(ctx, sending context.Context) (*Report, error) {
	run := plan.NewRun(rand.Uint64()>>seedShift, r.opts.Flows, r.opts.Quiet, r.opts.For)
	r.book = tally.New(run)
	r.warm = make(chan string, 64)
	ids, err := os.OpenFile(r.opts.IDs, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("file of ids: %w", err)
	}
	defer ids.Close()
	target := r.target()
	automation, err := rpc.Dial(target.Endpoints.Automation, rpc.DialConfig{Token: target.Tokens.Operator})
	if err != nil {
		return nil, fmt.Errorf("dial automation: %w", err)
	}
	defer automation.Close()
	if err := send.Register(ctx, automation, "spillway load", run.Flows); err != nil {
		return nil, err
	}
	r.sender = &send.Sender{Run: run, Book: r.book, IDs: ids}
	enqueues := send.Addresses(target)
	for i := range run.Flows {
		c, err := client.Dial(enqueues[i%len(enqueues)], client.WithToken(target.Tokens.Service))
		if err != nil {
			return nil, fmt.Errorf("dial enqueue: %w", err)
		}
		defer c.Close()
		r.sender.To = append(r.sender.To, c)
	}

	pool, stopPool := context.WithCancel(context.WithoutCancel(ctx))
	poolDone := make(chan error, 1)
	go func() { poolDone <- r.pool(pool, target) }()
	stop := sync.OnceValue(func() error { stopPool(); return <-poolDone })
	defer stop()
	if err := r.warmUp(ctx, poolDone); err != nil {
		return nil, err
	}
	return r.measure(ctx, sending, run, automation, stop)
}

// measure is the run proper, once workers and services are known to be there.
func (r *runner) measure(ctx, sending context.Context, run plan.Run, automation *grpc.ClientConn, stopPool func() error) (*Report, error) {
	r.begin()
	before := measureAll(r.target())
	r.sender.Base = time.Now().Add(lead)
	base := r.sender.Base
	r.start.Store(base.UnixNano())
	background, stopBackground := context.WithCancel(ctx)
	defer stopBackground()
	var watchers sync.WaitGroup
	if r.line != nil {
		p := &progress{w: r.line, run: run, base: base, book: r.book}
		watchers.Go(func() { p.draw(background) })
	}
	var held *Switch
	var holdErr error
	if r.opts.Hold != nil {
		watchers.Go(func() { held, holdErr = r.opts.Hold.holdAndResume(sending, automation, run, base) })
	}
	answered := make(chan struct{})
	calls, giveUp := context.WithCancel(ctx)
	defer giveUp()
	go func() { r.sender.Send(sending, calls); close(answered) }()

	sendingOver := send.SleepUntil(sending, base.Add(run.Quiet+run.For))
	drainFrom := time.Now()
	drained := r.drain(ctx, answered)
	end, drainTook := time.Since(base), time.Since(drainFrom)
	giveUp() // whatever is not answered by now stays unknown
	<-answered

	conditions := Conditions{
		Seed: run.Seed, Broker: r.target().Broker.Kind, Schedulers: len(r.target().Endpoints.Scheduler), Enqueues: len(send.Addresses(r.target())),
		Cores: runtime.NumCPU(), Slots: r.opts.Slots, QuietS: seconds(run.Quiet), SendingS: seconds(drainFrom.Sub(base) - run.Quiet),
		DrainS: seconds(drainTook), Drained: drained,
	}
	uses := measureUse(before, r.target())
	ledger, trimmed, err := account.Reconcile(ctx, r.target(), r.sender)
	if err != nil {
		return nil, err
	}
	conditions.OutcomesTrimmed = trimmed
	stopBackground()
	watchers.Wait()
	pids := []int{}
	if r.workers != nil {
		pids = r.workers.PIDs()
	}
	if err := stopPool(); err != nil {
		r.log.Warn("workers ended with an error", "error", err.Error())
	}
	if holdErr != nil {
		r.log.Error("the switch failed", "error", holdErr.Error())
	}
	held.count(r.book)
	phaseEnd := run.Quiet + run.For
	if !sendingOver {
		phaseEnd = min(phaseEnd, drainFrom.Sub(base)+time.Second)
	}
	report := &Report{
		Phase: r.book.Phase(run.Quiet, phaseEnd, end), Quiet: r.book.Phase(0, run.Quiet, end),
		Switch: held, Workers: pids, Ledger: ledger, Reasons: r.sender.Reasons(), Processes: uses, Run: conditions,
	}
	if n := r.sender.Unsent(); n > 0 {
		r.log.Warn("jobs were counted as refused without being sent: too many answers were awaited", "jobs", n)
	}
	return report, nil
}

// drain waits until every job is answered and done, or for the drain time.
func (r *runner) drain(ctx context.Context, answered <-chan struct{}) bool {
	deadline := time.Now().Add(r.opts.Drain)
	for {
		select {
		case <-answered:
			if r.book.Open() == 0 {
				return true
			}
		default:
		}
		if time.Now().After(deadline) || !send.SleepUntil(ctx, time.Now().Add(drainEvery)) {
			return false
		}
	}
}

// pool runs the workers, here or in processes of their own.
func (r *runner) pool(ctx context.Context, target readyfile.File) error {
	if r.workers == nil {
		return work.Run(ctx, r.poolConfig(target), r, r.log)
	}
	r.workers.Run(ctx)
	return nil
}

func (r *runner) poolConfig(target readyfile.File) work.Config {
	return work.Config{
		Schedulers: strings.Join(target.Endpoints.Scheduler, ","), Token: target.Tokens.Worker,
		Types: send.Types(r.opts.Flows), Slots: r.opts.Slots, Workers: work.SDKWorkers,
	}
}

// Started is called by workers of this process and for those of others.
func (r *runner) Started(in plan.Instruction, at time.Time) {
	run := r.sender.Run
	if in.Seed == warmSeed(run) && int(in.Flow) < len(run.Flows) {
		select {
		case r.warm <- run.Flows[in.Flow].Type:
		default: // nobody waits any more
		}
		return
	}
	if in.Seed == run.Seed {
		r.book.Started(int(in.Flow), int(in.Seq), time.Duration(at.UnixNano()-r.start.Load()))
	}
}

// Finished is called as Started is.
func (r *runner) Finished(in plan.Instruction, at time.Time) {
	if in.Seed == r.sender.Run.Seed {
		r.book.Finished(int(in.Flow), int(in.Seq))
	}
}

// warmSeed marks the jobs that only find out whether workers are there.
func warmSeed(run plan.Run) uint64 { return ^run.Seed }

// warmUp sends a job of each type and waits until it ran: workers connect in
// the background, and what they take for it is not what is to be measured.
func (r *runner) warmUp(ctx context.Context, poolDone <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	run := r.sender.Run
	run.Seed = warmSeed(run)
	wait := make(map[string]bool)
	for i, f := range run.Flows {
		if wait[f.Type] {
			continue
		}
		payload := run.Payload(i, 0)
		clear(payload[24:plan.InstructionBytes]) // no work to do
		_, err := r.sender.To[i].Enqueue(ctx, client.Job{Source: f.Name, Tenant: run.Tenant(i, 0), Type: f.Type, Payload: payload})
		if err != nil {
			return fmt.Errorf("first job of %s: %w", f.Name, err)
		}
		wait[f.Type] = true
	}
	for len(wait) > 0 {
		select {
		case t := <-r.warm:
			delete(wait, t)
		case err := <-poolDone:
			return fmt.Errorf("workers ended: %w", errors.Join(err, errors.New("before the first job")))
		case <-ctx.Done():
			return fmt.Errorf("no worker ran a job of %d type(s) within %v", len(wait), warmTimeout)
		}
	}
	return nil
}

// measureAll reads what the processes of a dev have used so far.
func measureAll(f readyfile.File) map[int]process.Usage {
	uses := make(map[int]process.Usage)
	for _, p := range withSelf(f) {
		if u, ok := process.Measure(p.PID); ok {
			uses[p.PID] = u
		}
	}
	return uses
}

func measureUse(before map[int]process.Usage, f readyfile.File) []ProcessUse {
	var list []ProcessUse
	for _, p := range withSelf(f) {
		if u, ok := process.Measure(p.PID); ok {
			list = append(list, ProcessUse{
				Name: p.Name, CPUSeconds: seconds(u.CPU - before[p.PID].CPU), PeakRSSBytes: u.Peak, Restarts: p.Restarts,
			})
		}
	}
	return list
}

// withSelf returns the processes of a dev and this one.
func withSelf(f readyfile.File) []readyfile.Process {
	return append(slices.Clone(f.Processes), readyfile.Process{Name: "load", PID: os.Getpid()})
}

package replay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/send"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
	"github.com/spillway/spillway/cmd/spillway/internal/replay/judge"
	sdk "github.com/spillway/spillway/pkg/client"
)

const (
	// warmTimeout is how long workers may take to be connected and to run a
	// first job of every source.
	warmTimeout = 30 * time.Second
	// lead is between the end of preparations and the first due job.
	lead = 50 * time.Millisecond
	// lookEvery is how often it is looked whether something is over.
	lookEvery = 20 * time.Millisecond
	// tailTimeout bounds what is left of the tenants' jobs and notifications
	// when the run is over.
	tailTimeout = 15 * time.Second
	// seedShift keeps seeds exact in JSON numbers, which have 53 bits.
	seedShift = 64 - 53
)

// runner is one replay under way.
type runner struct {
	times judge.Times
	on    stage
	ids   string // file that every id is written to before it is sent
	say   func(format string, args ...any)
	live  io.Writer // where a line of progress is drawn; nil: nowhere

	run   plan.Run
	book  *tally.Book
	post  *judge.Post
	start atomic.Int64 // of the run, Unix nanoseconds
	warm  chan int     // flows whose warm-up job ran
	phase atomic.Pointer[string]

	report judge.Report
}

// flooder is the index of the flooder's flow: the last.
const flooder = judge.Tenants

// play prepares everything, plays the scenario and judges it.
func (r *runner) play(ctx context.Context) (*judge.Report, error) {
	r.run = judge.Plan(rand.Uint64()>>seedShift, r.times)
	r.book = tally.New(r.run)
	r.post = judge.NewPost(r.run, judge.Tenants*judge.Readers)
	r.warm = make(chan int, len(r.run.Flows))
	ids, err := os.OpenFile(r.ids, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("file of ids: %w", err)
	}
	defer ids.Close()
	ports, err := r.on.ports(ctx, r.run)
	if err != nil {
		return nil, err
	}
	sender := &send.Sender{Run: r.run, Book: r.book, IDs: ids, To: ports}

	pool, stopPool := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- r.on.work(pool, r); close(ended) }()
	stop := sync.OnceValue(func() error { stopPool(); return <-ended })
	defer stop()
	crowd := &audience{dial: r.on.dial, post: r.post}
	defer crowd.leave()
	if err := crowd.take(ctx); err != nil {
		return nil, err
	}
	if err := r.warmUp(ctx, ports, ended); err != nil {
		return nil, err
	}
	op, err := r.on.operator(ctx)
	if err != nil {
		return nil, err
	}
	if op != nil {
		defer op.close()
	}
	if err := r.timeline(ctx, sender, op); err != nil {
		return nil, err
	}
	if err := r.close(ctx, sender, crowd); err != nil {
		return nil, err
	}
	if err := stop(); err != nil {
		r.say("workers ended with an error: %v", err)
	}
	return &r.report, nil
}

// marks are when something happened, since the run's begin; 0 for never.
type marks struct {
	floodEnd, heldFrom, heldTo, drain, after, afterEnd, end time.Duration
}

// timeline is the run proper. It fills in the report's figures.
func (r *runner) timeline(ctx context.Context, sender *send.Sender, op operator) error {
	base := time.Now().Add(lead)
	sender.Base = base
	r.start.Store(base.UnixNano())
	r.post.Begin(base)
	background, stopBackground := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer stopBackground()
	memory := &sampler{of: r.on.processes, ceiling: r.on.ceiling}
	watchers.Go(func() { memory.run(background) })
	if r.live != nil {
		watchers.Go(func() { r.draw(background, r.live) })
	}
	tenants, endTenants := context.WithCancel(ctx)
	defer endTenants()
	calls, giveUp := context.WithCancel(ctx)
	answered := make(chan struct{})
	go func() { sender.Send(tenants, calls); close(answered) }()
	defer func() { giveUp(); <-answered }()

	r.enter("quiet", "%d tenants alone for %v: %d jobs/s each, %d clients each, of which %d never read",
		judge.Tenants, r.times.Quiet, judge.VictimRate, judge.Clients, judge.Clients-judge.Readers)
	first := base.Add(r.times.Quiet) // job of the flood
	naming := make(chan found, 1)
	if op != nil {
		watchers.Go(func() { r.name(background, op, first, naming) })
	}
	if !send.SleepUntil(ctx, first) {
		return errStopped
	}
	r.enter("flood", "a source begins %d jobs/s", judge.FloodRate)
	before := memory.mark()
	if !send.SleepUntil(ctx, first.Add(r.times.Flood)) {
		return errStopped
	}
	r.report.Run.Others = others(before, memory.mark())
	m := marks{floodEnd: time.Since(base)}
	select {
	case f := <-naming:
		after := milliseconds(f.at.Sub(first))
		r.report.Flood.Source, r.report.Flood.NamedAfter = f.source, &after
		if !r.stop(ctx, op, f.source, base, &m) {
			return errStopped
		}
	default: // nobody to hold, or named too late for it
		if !send.SleepUntil(ctx, first.Add(r.times.Flood+r.times.Held)) {
			return errStopped
		}
	}
	r.enter("drain", "the flood is over; its backlog is worked off")
	from := time.Now()
	m.drain = from.Sub(base)
	if r.drained(ctx, from.Add(r.times.Drain)) {
		took := milliseconds(time.Since(from))
		r.report.Flood.Drained = &took
		m.after = time.Since(base)
		r.enter("after", "its backlog is gone; the tenants run on for %v", r.times.After)
		send.SleepUntil(ctx, time.Now().Add(r.times.After))
	}
	m.afterEnd = time.Since(base)
	if m.after == 0 {
		m.after = m.afterEnd // the backlog is not gone: all of it is its drain
	}
	endTenants()
	r.enter("end", "counting")
	r.tail(ctx, answered)
	giveUp()
	<-answered
	if ctx.Err() != nil {
		return errStopped
	}
	m.end = time.Since(base)
	memory.look()
	r.report.Memory, r.report.Generator = memory.peaks()
	r.figures(m)
	return nil
}

// found is a source that was named.
type found struct {
	source string
	at     time.Time
}

// name waits until a source is named. If that does not happen before ctx ends,
// the report says that nobody was.
func (r *runner) name(ctx context.Context, op operator, first time.Time, to chan<- found) {
	source, at, err := op.name(ctx)
	if err != nil {
		return
	}
	r.say("named: %s, %.1f s after the flood's first job", source, at.Sub(first).Seconds())
	to <- found{source, at}
}

// stop holds a source for its time, and resumes it. The flood goes on arriving
// meanwhile. It reports false when ctx ended.
func (r *runner) stop(ctx context.Context, op operator, source string, base time.Time, m *marks) bool {
	over := base.Add(m.floodEnd + r.times.Held) // the flood
	asked := time.Now()
	if err := op.hold(ctx, source, r.times.Held+time.Minute); err != nil {
		r.say("the hold failed: %v", err)
		return send.SleepUntil(ctx, over)
	}
	m.heldFrom = time.Since(base)
	s := &judge.Switch{HoldMS: milliseconds(time.Since(asked))}
	r.report.Switch = s
	r.enter("held", "held: %s after %.0f ms; it stays so for %v", source, s.HoldMS, r.times.Held)
	going := send.SleepUntil(ctx, base.Add(m.heldFrom+r.times.Held))
	asked = time.Now()
	m.heldTo = asked.Sub(base)
	if err := op.resume(context.WithoutCancel(ctx), source); err != nil {
		r.say("the resume failed: %v", err)
		return going
	}
	took := milliseconds(time.Since(asked))
	s.ResumeMS = &took
	return going
}

// figures fills in what was counted, by the parts of the run.
func (r *runner) figures(m marks) {
	rep := &r.report
	rep.Flood.True = judge.Flooder
	rep.Victims.Quiet, rep.Victims.Flood = r.waits(0, r.times.Quiet, m.end), r.waits(r.times.Quiet, m.floodEnd, m.end)
	rep.Notifications.Quiet, rep.Notifications.Flood = r.post.Between(0, r.times.Quiet), r.post.Between(r.times.Quiet, m.floodEnd)
	rep.Screens.Quiet, rep.Screens.Flood = r.post.Screens(0, r.times.Quiet), r.post.Screens(r.times.Quiet, m.floodEnd)
	if rep.Switch != nil {
		held := r.waits(m.heldFrom, m.heldTo, m.end)
		rep.Victims.Held = &held
		rep.Switch.StartedAfterHold = r.book.StartedWithin(flooder, m.heldFrom, m.heldTo)
		if rep.Switch.ResumeMS != nil && m.after-m.heldTo >= judge.RampTime {
			n := r.book.StartedWithin(flooder, m.heldTo, m.heldTo+judge.RampTime)
			rep.Switch.StartedInRamp = &n
		}
	}
	drain := r.waits(m.drain, m.after, m.end)
	rep.Victims.Drain = &drain
	if m.afterEnd > m.after {
		waits, posts, screens := r.waits(m.after, m.afterEnd, m.end), r.post.Between(m.after, m.afterEnd), r.post.Screens(m.after, m.afterEnd)
		rep.Victims.After, rep.Notifications.After, rep.Screens.After = &waits, &posts, &screens
	}
	rep.Run = judge.Run{
		Seed: r.run.Seed, Cores: runtime.NumCPU(), Others: rep.Run.Others, Slots: judge.Slots, Schedulers: r.on.schedulers(),
		QuietS: r.times.Quiet.Seconds(), FloodS: r.times.Flood.Seconds(), HeldS: r.times.Held.Seconds(), TookS: m.end.Round(100 * time.Millisecond).Seconds(),
	}
}

var errStopped = errors.New("stopped before the end: there is no verdict")

// enter names the phase for the progress line and says what happens.
func (r *runner) enter(phase, format string, args ...any) {
	r.phase.Store(&phase)
	r.say(format, args...)
}

// waits is how long the tenants' jobs of a part of the run waited.
func (r *runner) waits(from, to, end time.Duration) judge.Spread {
	for _, g := range r.book.Phase(from, to, end).Groups {
		return judge.Waits(g) // the only group: tenant-01 …
	}
	return judge.Spread{}
}

// drained waits until every job of the flood is answered and done, and what the
// tenants have open is what runs: behind a flood in one queue, theirs wait, too.
func (r *runner) drained(ctx context.Context, deadline time.Time) bool {
	for {
		if l := r.book.Live(flooder); l.Sent == r.run.Schedules[flooder].Count() && l.Sent == l.Accepted+l.Refused+l.Unknown && l.Open == 0 && r.book.Open() <= judge.Slots {
			return true
		}
		if time.Now().After(deadline) || !send.SleepUntil(ctx, time.Now().Add(lookEvery)) {
			return false
		}
	}
}

// tail waits until what was sent is answered and done, for a while.
func (r *runner) tail(ctx context.Context, answered <-chan struct{}) {
	deadline := time.Now().Add(tailTimeout)
	for time.Now().Before(deadline) {
		select {
		case <-answered:
			if r.book.Open() == 0 {
				return
			}
		default:
		}
		if !send.SleepUntil(ctx, time.Now().Add(lookEvery)) {
			return
		}
	}
}

// close counts what became of everything, and judges.
func (r *runner) close(ctx context.Context, sender *send.Sender, crowd *audience) error {
	rep, n := &r.report, &r.report.Notifications
	deadline := time.Now().Add(tailTimeout)
	for {
		n.Expected, n.Missing = crowd.missing(r.book, r.run)
		if n.Missing == 0 || time.Now().After(deadline) || !send.SleepUntil(ctx, time.Now().Add(10*lookEvery)) {
			break
		}
		if rep.Flood.Drained == nil && r.book.Open() > 0 {
			break // a backlog is left: it is not worth waiting for
		}
	}
	n.Again, n.Gaps, n.Cuts = r.post.Counts()
	n.Clients, n.Stalled = judge.Tenants*judge.Clients, judge.Tenants*(judge.Clients-judge.Readers)
	var err error
	if rep.Ledger, rep.Run.OutcomesTrimmed, err = r.on.account(ctx, sender); err != nil {
		return err
	}
	live := r.book.Live(flooder)
	rep.Flood.Accepted, rep.Flood.Finished = live.Accepted, live.Finished
	rep.Scenario, rep.Broker = judge.Avochato, r.on.broker()
	rep.Reasons = sender.Reasons()
	if trouble := r.on.troubles(); len(trouble) > 0 {
		if rep.Reasons == nil {
			rep.Reasons = make(map[string]int)
		}
		maps.Copy(rep.Reasons, trouble)
	}
	return nil
}

// Started and Finished are told by handlers.
func (r *runner) Started(in plan.Instruction, at time.Time) {
	switch {
	case in.Seed == warmSeed(r.run) && int(in.Flow) < len(r.run.Flows):
		select {
		case r.warm <- int(in.Flow):
		default: // nobody waits any more
		}
	case in.Seed == r.run.Seed:
		r.book.Started(int(in.Flow), int(in.Seq), time.Duration(at.UnixNano()-r.start.Load()))
	}
}

// Finished is described at Started.
func (r *runner) Finished(in plan.Instruction, _ time.Time) {
	if in.Seed == r.run.Seed {
		r.book.Finished(int(in.Flow), int(in.Seq))
	}
}

// warmSeed marks the jobs that only make connections.
func warmSeed(run plan.Run) uint64 { return ^run.Seed }

// warmUp sends a job of every source and waits until all ran: what connections
// take is not what is to be measured.
func (r *runner) warmUp(ctx context.Context, ports []send.Port, ended <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, warmTimeout)
	defer cancel()
	run := r.run
	run.Seed = warmSeed(run)
	open := make(map[int]bool)
	for i, f := range run.Flows {
		payload := run.Payload(i, 0)
		clear(payload[24:plan.InstructionBytes]) // no work to do
		job := sdk.Job{Source: f.Name, Tenant: run.Tenant(i, 0), Type: f.Type, Payload: payload}
		if _, err := ports[i].Enqueue(ctx, job); err != nil {
			return fmt.Errorf("first job of %s: %w", f.Name, err)
		}
		open[i] = true
	}
	for len(open) > 0 {
		select {
		case i := <-r.warm:
			delete(open, i)
		case err := <-ended:
			return fmt.Errorf("workers ended before the first job: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("no worker ran the first job of %d sources within %v", len(open), warmTimeout)
		}
	}
	return nil
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond).Microseconds()) / 1000
}

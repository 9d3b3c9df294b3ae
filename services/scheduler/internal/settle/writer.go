package settle

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/produce"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// again is how long a failed write waits before it is tried again. The log's client has tried for seconds by then; what fails here is
// fenced, suspended or full.
const again = 100 * time.Millisecond

// failedBytes is how much may wait to be written again before intake waits: as much as half of what the log's client holds. What is above it
// came from results of running jobs and from moves, whose records the engine counts.
const failedBytes = 16 << 20

// Config is what the writer needs to know of its installation.
type Config struct {
	Topics  kafka.Topics
	Replica string
	MACKey  []byte // authenticates events (format 5)
}

// Deps are the rooms around.
type Deps struct {
	Log     *slog.Logger
	Records Log
	Engine  Engine
	Homes   Homes
	Workers Workers
}

// Writer makes settlements and moves durable. New makes one; Run must run for it to get anywhere.
type Writer struct {
	cfg  Config
	deps Deps

	mu sync.Mutex
	// durable is what the log has and the engine does not know yet.
	durable []fact
	// failed is what the log did not take. Bound: one a lease, one a move, and what intake adds below failedBytes.
	failed []retry
	// moves is what the engine wants moved.
	moves []wish

	wakeFacts, wakeMoves chan struct{} // 1 deep

	held atomic.Int64 // bytes of the records in failed
}

// retry is a write that failed, and the size of its record.
type retry struct {
	bytes int64
	send  func()
}

// fact is one thing that has become durable.
type fact struct {
	settlement core.Settlement
	epoch      int64         // under which it was decided: nothing of it is written or told under another (H5)
	outcome    jobv1.Outcome // of a terminal settlement
	offset     int64         // of the event; -1 when none was needed
	queued     bool          // the engine has the job
	moved      bool          // a copy is at home to; else an event
	late       bool          // the job had ended when its copy became durable
	from, to   core.Home
}

// New returns a writer that does nothing yet.
func New(cfg Config, deps Deps) *Writer {
	return &Writer{cfg: cfg, deps: deps, wakeFacts: make(chan struct{}, 1), wakeMoves: make(chan struct{}, 1)}
}

// Run tells the engine what has become durable and writes the moves that it asks for, until ctx ends.
func (w *Writer) Run(ctx context.Context) error {
	var moving sync.WaitGroup
	moving.Go(func() { w.runMoves(ctx) })
	defer moving.Wait()
	tick := time.NewTicker(again)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			w.publish() // what is durable already
			return nil
		case <-w.wakeFacts:
			w.publish()
		case <-tick.C:
			w.mu.Lock()
			failed := w.failed
			w.failed = nil
			w.mu.Unlock()
			for _, f := range failed {
				w.held.Add(-f.bytes)
				f.send()
			}
		}
	}
}

// Room waits until so little waits to be written again that intake may add to it. It fails only when ctx ends.
func (w *Writer) Room(ctx context.Context) error {
	for w.held.Load() > failedBytes {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(again):
		}
	}
	return nil
}

// later keeps a write for the next round.
func (w *Writer) later(bytes int, send func()) {
	w.held.Add(int64(bytes))
	w.mu.Lock()
	w.failed = append(w.failed, retry{int64(bytes), send})
	w.mu.Unlock()
}

// Settle makes a settlement of the engine durable and then tells the engine, the homes and the worker. It does not block.
func (w *Writer) Settle(s core.Settlement) {
	w.decide(fact{settlement: s, outcome: outcomes[s.Kind], queued: true})
}

// Finish makes the outcome of a job durable that the engine does not have. It does not block; Room goes before it.
func (w *Writer) Finish(job *core.Job, outcome jobv1.Outcome, why core.Reason) {
	w.decide(fact{settlement: core.Settlement{Job: job, Reason: why}, outcome: outcome})
}

func (w *Writer) decide(f fact) {
	var owned bool
	if f.epoch, owned = w.deps.Homes.Epoch(f.settlement.Job.Shard); owned {
		w.settle(f)
	}
}

// stands reports whether the replica still owns the shard under the epoch: if not, the next owner decides about the job.
func (w *Writer) stands(shard int32, epoch int64) bool {
	now, owned := w.deps.Homes.Epoch(shard)
	return owned && now == epoch
}

func (w *Writer) settle(f fact) {
	s := f.settlement
	switch {
	case !w.stands(s.Job.Shard, f.epoch):
		return
	case f.outcome == jobv1.Outcome_OUTCOME_UNSPECIFIED && !s.Attempt.Counted:
		f.offset = -1
		w.done(f)
	case f.outcome == jobv1.Outcome_OUTCOME_DEAD:
		w.bury(f)
	default:
		w.event(f)
	}
}

// bury appends the dead letter, and then the event: a crash in between makes a second dead letter, not a lost one.
func (w *Writer) bury(f fact) {
	job := f.settlement.Job
	headers := w.copyHeaders(job, f.epoch, jobv1.WaitCause_WAIT_CAUSE_UNSPECIFIED)
	w.send(produce.Record{
		Topic: w.cfg.Topics.Dead(), Partition: int(job.Shard), Key: []byte(job.Source), Value: record(job).Value,
		Headers: append(headers, kafka.Header{Key: envelope.HeaderReason, Value: []byte(reason(f.settlement))}),
	}, func(int64) { w.event(f) }, func() { w.settle(f) })
}

func (w *Writer) event(f fact) {
	s := f.settlement
	var event *logv1.JobEvent
	if f.outcome == jobv1.Outcome_OUTCOME_UNSPECIFIED {
		event = attemptFailed(f.epoch, s)
	} else {
		event = settled(f.epoch, s, f.outcome, time.Now())
	}
	value, topic := encode(event), w.cfg.Topics.Outcomes()
	w.send(produce.Record{
		Topic: topic, Partition: int(s.Job.Shard), Key: []byte(s.Job.Source), Value: value, Headers: w.eventHeaders(topic, value),
	}, func(offset int64) {
		f.offset = offset
		w.done(f)
	}, func() { // not from the beginning: a dead letter is written already
		if w.stands(s.Job.Shard, f.epoch) {
			w.event(f)
		}
	})
}

// send appends a record; one that fails is kept, and again is called later.
func (w *Writer) send(rec produce.Record, ok func(offset int64), again func()) {
	failed := func(err error) {
		w.deps.Log.Debug("a record was not written and will be again", "topic", rec.Topic, "partition", rec.Partition, "error", err)
		w.later(rec.Size(), again)
	}
	err := w.deps.Records.Send(rec, func(offset int64, err error) {
		if err != nil {
			failed(err)
			return
		}
		ok(offset)
	})
	if err != nil {
		failed(err)
	}
}

func (w *Writer) done(f fact) {
	w.mu.Lock()
	w.durable = append(w.durable, f)
	w.mu.Unlock()
	wake(w.wakeFacts)
}

// publish tells everybody what has become durable: the engine first, under one lock for all of it, because a job's home is the
// engine's to say.
func (w *Writer) publish() {
	w.mu.Lock()
	facts := w.durable
	w.durable = nil
	w.mu.Unlock()
	facts = slices.DeleteFunc(facts, func(f fact) bool { return !w.stands(f.settlement.Job.Shard, f.epoch) })
	if len(facts) == 0 {
		return
	}
	w.deps.Engine.Do(func(now time.Time, e *core.Engine) {
		for i := range facts {
			f := &facts[i]
			switch job := f.settlement.Job; {
			case f.moved && f.queued:
				e.Moved(now, job.ID, f.to)
				f.late = e.Ended(now, job.Shard, job.Source, job.ID)
			case f.moved:
			case f.queued:
				f.from = job.Home
				e.Settled(now, job.ID, f.settlement.Token)
			default:
				f.from = job.Home
			}
		}
	})
	for _, f := range facts {
		job := f.settlement.Job
		if !f.moved && f.offset >= 0 {
			w.deps.Homes.Event(job.Shard, job.ID, f.offset, f.outcome)
		}
		if f.moved || f.outcome != jobv1.Outcome_OUTCOME_UNSPECIFIED {
			w.deps.Homes.Complete(job.Shard, job.ID, f.from)
		}
		if f.late { // or a lane that is held would run it again, long after anybody remembers
			w.deps.Homes.Complete(job.Shard, job.ID, f.to)
		}
		if worker := f.settlement.Attempt.Worker; worker != "" && !f.moved {
			w.deps.Workers.Settled(worker, f.settlement.Token)
		}
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

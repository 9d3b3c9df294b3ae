package settle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/produce"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// full is how long Spill waits before it asks again whether the log's client has room.
const full = 2 * time.Millisecond

// maxParkedExtra is what the key and the headers of a parked record may weigh before they have to go, should there be too little room.
const maxParkedExtra = 16 << 10

// Move moves queued or running jobs to their lanes. It does not block; the engine hears of each by Moved.
func (w *Writer) Move(jobs []*core.Job, from []core.Home) {
	w.mu.Lock()
	for i, job := range jobs {
		if epoch, owned := w.deps.Homes.Epoch(job.Shard); owned {
			w.moves = append(w.moves, wish{job, from[i], epoch})
		}
	}
	w.mu.Unlock()
	wake(w.wakeMoves)
}

// moveAgain asks for a move that failed once more.
func (w *Writer) moveAgain(m wish) {
	w.mu.Lock()
	w.moves = append(w.moves, m)
	w.mu.Unlock()
	wake(w.wakeMoves)
}

// wish is a job that the engine wants moved, and the epoch under which it does.
type wish struct {
	job   *core.Job
	from  core.Home // where it was then
	epoch int64
}

func (w *Writer) runMoves(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wakeMoves:
		}
		w.mu.Lock()
		wishes := w.moves
		w.moves = nil
		w.mu.Unlock()
		wishes = slices.DeleteFunc(wishes, func(m wish) bool { return !w.stands(m.job.Shard, m.epoch) })
		// The engine goes on changing its jobs: what the copies say is read under its lock.
		jobs, wanted := make([]*core.Job, len(wishes)), make([]bool, len(wishes))
		w.deps.Engine.Do(func(_ time.Time, e *core.Engine) {
			for i, m := range wishes {
				job := m.job
				jobs[i] = &core.Job{ID: job.ID, Shard: job.Shard, Source: job.Source, Type: job.Type, Home: m.from,
					Attempts: job.Attempts, ReadyAt: job.ReadyAt, Quarantine: job.Quarantine, Record: job.Record}
				wanted[i] = e.Moving(job)
			}
		})
		for i, job := range jobs {
			if !wanted[i] {
				w.done(fact{settlement: core.Settlement{Job: job}, epoch: wishes[i].epoch, moved: true, offset: -1, from: job.Home})
				continue
			}
			if err := w.move(ctx, job, wishes[i].epoch, true); err != nil && ctx.Err() == nil {
				w.deps.Log.Debug("a job could not be moved to its lane and will be again", "source", job.Source, "type", job.Type, "error", err)
				w.later(0, func() { w.moveAgain(wishes[i]) }) // the engine waits for it, and has its record
			}
		}
	}
}

// Spill appends a job that the engine did not take to its lane, and completes its offset when the copy is durable. It waits for a lane
// and for room in the log's client, not for the log: waiting here is what slows intake down. It fails when ctx ends or no lane could
// be committed; then the job keeps its home.
func (w *Writer) Spill(ctx context.Context, job *core.Job) error {
	epoch, owned := w.deps.Homes.Epoch(job.Shard)
	if !owned {
		return nil // the next owner reads the record where it is
	}
	return w.move(ctx, job, epoch, false)
}

// move is the one function that changes a job's home (H10): append the copy, then complete the old offset.
func (w *Writer) move(ctx context.Context, job *core.Job, epoch int64, queued bool) error {
	lane, err := w.deps.Homes.Lane(ctx, job.Shard, epoch, job.Source, job.Type)
	if !w.stands(job.Shard, epoch) {
		return nil // as in Spill; what Lane counted went with the shard
	}
	if err != nil {
		return err
	}
	rec := produce.Record{
		Topic: w.cfg.Topics.Spill(), Partition: int(lane), Key: []byte(job.Source), Value: record(job).Value,
		Headers: w.copyHeaders(job, epoch, jobv1.WaitCause_WAIT_CAUSE_SPILL),
	}
	f := fact{
		settlement: core.Settlement{Job: job}, epoch: epoch, queued: queued, moved: true, offset: -1,
		from: job.Home, to: core.Home{Topic: core.TopicSpill, Partition: lane},
	}
	var attempt func()
	sent := func(offset int64, err error) {
		if err != nil {
			w.later(rec.Size(), attempt)
			return
		}
		w.deps.Homes.Landed(job.Shard, epoch, lane, offset)
		f.to.Offset = offset
		w.done(f)
	}
	attempt = func() {
		if w.stands(job.Shard, epoch) {
			if err := w.deps.Records.Send(rec, sent); err != nil {
				sent(0, err)
			}
		}
	}
	for {
		err := w.deps.Records.Send(rec, sent)
		if !errors.Is(err, kafka.ErrFull) {
			if err != nil {
				w.deps.Homes.Landed(job.Shard, epoch, lane, -1)
			}
			return err
		}
		select {
		case <-ctx.Done():
			w.deps.Homes.Landed(job.Shard, epoch, lane, -1)
			return ctx.Err()
		case <-time.After(full):
		}
	}
}

// Park appends a record that nobody can act on to the dead letters, as it is, and completes its offset when that is durable: it must
// not stand in the way of others (H15). job is what could be read of it, nil if nothing could; then it gets its outcome, too. It does not
// block; Room goes before it.
func (w *Writer) Park(shard int32, message kafka.Message, home core.Home, job *core.Job, why error) {
	text := cut(why.Error())
	letter := parked(produce.Record{
		Topic: w.cfg.Topics.Dead(), Partition: int(shard), Key: message.Key, Value: message.Value, Headers: append([]kafka.Header{
			{Key: envelope.HeaderParked, Value: []byte(text)},
			{Key: envelope.HeaderParkedFrom, Value: fmt.Appendf(nil, "%s/%d/%d", TopicName(home.Topic), home.Partition, home.Offset)},
		}, message.Headers...),
	})
	epoch, owned := w.deps.Homes.Epoch(shard)
	if !owned {
		return
	}
	var attempt func()
	attempt = func() {
		if !w.stands(shard, epoch) {
			return
		}
		w.send(letter, func(int64) {
			if job != nil {
				w.event(fact{settlement: core.Settlement{Job: job, Reason: core.Reason(text)}, epoch: epoch, outcome: jobv1.Outcome_OUTCOME_DEAD})
				return
			}
			w.done(fact{settlement: core.Settlement{Job: &core.Job{Shard: shard, Home: home}}, epoch: epoch, moved: true, offset: -1, from: home})
		}, attempt)
	}
	w.deps.Log.Warn("a record was parked among the dead letters", "topic", message.Topic, "partition", message.Partition, "offset", message.Offset,
		"version", headerText(message.Headers, envelope.HeaderVersion), "error", why)
	attempt()
}

// parked makes a dead letter fit. Only a record that enqueue has not written can be so large that what Park adds has no room: then its own
// headers and key stay away if they are much, and the value is cut, and a header says what there was.
func parked(letter produce.Record) produce.Record {
	if letter.Size() <= kafka.MaxRecordBytes {
		return letter
	}
	const ours = 2 // headers that Park adds
	was := produce.Record{Key: letter.Key, Headers: letter.Headers[ours:]}
	note := kafka.Header{Key: envelope.HeaderParkedCut, Value: fmt.Appendf(nil, "value %d, key %d, headers %d", len(letter.Value), len(was.Key), len(was.Headers))}
	if was.Size() > maxParkedExtra {
		letter.Key, was.Headers = nil, nil
	}
	letter.Headers = append(append(slices.Clone(letter.Headers[:ours]), note), was.Headers...)
	if over := letter.Size() - kafka.MaxRecordBytes; over > 0 {
		letter.Value = letter.Value[:len(letter.Value)-over]
	}
	return letter
}

func headerText(headers []kafka.Header, key string) string {
	value, _ := envelope.Get(headers, key)
	return string(value)
}

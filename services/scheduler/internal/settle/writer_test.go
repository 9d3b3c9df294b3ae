package settle

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/produce"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var job = core.Job{
	ID: core.JobID{1}, Shard: 3, Source: "crm", Type: "tag", Priority: core.Default,
	Home: core.Home{Topic: core.Topic(core.Default), Partition: 3, Offset: 41}, Record: &core.Record{Value: []byte("job")},
}

// run gives f a running writer in a bubble, and returns what happened in which order.
func run(t *testing.T, prepare func(*fakeLog, *fakeHomes), f func(context.Context, *Writer)) (lines []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		records, homes := &fakeLog{diary: d}, &fakeHomes{diary: d, lane: 19}
		if prepare != nil {
			prepare(records, homes)
		}
		w := New(Config{Topics: kafka.Topics{Prefix: "x."}, Replica: "s", MACKey: []byte("key")}, Deps{
			Log: slog.New(slog.DiscardHandler), Records: records, Engine: &fakeEngine{engine: core.New(core.Config{})}, Homes: homes, Workers: fakeWorkers{d},
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Run(ctx) }()
		f(ctx, w)
		time.Sleep(time.Second)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		lines = d.read()
	})
	return lines
}

func expect(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestEventBeforeOffset: an outcome is durable before the offset is complete and before the worker is told (H1, H3).
func TestEventBeforeOffset(t *testing.T) {
	j := job
	expect(t, run(t, nil, func(_ context.Context, w *Writer) {
		w.Settle(core.Settlement{Kind: core.Succeeded, Job: &j, Token: core.Token{Shard: 3, Epoch: 7, Counter: 1}, Attempt: core.Attempt{Worker: "w", Counted: true}})
	}), []string{"durable x.outcomes/3", "event OUTCOME_SUCCEEDED", "complete jobs.default/3@41", "told w"})
}

func TestDeadLetterBeforeItsEvent(t *testing.T) {
	j := job
	expect(t, run(t, nil, func(_ context.Context, w *Writer) {
		w.Settle(core.Settlement{Kind: core.Dead, Job: &j, Attempt: core.Attempt{Worker: "w", Counted: true}})
	}), []string{"durable x.dead/3", "durable x.outcomes/3", "event OUTCOME_DEAD", "complete jobs.default/3@41", "told w"})
}

// TestFailedAttemptKeepsItsOffset: the job's record stays its home until the job has an outcome.
func TestFailedAttemptKeepsItsOffset(t *testing.T) {
	j := job
	expect(t, run(t, nil, func(_ context.Context, w *Writer) {
		w.Settle(core.Settlement{Kind: core.Retrying, Job: &j, Attempt: core.Attempt{Worker: "w", Counted: true, Error: "broken \xff text"}})
	}), []string{"durable x.outcomes/3", "event OUTCOME_UNSPECIFIED", "told w"})
}

func TestSnoozeWritesNothing(t *testing.T) {
	j := job
	expect(t, run(t, nil, func(_ context.Context, w *Writer) {
		w.Settle(core.Settlement{Kind: core.Retrying, Job: &j, Attempt: core.Attempt{Worker: "w"}})
	}), []string{"told w"})
}

// TestCopyBeforeOldOffset: a move appends the copy and only then completes the old offset (H10).
func TestCopyBeforeOldOffset(t *testing.T) {
	j := job
	expect(t, run(t, nil, func(ctx context.Context, w *Writer) {
		if err := w.Spill(ctx, &j); err != nil {
			t.Error(err)
		}
	}), []string{"lane", "durable x.spill/19", "landed", "complete jobs.default/3@41"})
}

// handedOut has the engine hand a job out to be moved, because it has held up its window for too long.
func handedOut(w *Writer, j *core.Job) (moves []*core.Job, from []core.Home) {
	w.deps.Engine.Do(func(now time.Time, e *core.Engine) {
		e.Attach(now, j.Shard, 7)
		e.Offer(now, j)
	})
	time.Sleep(31 * time.Second)
	w.deps.Engine.Do(func(now time.Time, e *core.Engine) {
		chores := e.Tick(now)
		moves, from = slices.Clone(chores.Moves), slices.Clone(chores.From)
	})
	return moves, from
}

// TestCopyThatWasMetFirst: a copy by a former owner is read while the job is about to be moved. It is the job's home then: the one that it left is
// complete, and the copy is not, for the job still waits.
func TestCopyThatWasMetFirst(t *testing.T) {
	j, met := job, job
	met.Home = core.Home{Topic: core.TopicSpill, Partition: 19, Offset: 5}
	expect(t, run(t, nil, func(_ context.Context, w *Writer) {
		moves, from := handedOut(w, &j)
		w.deps.Engine.Do(func(now time.Time, e *core.Engine) { e.Offer(now, &met) })
		w.Move(moves, from)
	}), []string{"complete jobs.default/3@41"})
}

// TestCopyOfAnEndedJobIsComplete: a running job was being moved when it ended; its copy must not run.
func TestCopyOfAnEndedJobIsComplete(t *testing.T) {
	j := job
	expect(t, run(t, nil, func(_ context.Context, w *Writer) {
		w.Move(handedOut(w, &j))
		time.Sleep(time.Millisecond) // the copy is on its way
		w.deps.Engine.Do(func(now time.Time, e *core.Engine) {
			e.Detach(j.Shard)
			e.Attach(now, j.Shard, 7)
			e.Remember(now, j.Shard, j.Source, j.ID, j.Digest, now)
		})
	}), []string{"lane", "durable x.spill/19", "landed", "complete jobs.default/3@41", "complete spill/19@0"})
}

// TestFailedWritesAreRepeated: an append that failed, for whatever reason, is made again; nothing is complete before.
func TestFailedWritesAreRepeated(t *testing.T) {
	for name, fail := range map[string]error{"unsent": kafka.ErrUnsent, "fate unknown": kafka.ErrFateUnknown} {
		t.Run(name, func(t *testing.T) {
			j, k := job, job
			k.Home.Offset = 42
			lines := run(t, func(l *fakeLog, _ *fakeHomes) { l.fails = []error{fail, fail} }, func(ctx context.Context, w *Writer) {
				w.Settle(core.Settlement{Kind: core.Succeeded, Job: &j, Attempt: core.Attempt{Worker: "w", Counted: true}})
				if err := w.Spill(ctx, &k); err != nil {
					t.Error(err)
				}
			})
			for _, want := range []string{"complete jobs.default/3@41", "complete jobs.default/3@42", "told w"} {
				if n := len(slices.DeleteFunc(slices.Clone(lines), func(s string) bool { return s != want })); n != 1 {
					t.Errorf("%q happened %d times in %q", want, n, lines)
				}
			}
		})
	}
}

// TestSpillWaitsForRoom: a full log's client slows intake down; it does not lose the job.
func TestSpillWaitsForRoom(t *testing.T) {
	j := job
	expect(t, run(t, func(l *fakeLog, _ *fakeHomes) { l.full, l.err = 3, kafka.ErrFull }, func(ctx context.Context, w *Writer) {
		if err := w.Spill(ctx, &j); err != nil {
			t.Error(err)
		}
	}), []string{"lane", "durable x.spill/19", "landed", "complete jobs.default/3@41"})
}

func TestSpillThatCannotBeSentKeepsTheHome(t *testing.T) {
	j, broken := job, errors.New("broken")
	expect(t, run(t, func(l *fakeLog, _ *fakeHomes) { l.full, l.err = 1, broken }, func(ctx context.Context, w *Writer) {
		if err := w.Spill(ctx, &j); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	}), []string{"lane", "landed"})
}

// TestNothingIsWrittenForALostShard: the next owner runs the job.
func TestNothingIsWrittenForALostShard(t *testing.T) {
	j := job
	expect(t, run(t, func(_ *fakeLog, h *fakeHomes) { h.lost = true }, func(_ context.Context, w *Writer) {
		w.Settle(core.Settlement{Kind: core.Succeeded, Job: &j, Attempt: core.Attempt{Worker: "w", Counted: true}})
		w.Finish(&j, jobv1.Outcome_OUTCOME_EXPIRED, core.ReasonExpired)
	}), nil)
}

// TestDeadLetterIsWrittenOnce: an event that could not be written is written again, its dead letter is not (I13).
func TestDeadLetterIsWrittenOnce(t *testing.T) {
	j := job
	expect(t, run(t, func(l *fakeLog, _ *fakeHomes) { l.fails = []error{nil, kafka.ErrUnsent, kafka.ErrUnsent} }, func(_ context.Context, w *Writer) {
		w.Settle(core.Settlement{Kind: core.Dead, Job: &j, Attempt: core.Attempt{Worker: "w", Counted: true}})
	}), []string{"durable x.dead/3", "durable x.outcomes/3", "event OUTCOME_DEAD", "complete jobs.default/3@41", "told w"})
}

// TestParkedJobHasItsOutcome: a job that was accepted and that nobody can act on is dead, not gone (I1, I12).
func TestParkedJobHasItsOutcome(t *testing.T) {
	j := job
	expect(t, run(t, nil, func(_ context.Context, w *Writer) {
		w.Park(3, kafka.Message{Topic: "x.jobs.default", Partition: 3, Offset: 41, Value: []byte("job")}, j.Home, &j, errors.New("not registered"))
	}), []string{"durable x.dead/3", "durable x.outcomes/3", "event OUTCOME_DEAD", "complete jobs.default/3@41"})
}

func TestParkedRecordIsPassed(t *testing.T) {
	expect(t, run(t, nil, func(_ context.Context, w *Writer) {
		w.Park(3, kafka.Message{Topic: "x.jobs.high", Partition: 3, Offset: 5, Value: []byte("?")}, core.Home{Topic: core.Topic(core.High), Partition: 3, Offset: 5}, nil, errors.New("no job"))
	}), []string{"durable x.dead/3", "complete jobs.high/3@5"})
}

// TestIntakeWaitsForTheLog: what a log that takes no writes has not got stays within its budget, because intake waits; when the log is back all of it
// is written, and intake goes on (H25).
func TestIntakeWaitsForTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{}
		log, homes := &fakeLog{diary: d, full: 1 << 30, err: kafka.ErrFull}, &fakeHomes{diary: d, lane: 19}
		w := New(Config{Topics: kafka.Topics{Prefix: "x."}, Replica: "s", MACKey: []byte("key")}, Deps{
			Log: slog.New(slog.DiscardHandler), Records: log, Engine: &fakeEngine{engine: core.New(core.Config{})}, Homes: homes, Workers: fakeWorkers{d},
		})
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = w.Run(ctx) })
		const record, readers = 1 << 20, 8
		var taken atomic.Int64
		for range readers { // as intake's partitions do
			running.Go(func() {
				for w.Room(ctx) == nil && taken.Load() < 64 {
					n := taken.Add(1)
					home := core.Home{Topic: core.Topic(core.High), Partition: 3, Offset: n}
					w.Park(3, kafka.Message{Topic: "x.jobs.high", Partition: 3, Offset: n, Value: make([]byte, record)}, home, nil, errors.New("no job"))
				}
			})
		}
		time.Sleep(10 * time.Second)
		if held := w.held.Load(); taken.Load() == 64 || held > failedBytes+readers*(record+1024) || held < failedBytes {
			t.Errorf("%d records were taken, %d MiB are held", taken.Load(), held>>20)
		}
		log.mu.Lock()
		log.full = 0
		log.mu.Unlock()
		time.Sleep(10 * time.Second)
		if held := w.held.Load(); held != 0 {
			t.Errorf("%d bytes are held although all was written", held)
		}
		complete := 0
		for _, line := range d.read() {
			if strings.HasPrefix(line, "complete") {
				complete++
			}
		}
		if int64(complete) != taken.Load() || complete < 64 {
			t.Errorf("%d of %d records are complete", complete, taken.Load())
		}
		cancel()
		running.Wait()
	})
}

// TestParkedRecordFits: a record that leaves no room for what Park adds is cut, and says so; all others are kept as they are.
func TestParkedRecordFits(t *testing.T) {
	const most = kafka.MaxRecordBytes
	for _, c := range []struct {
		name            string
		value, key, own int // bytes; own: of its headers' values
		note            string
		kept            int // of its headers
	}{
		{"small", 100, 3, 20, "", 1},
		{"just fits", most - 64 - 3 - 20 - 400, 3, 20, "", 1},
		{"value at the limit", most - 200, 3, 20, "value 1113851, key 3, headers 1", 1},
		{"headers", 1000, 3, most - 1200, "value 1000, key 3, headers 1", 0},
		{"key", 1000, most - 1200, 20, "value 1000, key 1112851, headers 1", 0},
		{"value and headers", most / 2, 3, most / 2, "value 557025, key 3, headers 1", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			value := bytes.Repeat([]byte("v"), c.value)
			letter := parked(produce.Record{Key: make([]byte, c.key), Value: value, Headers: []kafka.Header{
				{Key: envelope.HeaderParked, Value: make([]byte, 300)}, {Key: envelope.HeaderParkedFrom, Value: []byte("jobs.high/3/5")},
				{Key: "own", Value: make([]byte, c.own)},
			}})
			if size := letter.Size(); size > most {
				t.Errorf("it has %d bytes", size)
			}
			note, _ := envelope.Get(letter.Headers, envelope.HeaderParkedCut)
			if string(note) != c.note {
				t.Errorf("note %q, want %q", note, c.note)
			}
			if from, _ := envelope.Get(letter.Headers, envelope.HeaderParkedFrom); string(from) != "jobs.high/3/5" {
				t.Errorf("from %q", from)
			}
			own := 0
			for _, h := range letter.Headers {
				if h.Key == "own" {
					own++
				}
			}
			if own != c.kept || !bytes.HasPrefix(value, letter.Value) || len(letter.Value) < min(c.value, most-1000) {
				t.Errorf("%d of its headers and %d bytes of its value are left", own, len(letter.Value))
			}
		})
	}
}

package settle

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/spillway/spillway/pkg/kafka"
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

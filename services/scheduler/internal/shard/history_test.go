package shard

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/offsets"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

func settledOf(id core.JobID, outcome jobv1.Outcome) *logv1.JobEvent {
	return &logv1.JobEvent{Event: &logv1.JobEvent_Settled{Settled: &logv1.Settled{
		JobId: envelope.JobID(id).String(), Source: "crm", Outcome: outcome, SettledAt: timestamppb.Now(),
	}}}
}

func failedOf(id core.JobID, number int32, counter int64, retryAt time.Time) *logv1.JobEvent {
	return &logv1.JobEvent{Event: &logv1.JobEvent_Attempt{Attempt: &logv1.AttemptFailed{
		JobId: envelope.JobID(id).String(), Source: "crm", Token: &jobv1.Token{Counter: counter}, RetryAt: timestamppb.New(retryAt),
		Attempt: &jobv1.Attempt{Number: number, Counted: true},
	}}}
}

// job is the id of the n-th job of a test, in shard 0.
func job(n byte) core.JobID { return core.JobID(envelope.NewJobID(time.Unix(1e9, 0), 0, [8]byte{n})) }

// TestHistoryByTheReadersRule: a terminal event counts unless its epoch is older than the last fence before it, of several the first one does, and
// what no scheduler of the installation has written does not count at all (H5, I4).
func TestHistoryByTheReadersRule(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const succeeded, died = jobv1.Outcome_OUTCOME_SUCCEEDED, jobv1.Outcome_OUTCOME_DEAD
		retry := time.Now().Add(time.Minute).Truncate(time.Second)
		w.jobs(topics.Jobs("default"), 0, 5)
		former := w.event(0, 0, macKey, fenceOf("former"))
		w.event(0, former, macKey, settledOf(job(1), succeeded))
		w.event(0, former, macKey, failedOf(job(2), 1, 7, retry.Add(-time.Second)))
		later := w.event(0, 0, macKey, fenceOf("later"))
		w.event(0, former, macKey, settledOf(job(3), succeeded)) // late
		w.event(0, former, macKey, failedOf(job(2), 2, 8, retry))
		w.event(0, later, []byte("another installation's key, 32 b"), settledOf(job(4), succeeded)) // forged
		w.event(0, later, macKey, settledOf(job(1), died))                                          // the second
		w.event(0, later, macKey, settledOf(job(5), died))

		r := w.own("a")
		window := r.window(topics.Jobs("default"), 0)
		for n, want := range map[byte]bool{1: true, 2: false, 3: false, 4: false, 5: true} {
			if got := window.History(job(n), 0); got.Settled != want {
				t.Errorf("job %d settled: %v", n, got.Settled)
			}
		}
		past := window.History(job(2), 0)
		if past.Attempts != 2 || !past.RetryAt.Equal(retry) || past.Reported.Counter != 8 {
			t.Errorf("job 2 has the past %+v", past)
		}
		if until := time.Until(past.Quarantine); until < Quarantine-time.Second || until > Quarantine {
			t.Errorf("what was there at the takeover is quarantined for %v", until)
		}
		if past := window.History(job(2), 5); !past.Quarantine.IsZero() {
			t.Error("what came later is quarantined")
		}

		// Each job that has an outcome is counted once, when its record is complete.
		for n := byte(1); n <= 5; n++ {
			add(t, window, job(n), int64(n-1))
			r.Complete(0, job(n), core.Home{Topic: core.Topic(core.Default), Offset: int64(n - 1)})
		}
		time.Sleep(time.Second)
		at := w.committed(topics.Outcomes(), 0)
		epoch, _ := r.Epoch(0)
		if counts, err := offsets.ParseCounts(at.Meta.Counts); err != nil || counts != (offsets.Counts{Succeeded: 1, Dead: 1, Fence: epoch}) {
			t.Errorf("counts %+v, %v", counts, err)
		}
		if at.Offset != w.event(0, 0, macKey, fenceOf("end")) {
			t.Errorf("committed %d: something is still needed", at.Offset)
		}
	})
}

// TestLateEventBelowTheReading: the fence that makes an event late may lie before what is read. A later event shows that there was one.
func TestLateEventBelowTheReading(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		former := w.event(0, 0, macKey, fenceOf("former"))
		later := w.event(0, 0, macKey, fenceOf("later"))
		from := w.event(0, later, macKey, settledOf(job(1), jobv1.Outcome_OUTCOME_SUCCEEDED))
		w.event(0, former, macKey, settledOf(job(2), jobv1.Outcome_OUTCOME_SUCCEEDED))
		fence := w.event(0, 0, macKey, fenceOf("me"))
		s := &owned{byJob: map[core.JobID][]int64{}, history: map[core.JobID]core.Past{}, events: events{next: from}}
		if forged, err := s.fold(t.Context(), w.client, macKey, topics.Outcomes(), from, from, 0, fence); err != nil || forged != 0 {
			t.Fatal(forged, err)
		}
		if !s.history[job(1)].Settled || s.history[job(2)].Settled {
			t.Errorf("history %+v", s.history)
		}
	})
}

// TestFenceBeforeTheReading: the last fence below the committed offset is in the commit's counts, so a late event does not count either when it is the
// first to be read, and no matter where the reading begins: the result is that of a reader from the start (H5).
func TestFenceBeforeTheReading(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const succeeded = jobv1.Outcome_OUTCOME_SUCCEEDED
		former := w.event(0, 0, macKey, fenceOf("former"))
		w.event(0, former, macKey, settledOf(job(1), succeeded))
		second := w.event(0, 0, macKey, fenceOf("second"))
		late := w.event(0, former, macKey, settledOf(job(2), succeeded))
		w.event(0, second, macKey, settledOf(job(3), succeeded))
		third := w.event(0, 0, macKey, fenceOf("third"))
		w.event(0, second, macKey, settledOf(job(4), succeeded)) // late
		committed := w.event(0, former, macKey, settledOf(job(5), succeeded))
		w.event(0, third, macKey, settledOf(job(6), succeeded))
		fence := w.event(0, 0, macKey, fenceOf("me"))
		for _, from := range []int64{former, former + 1, late, third, third + 1, committed} {
			s := &owned{byJob: map[core.JobID][]int64{}, history: map[core.JobID]core.Past{}, events: events{next: committed}}
			s.events.fenced(third)
			if forged, err := s.fold(t.Context(), w.client, macKey, topics.Outcomes(), from, committed, third, fence); err != nil || forged != 0 {
				t.Fatal(forged, err)
			}
			for n, at := range map[byte]int64{1: former + 1, 2: -1, 3: third - 1, 4: -1, 5: -1, 6: committed + 1} {
				got := slices.ContainsFunc(s.recent, func(o outcomeOf) bool { return o.id == job(n) })
				if want := at >= from; got != want {
					t.Errorf("read from %d: the engine hears that job %d is settled: %v", from, n, got)
				}
				if got, want := s.history[job(n)].Settled, at >= committed; got != want {
					t.Errorf("read from %d: job %d is settled in the history: %v", from, n, got)
				}
			}
			s.events.fenced(fence)
			if got := s.events.account().Fence; got != third {
				t.Errorf("read from %d: the commit at %d would say that its fence is %d, not %d", from, s.events.low(), got, third)
			}
		}
	})
}

// TestSettledBelowAndAboveTheCommit: the second event of a job, written because the fate of the first one was unknown, does not count, though only
// it is needed.
func TestSettledBelowAndAboveTheCommit(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const succeeded = jobv1.Outcome_OUTCOME_SUCCEEDED
		former := w.event(0, 0, macKey, fenceOf("former"))
		w.event(0, former, macKey, settledOf(job(1), succeeded))
		committed := w.event(0, former, macKey, settledOf(job(1), succeeded))
		w.event(0, former, macKey, settledOf(job(2), succeeded))
		w.event(0, former, macKey, settledOf(job(2), succeeded))
		fence := w.event(0, 0, macKey, fenceOf("me"))
		s := &owned{byJob: map[core.JobID][]int64{}, history: map[core.JobID]core.Past{}, events: events{next: committed, counts: offsets.Counts{Succeeded: 1}}}
		if _, err := s.fold(t.Context(), w.client, macKey, topics.Outcomes(), former, committed, former, fence); err != nil {
			t.Fatal(err)
		}
		for _, id := range []core.JobID{job(1), job(2)} {
			for _, offset := range s.byJob[id] {
				s.events.done(offset)
			}
		}
		if got := s.events.account(); got.Succeeded != 2 || s.events.low() != fence {
			t.Errorf("%d jobs are counted up to %d", got.Succeeded, s.events.low())
		}
	})
}

// newLeader is a log whose leader does not show, for so many fetches, what lies at hidden and above.
type newLeader struct {
	reader
	hidden  int64
	fetches int
}

func (l *newLeader) Fetch(ctx context.Context, topic string, partition int, from int64, maxBytes int, maxWait time.Duration) (kafka.Batch, error) {
	batch, err := l.reader.Fetch(ctx, topic, partition, from, maxBytes, maxWait)
	if l.fetches--; l.fetches < 0 {
		return batch, err
	}
	batch.HighWatermark = l.hidden
	batch.Messages = slices.DeleteFunc(batch.Messages, func(m kafka.Message) bool { return m.Offset >= l.hidden })
	return batch, err
}

// TestNewLeaderHidesTheEnd: a leader that has just been elected does not show for a moment what was acknowledged before. A new owner waits for its
// fence, and one that comes back does not take the silence for "nobody was here" (H5). A log that never shows it is another one.
func TestNewLeaderHidesTheEnd(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		former := w.event(0, 0, macKey, fenceOf("former"))
		w.event(0, former, macKey, settledOf(job(1), jobv1.Outcome_OUTCOME_SUCCEEDED))
		last := w.event(0, former, macKey, settledOf(job(2), jobv1.Outcome_OUTCOME_SUCCEEDED))
		fence := w.event(0, 0, macKey, fenceOf("me"))
		for fetches, whole := range map[int]bool{0: true, 20: true, 1000: false} {
			s := &owned{byJob: map[core.JobID][]int64{}, history: map[core.JobID]core.Past{}, events: events{next: former}}
			log := &newLeader{reader: w.client, hidden: last, fetches: fetches}
			_, err := s.fold(t.Context(), log, macKey, topics.Outcomes(), former, former, former, fence)
			if (err == nil) != whole || whole && !s.history[job(2)].Settled {
				t.Errorf("hidden for %d fetches: %v, history %v", fetches, err, s.history)
			}
			s = &owned{ours: former + 1}
			log.fetches = fetches
			fenced, err := s.fenced(t.Context(), log, macKey, topics.Outcomes())
			if (err == nil) != whole || fenced != whole {
				t.Errorf("hidden for %d fetches: fenced %v, %v", fetches, fenced, err)
			}
		}
	})
}

// TestForeignFenceBelowOwnLateEvent: an event of our own that was written after another owner's fence does not hide that fence (H5, H16).
func TestForeignFenceBelowOwnLateEvent(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := &owned{byJob: map[core.JobID][]int64{}}
		s.epoch = w.event(0, 0, macKey, fenceOf("me"))
		s.ours, s.events.next = s.epoch+1, s.epoch+1
		mine := func() {
			s.event(job(1), w.event(0, s.epoch, macKey, settledOf(job(1), 1)), jobv1.Outcome_OUTCOME_SUCCEEDED)
		}
		mine()
		fenced := func() bool {
			fenced, err := s.fenced(t.Context(), w.client, macKey, topics.Outcomes())
			if err != nil {
				t.Fatal(err)
			}
			return fenced
		}
		if fenced() {
			t.Error("fenced by nobody")
		}
		w.event(0, s.epoch, macKey, settledOf(job(2), 1)) // ours, of unknown fate
		mine()
		if fenced() {
			t.Error("fenced by an event")
		}
		w.event(0, 0, macKey, fenceOf("another"))
		mine()
		mine()
		if !fenced() {
			t.Error("the other owner was not seen")
		}
	})
}

// TestForgedFenceTakesNoShardAway: a fence that is not sealed with the installation's key does not make an owner give its shard up (S45).
func TestForgedFenceTakesNoShardAway(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := &owned{}
		s.epoch = w.event(0, 0, macKey, fenceOf("me"))
		s.ours = s.epoch + 1
		w.event(0, 0, []byte("another key"), fenceOf("attacker"))
		if fenced, err := s.fenced(t.Context(), w.client, macKey, topics.Outcomes()); err != nil || fenced {
			t.Errorf("fenced by a forged record: %v, %v", fenced, err)
		}
		w.event(0, 0, macKey, fenceOf("another"))
		if fenced, err := s.fenced(t.Context(), w.client, macKey, topics.Outcomes()); err != nil || !fenced {
			t.Errorf("fenced by another owner: %v, %v", fenced, err)
		}
	})
}

// TestOwnFenceTwice: a fence of unknown fate is written again, and the first copy may come last. Under an epoch below it nothing counts, so the owner
// takes the shard once more (H5).
func TestOwnFenceTwice(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := &owned{}
		s.epoch = w.event(0, 0, macKey, fenceOf("me"))
		s.ours = s.epoch + 1
		w.event(0, 0, macKey, fenceOf("me"))
		if fenced, err := s.fenced(t.Context(), w.client, macKey, topics.Outcomes()); err != nil || !fenced {
			t.Errorf("fenced by its own copy: %v, %v", fenced, err)
		}
	})
}

// TestSettledIdsComeBack: what former owners settled lately is in the engine's dedupe window after a takeover (H19).
func TestSettledIdsComeBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		former := w.event(0, 0, macKey, fenceOf("former"))
		w.event(0, former, macKey, settledOf(job(1), jobv1.Outcome_OUTCOME_SUCCEEDED))
		r := w.own("a")
		var verdicts []core.VerdictKind
		r.deps.Engine.Do(func(now time.Time, e *core.Engine) {
			for n := byte(1); n <= 2; n++ {
				verdicts = append(verdicts, e.Offer(now, &core.Job{ID: job(n), Source: "crm", Type: "tag", Home: core.Home{Offset: int64(n)}}).Kind)
			}
		})
		if !slices.Equal(verdicts, []core.VerdictKind{core.Duplicate, core.Queue}) {
			t.Errorf("verdicts %v", verdicts)
		}
	})
}

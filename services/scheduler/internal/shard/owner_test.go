package shard

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/offsets"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// lane asks for a lane under the present epoch.
func (r *replica) lane(shard int32, source string) (int32, error) {
	epoch, _ := r.Epoch(shard)
	return r.Lane(r.t.Context(), shard, epoch, source, "tag")
}

func home(offset int64) core.Home { return core.Home{Topic: core.Topic(core.Default), Offset: offset} }

// TestCommitNeverPassesTheIncomplete: the lowest incomplete offset is committed, what is complete above it is in the metadata, and the next owner
// works on neither what is below nor what is in there (H3).
func TestCommitNeverPassesTheIncomplete(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.jobs(topics.Jobs("default"), 0, 10)
		r := w.own("a")
		window := r.window(topics.Jobs("default"), 0)
		add(t, window, job(1), 0, 1, 2, 3, 4, 5, 6, 7)
		for _, offset := range []int64{0, 1, 3, 4, 6} {
			r.Complete(0, job(1), home(offset))
		}
		time.Sleep(time.Second)
		at := w.committed(topics.Jobs("default"), 0)
		if at.Offset != 2 || !at.Meta.Done.Contains(2, 3) || !at.Meta.Done.Contains(2, 4) || at.Meta.Done.Contains(2, 5) || !at.Meta.Done.Contains(2, 6) {
			t.Fatalf("committed %+v", at)
		}
		r.stop()
		window = w.own("b").window(topics.Jobs("default"), 0)
		if next := window.Next(); next != 2 {
			t.Fatalf("reading goes on at %d", next)
		}
		for offset, want := range []bool{2: true, 3: false, 4: false, 5: true, 6: false, 7: true, 8: true} {
			if offset < 2 {
				continue
			}
			if fresh, err := window.Add(t.Context(), int64(offset), job(1)); err != nil || fresh != want {
				t.Errorf("offset %d: fresh %v, %v", offset, fresh, err)
			}
		}
	})
}

// TestPutBackIsReadAgain: what was read and not worked on when a generation ended is read again under the next one, and only that.
func TestPutBackIsReadAgain(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.jobs(topics.Jobs("default"), 0, 10)
		r := w.own("a")
		window := r.window(topics.Jobs("default"), 0)
		add(t, window, job(1), 0, 1, 2, 3, 4)
		window.PutBack(2)
		window.PutBack(4)
		if next := window.Next(); next != 2 {
			t.Fatalf("reading goes on at %d", next)
		}
		for offset, want := range []bool{2: true, 3: false, 4: true, 5: true} {
			if fresh, err := window.Add(t.Context(), int64(offset), job(1)); offset >= 2 && (err != nil || fresh != want) {
				t.Errorf("offset %d: fresh %v, %v", offset, fresh, err)
			}
		}
		if next := window.Next(); next != 6 {
			t.Errorf("then it goes on at %d", next)
		}
	})
}

// TestEventsAreKeptUntilTheirCompletionIsCommitted: a crash between the event and the commit must find the event (H3, architecture §5).
func TestEventsAreKeptUntilTheirCompletionIsCommitted(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.jobs(topics.Jobs("default"), 0, 2)
		r := w.own("a")
		window := r.window(topics.Jobs("default"), 0)
		add(t, window, job(1), 0)
		add(t, window, job(2), 1)
		epoch, _ := r.Epoch(0)
		failed := w.event(0, epoch, macKey, failedOf(job(1), 1, 1, time.Now()))
		r.Event(0, job(1), failed, jobv1.Outcome_OUTCOME_UNSPECIFIED)
		done := w.event(0, epoch, macKey, settledOf(job(2), jobv1.Outcome_OUTCOME_SUCCEEDED))
		r.Event(0, job(2), done, jobv1.Outcome_OUTCOME_SUCCEEDED)
		r.Complete(0, job(2), home(1))
		time.Sleep(time.Second)
		if at := w.committed(topics.Outcomes(), 0); at.Offset != failed {
			t.Errorf("committed %d while the attempt at %d is needed", at.Offset, failed)
		}
		r.Complete(0, job(1), home(0))
		time.Sleep(time.Second)
		if at := w.committed(topics.Outcomes(), 0); at.Offset != done+1 {
			t.Errorf("committed %d, nothing is needed below %d", at.Offset, done+1)
		}
	})
}

// TestForeignCommitReadsFromTheStart: a committed offset that the log does not hold is no reason to skip anything (H26, H29).
func TestForeignCommitReadsFromTheStart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.jobs(topics.Jobs("high"), 0, 5)
		text, err := offsets.Metadata{}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		nobody := kafka.Member{Group: topics.Group(), Generation: -1}
		if err := w.client.CommitOffsets(t.Context(), nobody, []kafka.Commit{{Topic: topics.Jobs("high"), Partition: 0, Offset: 100, Metadata: text}}); err != nil {
			t.Fatal(err)
		}
		if next := w.own("a").window(topics.Jobs("high"), 0).Next(); next != 0 {
			t.Errorf("reading begins at %d", next)
		}
	})
}

// TestLaneIsCommittedBeforeItIsUsed: nobody gets a lane before the commit that names its owner stands, those who ask at the same time included.
func TestLaneIsCommittedBeforeItIsUsed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.own("a")
		release := w.broker.Hold(kafkatest.OffsetCommit)
		defer release()
		var asking sync.WaitGroup
		var mu sync.Mutex
		var got []string
		for range 3 {
			asking.Go(func() {
				lane, err := r.lane(1, "crm")
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprint(lane, err))
			})
			time.Sleep(100 * time.Millisecond)
		}
		mu.Lock()
		if len(got) != 0 {
			t.Errorf("used before its commit: %v", got)
		}
		mu.Unlock()
		release()
		asking.Wait()
		if want := fmt.Sprint(shards+1, nil); len(got) != 3 || got[0] != want || got[1] != want || got[2] != want {
			t.Errorf("got %v", got)
		}
		if at := w.committed(topics.Spill(), shards+1); at.Meta.Source != "crm" || at.Meta.Type != "tag" {
			t.Errorf("committed %+v", at)
		}
		r.stop()
		r = w.own("b")
		if lane, has := r.LaneOf(1, "crm", "tag"); !has || lane != shards+1 {
			t.Errorf("the next owner knows lane %d, %v", lane, has)
		}
	})
}

// TestLaneTakenDuringACommit: a commit that was made of a lane's window before the lane was taken does not stand for the one that names its owner.
func TestLaneTakenDuringACommit(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.own("a")
		free := shards + 1
		w.jobs(topics.Spill(), free, 1)
		release := w.broker.Hold(kafkatest.OffsetCommit)
		defer release()
		window := r.window(topics.Spill(), free)
		add(t, window, job(1), 0)
		r.Complete(1, job(1), core.Home{Topic: core.TopicSpill, Partition: int32(free), Offset: 0})
		time.Sleep(2 * commitEvery) // a commit without an owner is on its way
		time.AfterFunc(100*time.Millisecond, release)
		if lane, err := r.lane(1, "crm"); err != nil || lane != int32(free) {
			t.Fatalf("lane %d, %v", lane, err)
		}
		if at := w.committed(topics.Spill(), free); at.Offset != 1 || at.Meta.Source != "crm" {
			t.Errorf("the lane may be used, and committed is %+v", at)
		}
	})
}

// TestCopyOfAFormerEpochIsNotCounted: a copy that was on its way when the shard was lost says nothing about those of the present owner, be it
// this replica again.
func TestCopyOfAFormerEpochIsNotCounted(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.own("a")
		epoch, _ := r.Epoch(0)
		lane, err := r.lane(0, "crm")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Lane(t.Context(), 0, epoch-1, "crm", "tag"); err == nil {
			t.Error("a lane under a former epoch")
		}
		s := r.shard(0)
		coming := func() int {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.window(core.Home{Topic: core.TopicSpill, Partition: lane}).coming
		}
		if r.Landed(0, epoch-1, lane, 7); coming() != 1 {
			t.Errorf("%d copies are coming, want 1", coming())
		}
		if r.Landed(0, epoch, lane, -1); coming() != 0 {
			t.Errorf("%d copies are coming, want none", coming())
		}
	})
}

// TestLaneWithoutACommitIsNoLane: when the commit cannot be made there is no lane, and the waiting ends with the generation (H12).
func TestLaneWithoutACommitIsNoLane(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.own("a")
		w.broker.Stop()
		began := time.Now()
		if _, err := r.lane(0, "crm"); err == nil {
			t.Error("a lane without a broker")
		}
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("it took %v", took)
		}
		if _, has := r.LaneOf(0, "crm", "tag"); has {
			t.Error("it has a lane")
		}
		w.broker.Resume()
		time.Sleep(10 * time.Second)
		if lane, err := r.lane(0, "crm"); err != nil || lane != shards {
			t.Errorf("then: %d, %v", lane, err)
		}
	})
}

// TestLanesRunOut: the last resort is the common lane, for as many as come (H12).
func TestLanesRunOut(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.own("a")
		for n, want := range []int32{2, 4, 0, 0} {
			if lane, err := r.lane(0, fmt.Sprint("source", n)); err != nil || lane != want {
				t.Errorf("source %d: lane %d, %v", n, lane, err)
			}
		}
		if !r.Exhausted(0) || r.Exhausted(1) {
			t.Error("Exhausted")
		}
	})
}

// TestEndedBeforeItsLaneWasRead: a job was moved to a lane while it ran, and has ended before the lane is read: its copy is complete, for the next
// owner too.
func TestEndedBeforeItsLaneWasRead(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.own("a")
		lane, err := r.lane(0, "crm")
		if err != nil {
			t.Fatal(err)
		}
		offset := w.jobs(topics.Spill(), int(lane), 5)
		epoch, _ := r.Epoch(0)
		r.Landed(0, epoch, lane, offset+4)
		r.Complete(0, job(1), core.Home{Topic: core.TopicSpill, Partition: lane, Offset: offset + 3})
		time.Sleep(time.Second)
		for _, name := range []string{"a", "b"} {
			window := r.window(topics.Spill(), int(lane))
			add(t, window, job(2), offset, offset+1, offset+2)
			if fresh, err := window.Add(t.Context(), offset+3, job(1)); err != nil || fresh {
				t.Errorf("%s: its copy would run: %v, %v", name, fresh, err)
			}
			if name == "a" {
				r.stop()
				r = w.own("b")
			}
		}
	})
}

// TestSuspendedOwnerKeepsItsShards: without the broker a replica renews leases for 9 s after its last heartbeat, and no longer; its shards it keeps,
// and goes on with them where it was when nobody else has fenced them (H34).
func TestSuspendedOwnerKeepsItsShards(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.own("a")
		epoch, _ := r.Epoch(0)
		w.broker.Stop()
		time.Sleep(Suspended - time.Second)
		if !r.Renews(time.Now()) {
			t.Error("after 8 s it renews no leases")
		}
		time.Sleep(2 * time.Second)
		if r.Renews(time.Now()) {
			t.Error("after 10 s it renews leases")
		}
		time.Sleep(20 * time.Second)
		if ids, _ := r.Shards(); len(ids) != shards {
			t.Errorf("after 30 s it has %v", ids)
		}
		w.broker.Resume()
		time.Sleep(15 * time.Second)
		if now, owned := r.Epoch(0); !owned || now != epoch {
			t.Errorf("then it has epoch %d, %v; it was %d", now, owned, epoch)
		}
		if !r.Renews(time.Now()) || !r.Open(time.Now()) {
			t.Error("it does not go on")
		}
	})
}

// TestLateForeignFenceIsNoticed: the fence of a replica that had the shard for a moment, and lost it before it owned it, may become durable after this
// owner came back to the shard and saw none. From then on no reader counts what this owner writes; it takes the shard once more (H5).
func TestLateForeignFenceIsNoticed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.own("a")
		epoch, _ := r.Epoch(1)
		other, _ := r.Epoch(0)
		settle := func(n byte) {
			e, _ := r.Epoch(1)
			r.Event(1, job(n), w.event(1, e, macKey, settledOf(job(n), 1)), jobv1.Outcome_OUTCOME_SUCCEEDED)
		}
		settle(1)
		w.event(1, epoch, macKey, settledOf(job(2), 1)) // ours, and of unknown fate
		settle(2)
		time.Sleep(3 * time.Second)
		if now, _ := r.Epoch(1); now != epoch {
			t.Fatal("taken again because of an event of our own")
		}
		s := r.shard(1)
		s.mu.Lock()
		if s.ours != s.events.next {
			t.Errorf("looked at up to %d of %d: the next generation would read it all", s.ours, s.events.next)
		}
		s.mu.Unlock()
		late := w.event(1, 0, macKey, fenceOf("another"))
		settle(3)
		time.Sleep(5 * time.Second)
		if now, owned := r.Epoch(1); !owned || now <= late {
			t.Errorf("owned %v under %d, below the fence at %d", owned, now, late)
		}
		if now, owned := r.Epoch(0); !owned || now != other {
			t.Errorf("the other shard: owned %v under %d, it was %d", owned, now, other)
		}
	})
}

package shard

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/offsets"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// numbered is the id of the n-th job of many.
func numbered(n int64) core.JobID {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n)<<2) // an id has room for 62 bits
	return core.JobID(envelope.NewJobID(time.Unix(1e9, 0), 0, b))
}

// TestCommitWithoutRoomMovesTheOldest: every second job of a full window is done, which is more than a commit can say. The oldest of the others are
// moved, so many as it takes and no more, and at no moment is a job unaccounted for: what the commit does not say is in outcomes above their
// committed offset, and the commit never passes a job that is not done (H3).
func TestCommitWithoutRoomMovesTheOldest(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const n = offsets.Limit
		topic := topics.Jobs("default")
		w.jobs(topic, 0, n)
		r := w.own("a")
		window := r.window(topic, 0)
		epoch, _ := r.Epoch(0)
		home := func(offset int64) core.Home { return core.Home{Topic: core.Topic(core.Default), Offset: offset} }
		for offset := range int64(n) {
			add(t, window, numbered(offset), offset)
		}
		if fresh := window.full(); !fresh {
			t.Fatal("the window has room for more")
		}
		r.deps.Engine.Do(func(now time.Time, e *core.Engine) {
			for offset := int64(0); offset < n; offset += 2 {
				if v := e.Offer(now, &core.Job{ID: numbered(offset), Source: "crm", Type: "tag", Home: home(offset)}); v.Kind != core.Queue {
					t.Fatalf("job %d: %+v", offset, v)
				}
			}
		})
		events := map[int64]int64{} // of the odd ones
		for offset := int64(1); offset < n; offset += 2 {
			events[offset] = w.event(0, epoch, macKey, settledOf(numbered(offset), jobv1.Outcome_OUTCOME_SUCCEEDED))
			r.Event(0, numbered(offset), events[offset], jobv1.Outcome_OUTCOME_SUCCEEDED)
			r.Complete(0, numbered(offset), home(offset))
		}
		moved := map[int64]bool{}
		unsaid := 0
		check := func() {
			t.Helper()
			at, outcomes := w.committed(topic, 0), w.committed(topics.Outcomes(), 0)
			unsaid = 0
			for offset := range int64(n) {
				said := offset < at.Offset || at.Meta.Done.Contains(at.Offset, offset)
				switch {
				case offset%2 == 0 && said && !moved[offset]:
					t.Fatalf("the commit at %d says that job %d is done", at.Offset, offset)
				case offset%2 == 1 && !said:
					if unsaid++; events[offset] < outcomes.Offset {
						t.Fatalf("job %d would run again: neither does the commit at %d say that it is done, nor outcomes above %d", offset, at.Offset, outcomes.Offset)
					}
				}
			}
		}
		time.Sleep(250 * time.Millisecond)
		check()
		if unsaid == 0 {
			t.Fatal("all of it has room: the test shows nothing")
		}
		for range 7 { // within the second after which age moves them, too: the engine hands out what it was told of, and settle moves it
			var moves []core.Home
			r.deps.Engine.Do(func(now time.Time, e *core.Engine) {
				chores := e.Tick(now)
				moves = append(moves, chores.From...)
				for i, j := range chores.Moves {
					e.Moved(now, j.ID, core.Home{Topic: core.TopicSpill, Offset: int64(len(moved) + i)})
				}
			})
			for _, from := range moves {
				moved[from.Offset] = true
				r.Complete(0, numbered(from.Offset), from)
			}
			time.Sleep(100 * time.Millisecond)
			check()
		}
		if unsaid != 0 {
			t.Errorf("%d jobs that are done still are not in the commit", unsaid)
		}
		at := w.committed(topic, 0)
		if int64(2*len(moved)) != at.Offset {
			t.Errorf("%d jobs were moved, and not the oldest: committed %d", len(moved), at.Offset)
		}
		if text, err := at.Meta.Encode(); err != nil || len(text) > offsets.MaxMetadata || len(text) < offsets.MaxMetadata-8 {
			t.Errorf("the commit has %d characters, %v: more were moved than needed", len(text), err)
		}
		if got := w.committed(topics.Outcomes(), 0); got.Offset <= events[n-1] {
			t.Errorf("outcomes are committed at %d only, though nobody needs them any more", got.Offset)
		}
	})
}

// full reports whether the window takes no further record.
func (w *Window) full() bool {
	w.owned.mu.Lock()
	defer w.owned.mu.Unlock()
	return w.tracker.Window() == offsets.Limit
}

// TestWindowThatIsStuckIsTold: nothing of a full window moves for a minute; whoever reads the log hears which record it is, once a minute (H16).
func TestWindowThatIsStuckIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		topic := topics.Jobs("default")
		w.jobs(topic, 0, offsets.Limit+1)
		r := w.own("a")
		window := r.window(topic, 0)
		stuck := func(after time.Duration) bool {
			window.owned.mu.Lock()
			defer window.owned.mu.Unlock()
			return window.stuck(time.Now().Add(after))
		}
		for offset := range int64(offsets.Limit) {
			add(t, window, numbered(offset), offset)
		}
		for _, c := range []struct {
			after time.Duration
			want  bool
		}{{0, false}, {59 * time.Second, false}, {61 * time.Second, true}, {62 * time.Second, false}, {122 * time.Second, true}} {
			if got := stuck(c.after); got != c.want {
				t.Errorf("after %v: %v", c.after, got)
			}
		}
		r.Complete(0, numbered(0), core.Home{Topic: core.Topic(core.Default), Offset: 0})
		if stuck(200*time.Second) || stuck(300*time.Second) {
			t.Error("it has moved, and has room")
		}
	})
}

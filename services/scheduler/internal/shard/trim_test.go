package shard

import (
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// done takes offsets into a window and completes them.
func done(t *testing.T, r *replica, w *Window, offsets ...int64) {
	t.Helper()
	add(t, w, job(1), offsets...)
	for _, offset := range offsets {
		r.Complete(w.Shard, job(1), core.Home{Topic: w.Kind, Partition: int32(w.Partition), Offset: offset})
	}
}

// first is the first offset that the log holds.
func (w *world) first(topic string, partition int) int64 {
	w.t.Helper()
	ends, err := w.client.Ends(w.t.Context(), topic, []int{partition})
	if err != nil {
		w.t.Fatal(err)
	}
	return ends[partition].First
}

// TestTrim: what lies below the commits goes once in TrimEvery, in priority topics and lanes, but neither what a commit does not cover nor the last
// record of a partition (H8, K1); outcomes and dead letters are Kafka's to keep.
func TestTrim(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		jobs, spill := topics.Jobs("default"), topics.Spill()
		w.jobs(jobs, 0, 10)
		w.jobs(jobs, 1, 10)
		w.jobs(spill, 2, 10)
		w.jobs(topics.Dead(), 0, 10)
		r := w.own("a") // TrimEvery is a minute
		done(t, r, r.window(jobs, 0), 0, 1, 2)
		add(t, r.window(jobs, 0), job(2), 3)
		done(t, r, r.window(jobs, 0), 4, 5)
		done(t, r, r.window(jobs, 1), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		done(t, r, r.window(spill, 2), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		time.Sleep(59 * time.Second)
		if got := w.first(jobs, 1); got != 0 {
			t.Errorf("trimmed to %d before its time", got)
		}
		time.Sleep(3 * time.Second)
		for _, c := range []struct {
			topic     string
			partition int
			want      int64
		}{{jobs, 0, 3}, {jobs, 1, 9}, {spill, 2, 9}, {topics.Dead(), 0, 0}, {topics.Outcomes(), 0, 0}} {
			if got := w.first(c.topic, c.partition); got != c.want {
				t.Errorf("%s/%d begins at %d, want %d", c.topic, c.partition, got, c.want)
			}
		}
		w.jobs(jobs, 1, 1)
		done(t, r, r.window(jobs, 1), 10)
		time.Sleep(time.Minute)
		if got := w.first(jobs, 1); got != 10 {
			t.Errorf("begins at %d", got)
		}
	})
}

// TestTrimOfAFlood: 32 MiB of a partition are not kept for the minute.
func TestTrimOfAFlood(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		jobs := topics.Jobs("default")
		w.jobs(jobs, 0, 70)
		w.jobs(jobs, 1, 70)
		r := w.own("a")
		for p, n := range []int64{33, 31} {
			window := r.window(jobs, p)
			window.Sized(1 << 20)
			for offset := range n {
				done(t, r, window, offset)
			}
		}
		time.Sleep(3 * time.Second)
		if flood, other := w.first(jobs, 0), w.first(jobs, 1); flood != 32 || other != 0 {
			t.Errorf("the logs begin at %d and %d", flood, other)
		}
	})
}

// TestTrimIsRepeated: a broker that was killed may have brought records back (K2), so every minute all is trimmed once more; otherwise
// nothing is asked for twice, however short TrimEvery is.
func TestTrimIsRepeated(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		jobs := topics.Jobs("default")
		w.jobs(jobs, 0, 10)
		w.trimEvery = time.Second
		r := w.own("a")
		done(t, r, r.window(jobs, 0), 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		lists := w.broker.Count(kafkatest.ListOffsets) // one trim of a partition asks for its ends
		time.Sleep(3 * time.Second)
		if got := w.first(jobs, 0); got != 9 {
			t.Fatalf("the log begins at %d", got)
		}
		lists.Store(0)
		quiet := func(d time.Duration) int64 { // less what the lanes' watcher asks for, every 2 s for 3 lanes of 2 shards
			time.Sleep(d)
			return lists.Swap(0) - int64(d/(2*time.Second))*2*2*lanes
		}
		if n := quiet(50 * time.Second); n > 2*2*lanes {
			t.Errorf("%d requests although nothing changed", n)
		}
		if n := quiet(20 * time.Second); n == 0 {
			t.Error("not repeated")
		}
	})
}

// TestTrimOfALogThatWasMadeAnew: the committed offset is above the end of the log (H26): nothing is deleted by it.
func TestTrimOfALogThatWasMadeAnew(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		jobs := topics.Jobs("default")
		w.jobs(jobs, 0, 10)
		w.trimEvery = time.Second
		if err := w.client.CommitOffsets(t.Context(), kafka.Member{Group: topics.Group(), Generation: -1},
			[]kafka.Commit{{Topic: jobs, Partition: 0, Offset: 1000, Metadata: kafka.FirstMetadata}}); err != nil {
			t.Fatal(err)
		}
		r := w.own("a")
		window := r.window(jobs, 0)
		if next := window.Next(); next != 0 {
			t.Fatalf("reading goes on at %d", next)
		}
		time.Sleep(5 * time.Second)
		if got := w.first(jobs, 0); got != 0 {
			t.Errorf("the log begins at %d: unread records were deleted", got)
		}
		done(t, r, window, 0, 1, 2)
		time.Sleep(5 * time.Second)
		if at := w.committed(jobs, 0); at.Offset != 3 || w.first(jobs, 0) != 2 {
			t.Errorf("committed %d, the log begins at %d", at.Offset, w.first(jobs, 0))
		}
	})
}

// TestLogMadeAnewUnderARunningOwner: the log is truncated or made anew while jobs of the old one run. What they complete is not taken for what is at
// their offsets now, in a lane not even before it is read (H26).
func TestLogMadeAnewUnderARunningOwner(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		for _, topic := range []string{topics.Jobs("default"), topics.Spill()} {
			w.jobs(topic, 0, 10)
		}
		r := w.own("a")
		priority, spill := r.window(topics.Jobs("default"), 0), r.window(topics.Spill(), 0)
		for _, window := range []*Window{priority, spill} {
			add(t, window, job(1), 0, 1, 2)
			window.Reset(0) // as the loop does that finds its offset above the end
			add(t, window, job(2), 0)
			add(t, window, job(1), 1) // the same job is there again
			window.owned.mu.Lock()
			window.end = 10
			window.owned.mu.Unlock()
			for _, offset := range []int64{0, 1, 2} { // the old log's
				r.Complete(window.Shard, job(1), core.Home{Topic: window.Kind, Offset: offset})
			}
		}
		time.Sleep(time.Second)
		for _, topic := range []string{topics.Jobs("default"), topics.Spill()} {
			at := w.committed(topic, 0)
			if at.Offset != 0 || !at.Meta.Done.Contains(0, 1) || at.Meta.Done.Len() != 1 {
				t.Errorf("%s is committed at %d with %v", topic, at.Offset, at.Meta.Done)
			}
		}
		add(t, spill, job(3), 2) // must not be taken for done
	})
}

package core

import "testing"

// What arrived of a source is what the engine took and what lies in its lanes, however a job came.
func TestTalksCountWhatArrives(t *testing.T) {
	b := newBench(t, Config{})
	b.join(2)
	for range 3 {
		b.offer(b.job("s", ""), Queue, "")
	}
	b.grants()
	b.e.Lane(b.now, LaneState{Shard: 0, Source: "s", Type: "t", BacklogJobs: 10})
	lane := b.job("s", "")
	lane.FromLane = true
	b.offer(lane, Queue, "") // one of the ten
	want := Talk{Source: "s", Arrived: 13, Running: 2, Waiting: 11}
	if got := b.e.Talks(b.now, nil); len(got) != 1 || got[0] != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

package intake

import (
	"context"
	"sync"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/shard"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

const (
	// strayEvery and strayJobs bound how fast records are read that are in the common lane, or in a lane that is nobody's: 1,000 a second.
	strayEvery = time.Second
	strayJobs  = 1000
	// returnedPause is how long a lane is not read after the engine sent records of it back: those go to its tail, and would come up
	// again at once if they are all that it holds.
	returnedPause = time.Second
	// roundEvery is how often the common lane is gone through while it holds held jobs: each goes to its tail once a round.
	roundEvery = 5 * time.Second
	// strayTogether is how many records of the common lane are offered at a time: so many copies it costs to learn that there is no room.
	strayTogether = 64
)

// laneInput is one lane being read.
type laneInput struct {
	window Window
	loop   *shard.Loop

	mu     sync.Mutex
	asked  int // jobs that may still be offered
	bytes  int // and their bytes, but always one job
	resume time.Time
	round  round // of the common lane
}

// round is one passage through the common lane.
type round struct {
	began time.Time
	end   int64 // the lane's end when it began, as far as it was known
	held  bool  // a held job was met
}

// Read says how far lanes may be read from now on. It does not block.
func (r *Reader) Read(reads []core.LaneRead) {
	for _, read := range reads {
		partition, has := r.deps.Homes.LaneOf(read.Shard, read.Source, read.Type)
		if !has {
			continue
		}
		r.mu.Lock()
		in := r.lanes[partition]
		r.mu.Unlock()
		if in != nil {
			in.ask(int(read.N), read.Bytes)
		}
	}
}

// ReadLane reads a lane as far as Read allows it, until ctx ends.
func (r *Reader) ReadLane(ctx context.Context, window Window) error {
	topic, _, partition, _ := window.Place()
	in := &laneInput{window: window}
	in.loop = shard.NewLoop(shard.LoopConfig{
		Fetch: r.deps.Fetch, Topic: topic, Partition: partition, From: window.Next(), Budget: r.deps.Budget, Log: r.deps.Log,
		Reset:   func(_, to int64) { window.Reset(to) },
		Deliver: func(ctx context.Context, records []kafka.Message) (int, error) { return r.deliver(ctx, in, records) },
	})
	in.loop.Pause()
	r.mu.Lock()
	r.lanes[int32(partition)] = in
	r.mu.Unlock()
	var strays sync.WaitGroup
	strays.Go(func() { in.readStrays(ctx) })
	err := in.loop.Run(ctx)
	strays.Wait()
	r.mu.Lock()
	delete(r.lanes, int32(partition))
	r.mu.Unlock()
	return err
}

// deliver offers as many records as were asked for.
func (r *Reader) deliver(ctx context.Context, in *laneInput, records []kafka.Message) (int, error) {
	in.window.Sized(size(records) / len(records))
	n := in.take(records)
	if n == 0 {
		return 0, nil
	}
	if in.round.began.IsZero() {
		in.round = round{began: time.Now(), end: in.loop.End()}
	}
	returned, err := r.offer(ctx, in.window, records[:n])
	if err != nil {
		return 0, err
	}
	in.loop.Release(size(records[:n]))
	in.paced(returned, records[n-1].Offset+1)
	return n, nil
}

// paced lets the lane rest after the engine sent jobs of it back.
func (in *laneInput) paced(returned returns, next int64) {
	if !in.window.Common() {
		if returned.held+returned.full > 0 {
			in.rest(returnedPause)
		}
		return
	}
	if returned.full > 0 {
		in.rest(returnedPause)
	}
	in.round.held = in.round.held || returned.held > 0
	if next < in.round.end {
		return
	}
	if in.round.held {
		in.rest(time.Until(in.round.began.Add(roundEvery)))
	}
	in.round = round{}
}

// ask replaces what may be read.
func (in *laneInput) ask(jobs, bytes int) {
	in.mu.Lock()
	in.asked, in.bytes = jobs, bytes
	on := jobs > 0 && time.Now().After(in.resume)
	in.mu.Unlock()
	if on {
		in.loop.Resume()
	}
}

// take answers how many of the records may be offered now, and pauses the loop when none.
func (in *laneInput) take(records []kafka.Message) int {
	in.mu.Lock()
	defer in.mu.Unlock()
	n, most := 0, in.asked
	if in.window.Common() {
		most = min(most, strayTogether)
	}
	for n < len(records) && n < most && (n == 0 || in.bytes >= records[n].Size()) {
		in.bytes -= records[n].Size()
		n++
	}
	if in.asked -= n; n < len(records) && n < most {
		in.asked = 0 // its bytes are used up
	}
	if in.asked <= 0 || n == 0 {
		in.loop.Pause()
	}
	return n
}

// rest stops reading for a while.
func (in *laneInput) rest(d time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if at := time.Now().Add(d); at.After(in.resume) {
		in.resume = at
	}
	in.loop.Pause()
}

// rested ends a rest that is over.
func (in *laneInput) rested() {
	in.mu.Lock()
	on := in.asked > 0 && time.Now().After(in.resume)
	in.mu.Unlock()
	if on {
		in.loop.Resume()
	}
}

// readStrays lets records through that are in a lane of nobody, and ends rests.
func (in *laneInput) readStrays(ctx context.Context) {
	tick := time.NewTicker(strayEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if _, _, strays := in.window.Lane(); strays {
				in.ask(strayJobs, strayJobs*kafka.MaxRecordBytes)
			}
			in.rested()
		}
	}
}

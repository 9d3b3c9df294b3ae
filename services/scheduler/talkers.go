package scheduler

import (
	"cmp"
	"slices"
	"time"

	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

const (
	// talkEvery is how often sources are counted: long enough for a source of 10 jobs a second to have some, short enough to name a flood
	// within two seconds.
	talkEvery = 500 * time.Millisecond
	// maxTalkers is how many sources a beat names: the one that floods and enough others to compare it with. 16 take about 800 bytes.
	maxTalkers = 16
	// runningShare is the weight of the latest count in the average of worker-seconds: a source of 10 jobs/s of 20 ms runs in one count of five.
	runningShare = 0.5
)

// talkers keeps what the sources of this replica use. It is owned by the goroutine that collects beats.
type talkers struct {
	at      time.Time
	last    map[string]talker // by source; only those of the last count, so it is bounded by the registered sources
	room    []core.Talk
	current []*logv1.Talker
}

type talker struct {
	arrived int64
	running float64 // average number of running jobs
}

// look counts again when it is time. count appends to the room that it is given.
func (t *talkers) look(now time.Time, count func([]core.Talk) []core.Talk) {
	passed := now.Sub(t.at)
	if passed < talkEvery && !t.at.IsZero() {
		return
	}
	t.room = count(t.room[:0])
	next := make(map[string]talker, len(t.room))
	list := make([]*logv1.Talker, 0, len(t.room))
	var arrivals, running float64
	for _, k := range t.room {
		before, known := t.last[k.Source]
		is := talker{arrived: k.Arrived, running: float64(k.Running)}
		m := &logv1.Talker{Source: k.Source, BacklogJobs: k.Waiting}
		if known { // what a source brings along, after a takeover say, did not arrive now
			is.running = before.running + (is.running-before.running)*runningShare
			m.ArrivalsPerS = max(0, float64(k.Arrived-before.arrived)) / passed.Seconds()
		}
		m.WorkerSecondsPerS = is.running
		next[k.Source] = is
		if m.ArrivalsPerS > 0 || m.WorkerSecondsPerS > 0 || m.BacklogJobs > 0 {
			list = append(list, m)
			arrivals += m.ArrivalsPerS
			running += m.WorkerSecondsPerS
		}
	}
	// The worst is who has most of what arrives and of what the workers do, both as shares.
	score := func(m *logv1.Talker) float64 {
		return m.ArrivalsPerS/max(arrivals, 1) + m.WorkerSecondsPerS/max(running, 1)
	}
	slices.SortFunc(list, func(a, b *logv1.Talker) int {
		return cmp.Or(cmp.Compare(score(b), score(a)), cmp.Compare(b.BacklogJobs, a.BacklogJobs), cmp.Compare(a.Source, b.Source))
	})
	t.at, t.last, t.current = now, next, list[:min(len(list), maxTalkers)]
}

// top is who uses most, the worst first. The messages are shared and must not be changed.
func (t *talkers) top() []*logv1.Talker { return t.current }

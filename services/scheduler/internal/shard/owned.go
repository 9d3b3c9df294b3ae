package shard

import (
	"slices"
	"sync"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/lane"
)

// owned is one shard of this replica.
type owned struct {
	id     int32
	shards int // P
	epoch  int64
	since  time.Time // when it was taken
	// quarantine is until when records below Window.quarantined are not granted, because a former owner may have granted them.
	quarantine time.Time
	priorities [core.Priorities]*Window
	spill      []*Window // by lane number

	// laning lets one lane be taken or freed at a time, commit included.
	laning turn

	// outcomes is the last commit in outcomes. Only the goroutine that commits uses it.
	outcomes kafka.Commit

	// mu guards all below, and the windows.
	mu          sync.Mutex
	lanes       *lane.Table
	events      events
	handover    handover
	ours        int64                    // every record of outcomes from epoch to here is this owner's
	byJob       map[core.JobID][]int64   // events by job, until its record is complete
	history     map[core.JobID]core.Past // nil once nobody can ask any more
	recent      []outcomeOf              // settled by former owners; nil once the engine has them
	recentBelow int                      // so many of recent lie below the committed offset of outcomes
	legacy      legacy                   // while the history is read
	inherited   []core.Held              // leases of former owners; nil once the engine has them
}

// windows are the shard's partitions, priorities first.
func (s *owned) windows() []*Window {
	all := make([]*Window, 0, len(s.priorities)+len(s.spill))
	return append(append(all, s.priorities[:]...), s.spill...)
}

// inQuarantine reports whether the shard has jobs that a former owner may have granted, and that may still run somewhere. s.mu is held.
func (s *owned) inQuarantine(now time.Time) bool {
	return now.Before(s.quarantine) && slices.ContainsFunc(s.windows(), func(w *Window) bool { return w.tracker.Low() < w.quarantined })
}

// window is the partition of a home.
func (s *owned) window(home core.Home) *Window {
	if home.Topic == core.TopicSpill {
		if n := int(home.Partition) / s.shards; n < len(s.spill) {
			return s.spill[n]
		}
		return nil
	}
	if int(home.Topic) < len(s.priorities) {
		return s.priorities[home.Topic]
	}
	return nil
}

// event takes an event that is durable.
func (s *owned) event(id core.JobID, offset int64, outcome jobv1.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset == s.ours {
		s.ours++
	}
	s.events.add(offset, outcome)
	s.byJob[id] = append(s.byJob[id], offset)
}

// complete takes a record that is done with.
func (s *owned) complete(id core.JobID, home core.Home) {
	w := s.window(home)
	if w == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	explained := s.byJob[id]
	delete(s.byJob, id)
	w.complete(id, home.Offset, explained)
}

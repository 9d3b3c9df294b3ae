package status

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// Mark is where work of a (source, type) is written that spills or is held.
type Mark struct {
	// Replica is the scheduler that said so.
	Replica string
	// Lane is the partition of spill; -1: the common lane, new work is refused.
	Lane int32
	// BacklogJobs and BacklogBytes are what waited in the lane, as last told.
	BacklogJobs, BacklogBytes int64
	// OldestAt is when the oldest was accepted; zero: not known.
	OldestAt time.Time
}

// markKey is what a mark is about; tenant "*" is all.
type markKey struct{ source, jobType, tenant string }

func keyOf(m *logv1.SpillMark) markKey {
	return markKey{m.GetSource(), m.GetType(), m.GetTenant()}
}

type ownedMark struct {
	message *logv1.SpillMark
	replica string
}

// collect puts what a beat says of marks into changes.
func (r *Reader) collect(s *logv1.Status, changes map[markKey]*ownedMark) {
	owner := s.GetReplica()
	if s.GetFull() {
		for key, m := range *r.marks.Load() {
			if m.replica == owner {
				changes[key] = nil
			}
		}
		for key, m := range changes {
			if m != nil && m.replica == owner {
				changes[key] = nil
			}
		}
	}
	for _, m := range s.GetMarks() {
		if !m.GetCleared() {
			changes[keyOf(m)] = &ownedMark{message: m, replica: owner}
			continue
		}
		// A mark that another owner has set since is not this one's to end.
		if standing, pending := changes[keyOf(m)]; pending {
			if standing == nil || standing.replica == owner {
				changes[keyOf(m)] = nil
			}
		} else if (*r.marks.Load())[keyOf(m)].replica == owner {
			changes[keyOf(m)] = nil
		}
	}
}

// forget drops replicas that were not heard of for long, and what they marked.
func (r *Reader) forget(now time.Time, changes map[markKey]*ownedMark) {
	gone := false
	for name, e := range r.replicas {
		if now.Sub(e.heard) > forgetAfter {
			delete(r.replicas, name)
			gone = true
		}
	}
	if !gone {
		return
	}
	for key, m := range *r.marks.Load() {
		if _, changing := changes[key]; !changing && r.replicas[m.replica] == nil {
			changes[key] = nil
		}
	}
}

// mark publishes changed marks.
func (r *Reader) mark(changes map[markKey]*ownedMark) {
	if len(changes) == 0 {
		return
	}
	marks := maps.Clone(*r.marks.Load())
	for key, m := range changes {
		switch _, known := marks[key]; {
		case m == nil:
			delete(marks, key)
		case known || len(marks) < maxMarks:
			marks[key] = *m
		}
	}
	r.marks.Store(&marks)
}

// Mark finds the mark for new work: that of the flow, else that of all tenants. It takes no lock and allocates nothing.
func (r *Reader) Mark(source, tenant, jobType string) (Mark, bool) {
	marks := *r.marks.Load()
	m, ok := marks[markKey{source, jobType, tenant}]
	if !ok {
		m, ok = marks[markKey{source, jobType, "*"}]
	}
	if !ok {
		return Mark{}, false
	}
	return m.mark(), true
}

func (m ownedMark) mark() Mark {
	mark := Mark{
		Replica: m.replica, Lane: m.message.GetLane(),
		BacklogJobs: m.message.GetBacklogJobs(), BacklogBytes: m.message.GetBacklogBytes(),
	}
	if m.message.GetOldestAt() != nil {
		mark.OldestAt = m.message.GetOldestAt().AsTime()
	}
	return mark
}

// Marks returns all marks, by source, type and tenant. The messages must not be changed.
func (r *Reader) Marks() []*logv1.SpillMark {
	marks := *r.marks.Load()
	all := make([]*logv1.SpillMark, 0, len(marks))
	for _, m := range marks {
		all = append(all, m.message)
	}
	slices.SortFunc(all, func(a, b *logv1.SpillMark) int {
		return cmp.Or(strings.Compare(a.GetSource(), b.GetSource()), strings.Compare(a.GetType(), b.GetType()), strings.Compare(a.GetTenant(), b.GetTenant()))
	})
	return all
}

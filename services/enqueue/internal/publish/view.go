package publish

import (
	"time"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/envelope"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/enqueue/internal/core"
)

// What holds for a source that does not say otherwise; control.md and source.proto name these.
const (
	defaultAcceptRate   = 20_000
	defaultBacklogJobs  = 1_000_000
	defaultBacklogBytes = 1 << 30
	defaultKeyWindow    = 10 * time.Minute
	defaultDepth        = 100
)

// index is what status said last. It never changes.
type index struct {
	marks    map[string]*core.Marks // by source
	replicas int
}

// newIndex sorts marks by source. lane < shards is lane 0 of its shard, the common one. A mark with a lane of another shard is no mark: its owner
// could not serve the source.
func newIndex(marks []*logv1.SpillMark, shards int32, replicas int) *index {
	bySource := make(map[string][]core.Mark, 8)
	for _, m := range marks {
		if shards == 0 || m.GetLane() >= 0 && m.GetLane()%shards != int32(envelope.Shard(m.GetSource(), int(shards))) {
			continue
		}
		bySource[m.GetSource()] = append(bySource[m.GetSource()], core.Mark{
			Tenant: m.GetTenant(), Type: m.GetType(), Lane: m.GetLane(), Common: m.GetLane() < shards, Jobs: m.GetBacklogJobs(), Bytes: m.GetBacklogBytes(),
		})
	}
	x := &index{marks: make(map[string]*core.Marks, len(bySource)), replicas: replicas}
	for source, list := range bySource {
		x.marks[source] = core.NewMarks(list)
	}
	return x
}

// view is a core.View of the latest control state and index. It remembers sources in the form of the core by the message they were made of,
// which the fold never changes, so a source is read once for each of its revisions. The room's mutex guards it.
type view struct {
	state *controllog.State
	index *index
	known map[string]reading
}

type reading struct {
	message *automationv1.Source
	source  *core.Source
}

// slack is how many more readings than sources are kept before the old ones are dropped.
const slack = 64

// refresh takes the latest of both.
func (v *view) refresh(state *controllog.State, x *index) {
	v.state, v.index = state, x
	if len(v.known) > state.Len()+slack {
		clear(v.known)
	}
}

// Source implements core.View.
func (v *view) Source(name string) *core.Source {
	message, ok := v.state.Source(name)
	if !ok {
		return nil
	}
	if r := v.known[name]; r.message == message {
		return r.source
	}
	source := fromSource(message)
	v.known[name] = reading{message, source}
	return source
}

// Effect implements core.View.
func (v *view) Effect(source, tenant string, now time.Time) core.Effect {
	e := v.state.Effective(source, tenant, now)
	out := core.Effect{Held: e.Held, Blocked: e.Blocked, Demote: fromPriority(e.Demote)}
	if e.Blocked {
		out.Actor, out.Why = e.Switch.GetActor(), e.Switch.GetReason()
		if until := e.Switch.GetUntil(); until != nil {
			out.Until = until.AsTime()
		}
	}
	return out
}

// Marks implements core.View.
func (v *view) Marks(source string) *core.Marks { return v.index.marks[source] }

// Replicas implements core.View.
func (v *view) Replicas() int { return v.index.replicas }

// fromSource reads a registration, with what an absent field means.
func fromSource(m *automationv1.Source) *core.Source {
	s := &core.Source{
		Types: m.GetTypes(), Priority: fromPriority(m.GetDefaultPriority()), Ceiling: fromPriority(m.GetMaxPriority()),
		Reject: m.GetOverflow() == automationv1.Overflow_OVERFLOW_REJECT, Principals: m.GetPrincipals(), Expiry: m.GetExpiry().AsDuration(),
		MaxDepth: m.GetRunaway().GetMaxDepth(), KeyWindow: m.GetDedupeWindow().AsDuration(),
		AcceptRate: defaultAcceptRate, BacklogJobs: defaultBacklogJobs, BacklogBytes: defaultBacklogBytes,
	}
	if q := m.GetQuota(); q != nil { // of a quota that is given, an absent field is no limit
		s.AcceptRate, s.BacklogJobs, s.BacklogBytes = q.GetAcceptRate(), q.GetBacklogJobs(), q.GetBacklogBytes()
	}
	if s.Priority == core.None {
		s.Priority = core.Default
	}
	if s.Ceiling == core.None {
		s.Ceiling = core.High
	}
	if s.MaxDepth == 0 {
		s.MaxDepth = defaultDepth
	}
	if s.KeyWindow == 0 {
		s.KeyWindow = defaultKeyWindow
	}
	return s
}

// fromPriority reads a priority of the registry; one that this release does not know is none.
func fromPriority(p jobv1.Priority) core.Priority {
	switch p {
	case jobv1.Priority_PRIORITY_BULK:
		return core.Bulk
	case jobv1.Priority_PRIORITY_LOW:
		return core.Low
	case jobv1.Priority_PRIORITY_DEFAULT:
		return core.Default
	case jobv1.Priority_PRIORITY_HIGH:
		return core.High
	case jobv1.Priority_PRIORITY_CRITICAL:
		return core.Critical
	default:
		return core.None
	}
}

package scheduler

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/controllog"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// converter makes the engine's view of one control state after the other. States share what has not changed between them, and messages in them do
// not change: so a record costs the conversion of one source, not of 20,000. The zero value is ready.
type converter struct{ sources map[string]converted }

// converted is a source and what was made of it.
type converted struct {
	source *automationv1.Source
	policy core.Policy
}

// control is the engine's view of a state.
func (k *converter) control(state *controllog.State) core.Control {
	c := core.Control{Sequence: state.Sequence(), Sources: make(map[string]core.Policy, state.Len())}
	next := make(map[string]converted, state.Len())
	for s := range state.Sources() {
		was, has := k.sources[s.GetName()]
		if !has || was.source != s {
			was = converted{s, policy(s)}
		}
		next[s.GetName()], c.Sources[s.GetName()] = was, was.policy
	}
	k.sources = next
	for _, sw := range append(state.Switches(), state.Ramps()...) {
		if converted, ok := switchOf(sw); ok {
			c.Switches = append(c.Switches, converted)
		}
	}
	return c
}

func policy(s *automationv1.Source) core.Policy {
	p := core.Policy{
		MaxPriority: core.High, Weight: s.GetWeight(), Quota: quota(s.GetQuota()), TenantQuota: quota(s.GetTenantQuota().GetEach()),
		RunTimeout: s.GetRunTimeout().AsDuration(), DedupeWindow: s.GetDedupeWindow().AsDuration(),
		Retry: core.RetryPolicy{
			MaxAttempts: s.GetRetry().GetMaxAttempts(), Initial: s.GetRetry().GetInitial().AsDuration(),
			Max: s.GetRetry().GetMax().AsDuration(), Multiplier: s.GetRetry().GetMultiplier(),
		},
	}
	if s.GetMaxPriority() != jobv1.Priority_PRIORITY_UNSPECIFIED {
		p.MaxPriority = priority(s.GetMaxPriority())
	}
	if overrides := s.GetTenantQuota().GetOverrides(); len(overrides) > 0 {
		p.TenantOverrides = make(map[string]core.Quota, len(overrides))
		for tenant, q := range overrides {
			p.TenantOverrides[tenant] = quota(q)
		}
	}
	return p
}

func quota(q *automationv1.Quota) core.Quota {
	if q == nil {
		return core.Quota{}
	}
	return core.Quota{Rate: q.Rate, Burst: q.Burst, Concurrency: q.Concurrency}
}

// priority rounds down to a priority of this release.
func priority(p jobv1.Priority) core.Priority {
	switch {
	case p >= jobv1.Priority_PRIORITY_CRITICAL:
		return core.Critical
	case p >= jobv1.Priority_PRIORITY_HIGH:
		return core.High
	case p >= jobv1.Priority_PRIORITY_DEFAULT:
		return core.Default
	case p >= jobv1.Priority_PRIORITY_LOW:
		return core.Low
	}
	return core.Bulk
}

var toPriority = [core.Priorities]jobv1.Priority{
	core.Bulk: jobv1.Priority_PRIORITY_BULK, core.Low: jobv1.Priority_PRIORITY_LOW, core.Default: jobv1.Priority_PRIORITY_DEFAULT,
	core.High: jobv1.Priority_PRIORITY_HIGH, core.Critical: jobv1.Priority_PRIORITY_CRITICAL,
}

var verbs = map[automationv1.Verb]core.Verb{
	automationv1.Verb_VERB_HOLD: core.Hold, automationv1.Verb_VERB_BLOCK: core.Block, automationv1.Verb_VERB_DEMOTE: core.Demote,
	automationv1.Verb_VERB_RESUME: core.Resume,
}

// switchOf converts a switch that the engine acts on.
func switchOf(sw *automationv1.Switch) (core.Switch, bool) {
	verb, acts := verbs[sw.GetVerb()]
	scope, known := scopeOf(sw.GetScope())
	if !acts || !known {
		return core.Switch{}, false
	}
	converted := core.Switch{Scope: scope, Verb: verb, To: priority(sw.GetTo()), Sequence: sw.GetSequence()}
	if verb == core.Resume {
		converted.Rate, converted.At = sw.GetRampRate(), sw.GetAt().AsTime() // no time is 1970: the ramp is over
	}
	if sw.GetUntil() != nil {
		converted.Until = sw.GetUntil().AsTime()
	}
	return converted, true
}

func scopeOf(s *automationv1.Scope) (core.Scope, bool) {
	switch on := s.GetScope().(type) {
	case *automationv1.Scope_Source:
		return core.Scope{Kind: core.ScopeSource, Source: on.Source}, true
	case *automationv1.Scope_Tenant:
		return core.Scope{Kind: core.ScopeTenant, Tenant: on.Tenant}, true
	case *automationv1.Scope_Flow:
		return core.Scope{Kind: core.ScopeFlow, Source: on.Flow.GetSource(), Tenant: on.Flow.GetTenant()}, true
	}
	return core.Scope{}, false
}

// summaries are the engine's words for the other replicas.
func summaries(list []core.Summary) []*logv1.Summary {
	out := make([]*logv1.Summary, 0, len(list))
	for _, s := range list {
		m := &logv1.Summary{Pool: s.Pool, Borrowed: s.Borrowed, ReturningBorrowed: s.C, ReturningOther: s.C0}
		for p, load := range s.Priorities {
			share := &logv1.Summary_PriorityShare{
				Priority: toPriority[p], Mean: load.Mean, Variance: load.Variance, Running: load.Running, ActiveWeight: load.ActiveWeight,
			}
			if load.Queued {
				share.LeastTag = &load.LeastTag
			}
			m.Priorities = append(m.Priorities, share)
		}
		for _, b := range s.Borrowers {
			m.Borrowers = append(m.Borrowers, &logv1.Summary_Borrower{Demand: b.Demand, Weight: b.Weight, Priority: toPriority[b.Priority]})
		}
		out = append(out, m)
	}
	return out
}

// heard are the other replicas' words for the engine.
func heard(list []*logv1.Summary) []core.Summary {
	out := make([]core.Summary, 0, len(list))
	for _, m := range list {
		s := core.Summary{Pool: m.GetPool(), Borrowed: m.GetBorrowed(), C: m.GetReturningBorrowed(), C0: m.GetReturningOther()}
		for _, share := range m.GetPriorities() {
			s.Priorities[priority(share.GetPriority())] = core.PriorityLoad{
				Mean: share.GetMean(), Variance: share.GetVariance(), Running: share.GetRunning(), ActiveWeight: share.GetActiveWeight(),
				Queued: share.LeastTag != nil, LeastTag: share.GetLeastTag(),
			}
		}
		for _, b := range m.GetBorrowers() {
			s.Borrowers = append(s.Borrowers, core.Borrower{Demand: b.GetDemand(), Weight: b.GetWeight(), Priority: priority(b.GetPriority())})
		}
		out = append(out, s)
	}
	return out
}

// mark is the engine's mark for status.
func mark(m core.Mark, lane int32) *logv1.SpillMark {
	out := &logv1.SpillMark{
		Source: m.Source, Type: m.Type, Tenant: m.Tenant, Lane: lane, BacklogJobs: m.BacklogJobs, BacklogBytes: m.BacklogBytes,
	}
	if !m.Oldest.IsZero() {
		out.OldestAt = timestamppb.New(m.Oldest)
	}
	return out
}

// inForce lists the scopes that are held now.
func inForce(state *controllog.State, now time.Time) []core.Scope {
	var scopes []core.Scope
	for _, sw := range state.Switches() {
		verb := sw.GetVerb()
		if verb != automationv1.Verb_VERB_HOLD && verb != automationv1.Verb_VERB_BLOCK || !controllog.InForce(sw, now) {
			continue
		}
		if scope, ok := scopeOf(sw.GetScope()); ok {
			scopes = append(scopes, scope)
		}
	}
	return scopes
}

package api

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/automation/internal/core"
)

// FromSource reads a source as callers and the control log write it. What is absent is zero: see core.Source.Defaulted.
func FromSource(m *automationv1.Source) core.Source {
	s := core.Source{
		Name: m.GetName(), Owner: m.GetOwner(), Description: m.GetDescription(), Types: m.GetTypes(),
		DefaultPriority: core.Priority(m.GetDefaultPriority()), MaxPriority: core.Priority(m.GetMaxPriority()),
		Quota: fromQuota(m.GetQuota()), Tenants: core.TenantQuota{Each: fromQuota(m.GetTenantQuota().GetEach())},
		Weight: m.GetWeight(),
		Retry: core.Retry{
			MaxAttempts: m.GetRetry().GetMaxAttempts(), Initial: m.GetRetry().GetInitial().AsDuration(),
			Max: m.GetRetry().GetMax().AsDuration(), Multiplier: m.GetRetry().GetMultiplier(),
		},
		DedupeWindow: m.GetDedupeWindow().AsDuration(), Overflow: core.Overflow(m.GetOverflow()),
		Runaway: core.Action(m.GetRunaway().GetAction()), MaxDepth: m.GetRunaway().GetMaxDepth(),
		Principals: m.GetPrincipals(), RunTimeout: m.GetRunTimeout().AsDuration(), Expiry: m.GetExpiry().AsDuration(),
		Revision: m.GetRevision(), State: core.State(m.GetState()), Created: fromTime(m.GetCreateTime()), Updated: fromTime(m.GetUpdateTime()),
	}
	if overrides := m.GetTenantQuota().GetOverrides(); len(overrides) > 0 {
		s.Tenants.Overrides = make(map[string]core.Quota, len(overrides))
		for tenant, q := range overrides {
			if own := fromQuota(q); own != nil {
				s.Tenants.Overrides[tenant] = *own
			}
		}
	}
	return s
}

// ToSource writes a source as callers read it.
func ToSource(s core.Source) *automationv1.Source {
	m := &automationv1.Source{
		Name: s.Name, Owner: s.Owner, Description: s.Description, Types: s.Types,
		DefaultPriority: jobv1.Priority(s.DefaultPriority), MaxPriority: jobv1.Priority(s.MaxPriority),
		Quota: ToQuota(s.Quota), Weight: s.Weight,
		Retry: &automationv1.RetryPolicy{
			MaxAttempts: s.Retry.MaxAttempts, Initial: toDuration(s.Retry.Initial), Max: toDuration(s.Retry.Max), Multiplier: s.Retry.Multiplier,
		},
		DedupeWindow: toDuration(s.DedupeWindow), Overflow: automationv1.Overflow(s.Overflow),
		Runaway:    &automationv1.Runaway{Action: automationv1.RunawayAction(s.Runaway), MaxDepth: s.MaxDepth},
		Principals: s.Principals, RunTimeout: toDuration(s.RunTimeout), Expiry: toDuration(s.Expiry),
		Revision: s.Revision, State: automationv1.State(s.State), CreateTime: toTime(s.Created), UpdateTime: toTime(s.Updated),
	}
	if s.Revision > 0 {
		m.Etag = s.Etag()
	}
	if s.Tenants.Each != nil || len(s.Tenants.Overrides) > 0 {
		m.TenantQuota = &automationv1.TenantQuota{Each: ToQuota(s.Tenants.Each)}
		if len(s.Tenants.Overrides) > 0 {
			m.TenantQuota.Overrides = make(map[string]*automationv1.Quota, len(s.Tenants.Overrides))
			for tenant, q := range s.Tenants.Overrides {
				m.TenantQuota.Overrides[tenant] = ToQuota(&q)
			}
		}
	}
	return m
}

func fromQuota(q *automationv1.Quota) *core.Quota {
	if q == nil {
		return nil
	}
	return &core.Quota{
		Rate: q.Rate, Burst: q.Burst, Concurrency: q.Concurrency, AcceptRate: q.AcceptRate,
		BacklogJobs: q.BacklogJobs, BacklogBytes: q.BacklogBytes, PublishRate: q.PublishRate,
	}
}

// ToQuota writes a quota; nil stays nil.
func ToQuota(q *core.Quota) *automationv1.Quota {
	if q == nil {
		return nil
	}
	return &automationv1.Quota{
		Rate: q.Rate, Burst: q.Burst, Concurrency: q.Concurrency, AcceptRate: q.AcceptRate,
		BacklogJobs: q.BacklogJobs, BacklogBytes: q.BacklogBytes, PublishRate: q.PublishRate,
	}
}

// FromScope reads a scope; an absent one is zero.
func FromScope(m *automationv1.Scope) core.Scope {
	switch s := m.GetScope().(type) {
	case *automationv1.Scope_Source:
		return core.Scope{Kind: core.OfSource, Source: s.Source}
	case *automationv1.Scope_Tenant:
		return core.Scope{Kind: core.OfTenant, Tenant: s.Tenant}
	case *automationv1.Scope_Flow:
		return core.Scope{Kind: core.OfFlow, Source: s.Flow.GetSource(), Tenant: s.Flow.GetTenant()}
	}
	return core.Scope{}
}

// ToScope writes a scope; nil for a zero one.
func ToScope(s core.Scope) *automationv1.Scope {
	switch s.Kind {
	case core.OfSource:
		return &automationv1.Scope{Scope: &automationv1.Scope_Source{Source: s.Source}}
	case core.OfTenant:
		return &automationv1.Scope{Scope: &automationv1.Scope_Tenant{Tenant: s.Tenant}}
	case core.OfFlow:
		return &automationv1.Scope{Scope: &automationv1.Scope_Flow{Flow: &automationv1.Flow{Source: s.Source, Tenant: s.Tenant}}}
	}
	return nil
}

// FromSwitch reads a switch of the control log.
func FromSwitch(m *automationv1.Switch) core.Switch {
	return core.Switch{
		Scope: FromScope(m.GetScope()), Verb: core.Verb(m.GetVerb()), Reason: m.GetReason(), Actor: m.GetActor(),
		At: fromTime(m.GetAt()), Until: fromTime(m.GetUntil()), Sequence: m.GetSequence(), To: core.Priority(m.GetTo()), Ramp: m.GetRampRate(),
	}
}

// ToSwitch writes a switch; nil for a zero one.
func ToSwitch(s core.Switch) *automationv1.Switch {
	if s.Verb == 0 {
		return nil
	}
	return &automationv1.Switch{
		Scope: ToScope(s.Scope), Verb: automationv1.Verb(s.Verb), Reason: s.Reason, Actor: s.Actor,
		At: toTime(s.At), Until: toTime(s.Until), Sequence: s.Sequence, To: jobv1.Priority(s.To), RampRate: s.Ramp,
	}
}

func toProof(p core.Proof) *automationv1.Proof {
	if p.Sequence == 0 {
		return nil
	}
	m := &automationv1.Proof{Sequence: p.Sequence, Silent: p.Silent, Took: durationpb.New(p.Took), Running: p.Running}
	for _, a := range p.Acks {
		m.Acks = append(m.Acks, &automationv1.Ack{Replica: a.Replica, AppliedAt: toTime(a.At)})
	}
	return m
}

func toPreview(p core.Preview) *automationv1.Preview {
	return &automationv1.Preview{Jobs: p.Jobs, Bytes: p.Bytes, Running: p.Running, Sources: p.Sources, Etag: p.Etag}
}

func fromTime(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func toTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func toDuration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// edit returns have with the fields of from that paths name; without paths, those that are set. What automation says is not the caller's
// to change.
func edit(have core.Source, from *automationv1.Source, paths []string) (core.Source, []core.Violation) {
	into := ToSource(have)
	if len(paths) == 0 {
		for _, f := range settable {
			if fd := from.ProtoReflect().Descriptor().Fields().ByName(f); from.ProtoReflect().Has(fd) {
				paths = append(paths, string(f))
			}
		}
	}
	var wrong []core.Violation
	from = proto.CloneOf(from) // into may come to share parts of it
	for _, path := range paths {
		if description := take(into, from, path); description != "" {
			wrong = append(wrong, core.Violation{Field: "update_mask", Description: path + ": " + description})
		}
	}
	return FromSource(into), wrong
}

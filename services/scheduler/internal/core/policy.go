package core

import (
	"fmt"
	"math"
	"reflect"
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core/ramp"
)

// Control is the folded control log as the engine needs it. The engine keeps the maps and slices: the shell gives
// a new value each time.
type Control struct {
	Sequence int64
	Sources  map[string]Policy
	Switches []Switch // in force or not yet expired; one a scope
}

// Policy is what a source may do. The zero value of a field means its default.
type Policy struct {
	MaxPriority     Priority // ceiling; the zero value is Bulk, so the shell always sets it
	Weight          int32    // 1..1000, 0 = 100
	Quota           Quota
	TenantQuota     Quota            // of each tenant
	TenantOverrides map[string]Quota // replaces TenantQuota, by tenant
	Retry           RetryPolicy
	RunTimeout      time.Duration // 0 = 5 min
	DedupeWindow    time.Duration // of keys the caller chose; 0 = 10 min, at most 1 h
}

// Quota limits dispatch. nil = no limit of that kind.
type Quota struct {
	Rate        *float64 // jobs a second; 0 lets nothing run
	Burst       *int32   // jobs beyond the rate at once; nil = one second of the rate, at least 1
	Concurrency *int32   // leases at a time; 0 lets nothing run
}

// RetryPolicy is exponential backoff with full jitter.
type RetryPolicy struct {
	MaxAttempts int32         // 0 = 10
	Initial     time.Duration // 0 = 1 s
	Max         time.Duration // 0 = 10 min; what is kept in memory is capped at 15 s
	Multiplier  float64       // 0 = 2
}

// ScopeKind says what a switch is about.
type ScopeKind uint8

// What a switch is about.
const (
	ScopeSource ScopeKind = iota + 1
	ScopeTenant           // across sources
	ScopeFlow
)

// Scope is a source, a tenant across sources, or a flow.
type Scope struct {
	Kind   ScopeKind
	Source string // of ScopeSource and ScopeFlow
	Tenant string // of ScopeTenant and ScopeFlow
}

// Verb is what a switch does.
type Verb uint8

// What a switch does. To the engine, Block is Hold: only enqueue tells them apart.
const (
	Hold Verb = iota + 1
	Block
	Demote
	// Resume lets what was held come back at a ramp: see package ramp.
	Resume
)

// Switch is an operator's act in force until Until. Where several meet, the strictest wins.
type Switch struct {
	Scope    Scope
	Verb     Verb
	To       Priority  // of Demote: the ceiling
	Rate     float64   // of Resume: jobs a second to begin with
	At       time.Time // of Resume: when it was thrown
	Until    time.Time // zero = until resumed
	Sequence int64
}

// Changes is what an Apply altered, for the log and the status beat.
type Changes struct {
	Sequence int64
	Held     []Scope // newly held
	Resumed  []Scope // no longer held
	Ceilings []Scope // sources and flows whose priority ceiling changed
	Quotas   []string
}

// effects is a control state indexed by scope, with only the switches that have not expired; the Rate of a Resume is the one it has come to.
type effects struct {
	Control
	sources map[string]Switch
	tenants map[string]Switch
	flows   map[[2]string]Switch
}

// check refuses what the engine could not act upon.
func (c *Control) check() error {
	for name, p := range c.Sources {
		if p.MaxPriority >= Priorities || p.Weight < 0 || p.Weight > 1000 {
			return fmt.Errorf("source %q: priority %d or weight %d out of range", name, p.MaxPriority, p.Weight)
		}
		if err := p.Quota.check(); err != nil {
			return fmt.Errorf("source %q: %w", name, err)
		}
		if err := p.TenantQuota.check(); err != nil {
			return fmt.Errorf("source %q, tenants: %w", name, err)
		}
		for tenant, q := range p.TenantOverrides {
			if err := q.check(); err != nil {
				return fmt.Errorf("source %q, tenant %q: %w", name, tenant, err)
			}
		}
	}
	seen := make(map[Scope]bool, len(c.Switches))
	for _, s := range c.Switches {
		switch {
		case s.Scope.Kind < ScopeSource || s.Scope.Kind > ScopeFlow, s.Verb < Hold || s.Verb > Resume, s.To >= Priorities:
			return fmt.Errorf("switch %d: unknown scope, verb or priority", s.Sequence)
		case s.Verb == Resume && !(s.Rate > 0): // also refuses NaN
			return fmt.Errorf("switch %d: rate %v", s.Sequence, s.Rate)
		case seen[s.Scope]:
			return fmt.Errorf("switch %d: a second one on its scope", s.Sequence)
		}
		seen[s.Scope] = true
	}
	return nil
}

func (q *Quota) check() error {
	if q.Rate != nil && (math.IsNaN(*q.Rate) || math.IsInf(*q.Rate, 0) || *q.Rate < 0) {
		return fmt.Errorf("rate %v", *q.Rate)
	}
	if q.Burst != nil && *q.Burst < 0 || q.Concurrency != nil && *q.Concurrency < 0 {
		return fmt.Errorf("negative burst or concurrency")
	}
	return nil
}

// rampGrid is when ramps rise: whole seconds, so that many of them cost one commit a second.
const rampGrid = time.Second

// index is the control state's effect at a time, and when time alone changes it next: a switch expires, a ramp rises.
func (e *Engine) index(t moment, c Control) (effects, moment) {
	x := effects{
		Control: c, sources: make(map[string]Switch), tenants: make(map[string]Switch), flows: make(map[[2]string]Switch),
	}
	next := never
	for _, s := range c.Switches {
		if !s.Until.IsZero() {
			until := e.at(s.Until)
			if until <= t {
				continue
			}
			next = min(next, until)
		}
		if s.Verb == Resume {
			after := e.start.Add(t).Sub(s.At)
			soon := after > -ramp.Longest // else a clock is wrong, and the ramp would not rise
			after = max(0, after)
			rate, rises := ramp.Rate(s.Rate, after)
			if rate == 0 || !soon {
				continue
			}
			s.Rate, next = rate, min(next, (t+rises-after+rampGrid-1).Truncate(rampGrid))
		}
		switch s.Scope.Kind {
		case ScopeSource:
			x.sources[s.Scope.Source] = s
		case ScopeTenant:
			x.tenants[s.Scope.Tenant] = s
		case ScopeFlow:
			x.flows[[2]string{s.Scope.Source, s.Scope.Tenant}] = s
		}
	}
	return x, next
}

// Apply takes a new control state: first it checks it whole, then it acts at once on what is queued. An error leaves
// the engine as it was.
func (e *Engine) Apply(now time.Time, c Control) (Changes, error) {
	t := e.advance(now)
	if err := c.check(); err != nil {
		return Changes{}, fmt.Errorf("control state %d: %w", c.Sequence, err)
	}
	return e.commit(t, c), nil
}

// switchOver lets expired switches go and ramps rise.
func (e *Engine) switchOver(t moment) { e.commit(t, e.control.Control) }

// commit makes the control state's effect at t the engine's. It costs as much as there are sources and flows with
// jobs, and the queued jobs of those that changed.
func (e *Engine) commit(t moment, c Control) Changes {
	e.control, e.untilNext = e.index(t, c)
	changes := Changes{Sequence: c.Sequence}
	for _, name := range sortedKeys(e.sources) {
		s := e.sources[name]
		held, top := s.held, s.ceiling
		if e.govern(t, s) {
			changes.Quotas = append(changes.Quotas, name)
		}
		scope := Scope{Kind: ScopeSource, Source: name}
		changes.note(scope, held, s.held, top != s.ceiling)
		resort, stopped := top != s.ceiling, s.held
		for _, tenant := range sortedKeys(s.flows) {
			f := s.flows[tenant]
			held, top := f.held, f.ceiling
			e.governFlow(t, f)
			changes.note(Scope{Kind: ScopeFlow, Source: name, Tenant: tenant}, held, f.held, top != f.ceiling)
			resort = resort || top != f.ceiling
			if f.held || s.held {
				e.clear(t, f)
				stopped = true
			}
		}
		if s.held != held {
			for _, p := range s.pairs {
				e.countLane(t, p)
			}
			e.marks = true
		}
		if resort {
			e.resortSource(t, s)
		}
		if stopped {
			e.recall(s)
		}
	}
	return changes
}

func (c *Changes) note(s Scope, was, is, ceiling bool) {
	switch {
	case is && !was:
		c.Held = append(c.Held, s)
	case was && !is:
		c.Resumed = append(c.Resumed, s)
	}
	if ceiling {
		c.Ceilings = append(c.Ceilings, s)
	}
}

// govern gives a source its policy and switches; it reports whether its quota, weight or ceiling changed.
func (e *Engine) govern(t moment, s *source) bool {
	p, ok := e.control.Sources[s.name]
	if !ok {
		p = e.cfg.Default
		if p.MaxPriority == 0 {
			p.MaxPriority = Critical
		}
	}
	changed := s.weight == 0 || !reflect.DeepEqual(s.policy, p)
	s.policy = p
	weight := float64(p.Weight) / 100
	if p.Weight == 0 {
		weight = 1
	}
	if s.weight != weight {
		for _, l := range s.lines {
			if l.active != 0 {
				l.pool.bands[l.prio].weight += weight - s.weight
				l.pool.refresh()
			}
		}
		s.weight = weight
	}
	sw := e.control.sources[s.name]
	s.held = sw.Verb == Hold || sw.Verb == Block
	s.ceiling = p.MaxPriority
	if sw.Verb == Demote {
		s.ceiling = min(s.ceiling, sw.To)
	}
	if changed {
		s.limit.set(p.Quota)
	}
	s.ramp.climb(t, sw.Rate)
	e.checkSource(t, s)
	return changed
}

// governFlow gives a flow its quota and switches.
func (e *Engine) governFlow(t moment, f *flow) {
	q, ok := f.src.policy.TenantOverrides[f.tenant]
	if !ok {
		q = f.src.policy.TenantQuota
	}
	if f.tenant == "" { // work of no tenant is bounded by its source alone
		q = Quota{}
	}
	f.limit.set(q)
	slowest := 0.0 // rate of a ramp
	f.held, f.ceiling = false, Critical
	flow := e.control.flows[[2]string{f.src.name, f.tenant}]
	all := Switch{}
	if f.tenant != "" {
		all = e.control.tenants[f.tenant]
	}
	for _, sw := range [...]Switch{all, flow} {
		f.held = f.held || sw.Verb == Hold || sw.Verb == Block
		if sw.Verb == Demote {
			f.ceiling = min(f.ceiling, sw.To)
		}
		if sw.Rate > 0 && (slowest == 0 || sw.Rate < slowest) {
			slowest = sw.Rate
		}
	}
	f.ramp.climb(t, slowest)
	e.check(t, f)
}

// clear sends a held flow's queued jobs to their lanes; those that wait for a time go when it comes.
func (e *Engine) clear(t moment, f *flow) {
	for _, q := range f.queues {
		for q.first != nil {
			j := q.first
			e.dequeue(t, j)
			e.displace(t, j)
		}
	}
}

// recall asks workers for the leases of held flows that no handler was reported to run of.
func (e *Engine) recall(s *source) {
	for _, j := range e.running {
		if f := j.strand.flow; f.src == s && (s.held || f.held) && !j.started && !j.recalled {
			j.recalled = true
			e.revokes = append(e.revokes, Revoke{
				Worker: j.lease.worker, Token: j.lease.token, Reason: RevokeHeld, OnlyIfNotStarted: true,
			})
		}
	}
}

// has reports whether a flow is within the scope.
func (s Scope) has(f *flow) bool {
	switch s.Kind {
	case ScopeSource:
		return f.src.name == s.Source
	case ScopeTenant:
		return f.tenant == s.Tenant
	case ScopeFlow:
		return f.src.name == s.Source && f.tenant == s.Tenant
	}
	return false
}

// Undecided lists the leases of a scope that were granted and neither reported Started nor returned: a hold is
// acknowledged when there are none.
func (e *Engine) Undecided(s Scope) []Token {
	var tokens []Token
	for _, j := range e.running {
		if !j.started && s.has(j.strand.flow) {
			tokens = append(tokens, j.lease.token)
		}
	}
	return tokens
}

// Running counts the scope's leases that are not reported yet, undecided ones included.
func (e *Engine) Running(s Scope) int {
	n := 0
	for _, j := range e.running {
		if s.has(j.strand.flow) {
			n++
		}
	}
	return n
}

// Talk is what a source has used so far and what of it waits, for those who look for the one that uses too much.
type Talk struct {
	Source string
	// Arrived is how many jobs have come since the engine knows the source: those that it took, and those that lie in its lanes and were not
	// offered yet. It can fall a little, when a lane's backlog is told anew or was purged; a job that is moved to a lane counts there again.
	Arrived int64
	// Running are leases, Waiting jobs in queues and unread in lanes.
	Running int
	Waiting int64
}

// Talks appends every source that the engine knows to to, in no order. It costs some 50 ns a source.
func (e *Engine) Talks(now time.Time, to []Talk) []Talk {
	e.advance(now)
	for name, s := range e.sources {
		t := Talk{Source: name, Arrived: s.taken, Running: int(s.limit.running), Waiting: int64(s.queued)}
		for _, p := range s.pairs {
			t.Arrived += p.lane.BacklogJobs
			t.Waiting += p.lane.BacklogJobs
		}
		to = append(to, t)
	}
	return to
}

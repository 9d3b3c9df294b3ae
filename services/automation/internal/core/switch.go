package core

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind says what a scope is.
type Kind uint8

// The kinds of scope, in the order of lists.
const (
	OfSource Kind = iota + 1
	OfTenant
	OfFlow
)

// Scope is what a switch acts on.
type Scope struct {
	Kind Kind
	// Source is set for OfSource and OfFlow, Tenant for OfTenant and OfFlow, where it may be empty.
	Source, Tenant string
}

// Compare orders scopes as lists do.
func (s Scope) Compare(o Scope) int {
	return cmp.Or(cmp.Compare(s.Kind, o.Kind), strings.Compare(s.Source, o.Source), strings.Compare(s.Tenant, o.Tenant))
}

// Covers reports whether work of a source counts to the scope. tenant is "*" for all of a source's.
func (s Scope) Covers(source, tenant string) bool {
	switch s.Kind {
	case OfSource:
		return source == s.Source
	case OfTenant:
		return tenant == s.Tenant
	}
	return source == s.Source && tenant == s.Tenant
}

// Verb is what a switch does, by the contract's numbers.
type Verb int32

// The verbs that automation throws.
const (
	Hold   Verb = 1
	Block  Verb = 2
	Demote Verb = 3
	Resume Verb = 5
)

// String is the verb as people write it.
func (v Verb) String() string {
	switch v {
	case Hold:
		return "hold"
	case Block:
		return "block"
	case Demote:
		return "demote"
	case Resume:
		return "resume"
	}
	return "verb " + strconv.Itoa(int(v))
}

// Switch is an operator's act.
type Switch struct {
	Scope    Scope
	Verb     Verb
	Reason   string
	Actor    string
	At       time.Time
	Until    time.Time // zero: until somebody resumes
	Sequence int64
	To       Priority // of a demotion
	Ramp     float64  // of a resume, jobs per second; 0: none
}

// InForce reports whether the switch's time is not over.
func (s Switch) InForce(now time.Time) bool { return s.Until.IsZero() || now.Before(s.Until) }

// Order is a switch that somebody asks for.
type Order struct {
	Scope         Scope
	Verb          Verb
	Reason        string
	Actor         string
	TTL           Duration // 0: DefaultTTL
	UntilResumed  bool
	Ramp          float64
	ValidateOnly  bool
	RequestID     string
	PreviewEtag   string
	CancelRunning bool
}

// Bounds of a switch's time. A switch that was forgotten ends by itself.
const (
	DefaultTTL = time.Hour
	MaxTTL     = 30 * day
	maxReason  = 512
)

// Switch is what the order throws at a time.
func (o Order) Switch(now time.Time) Switch {
	s := Switch{Scope: o.Scope, Verb: o.Verb, Reason: o.Reason, Actor: o.Actor, At: now, Ramp: o.Ramp}
	if o.Verb != Resume && !o.UntilResumed {
		s.Until = now.Add(cmp.Or(o.TTL, DefaultTTL))
	}
	return s
}

// Validate names everything that is wrong with an order, or returns nil. Paths are those of a SwitchSpec.
func (o Order) Validate() *Refusal {
	at := "spec."
	if o.Verb == Resume {
		at = ""
	}
	var wrong []Violation
	add := func(ok bool, field, description string) {
		if !ok {
			wrong = append(wrong, Violation{at + field, description})
		}
	}
	const name = "must be 1 to 64 of a-z 0-9 . _ -"
	switch o.Scope.Kind {
	case OfSource:
		add(validName(o.Scope.Source), "scope.source", name)
	case OfTenant:
		add(o.Scope.Tenant != "" && printable(o.Scope.Tenant, 128), "scope.tenant", "must be 1 to 128 printable ASCII characters")
	case OfFlow:
		add(validName(o.Scope.Source), "scope.flow.source", name)
		add(printable(o.Scope.Tenant, 128), "scope.flow.tenant", "must be at most 128 printable ASCII characters")
	default:
		add(false, "scope", "is required")
	}
	add(o.Reason != "" && prose(o.Reason, maxReason), "reason", "must be 1 to 512 bytes, without control characters")
	add(o.TTL >= 0 && o.TTL <= MaxTTL, "ttl", "must be above 0 and at most 30 days")
	add(o.TTL == 0 || !o.UntilResumed, "ttl", "excludes until_resumed")
	add(o.Ramp == 0 || o.Ramp >= minRamp && o.Ramp <= maxRate, "ramp_rate", "must be 0, or 0.01 to 1,000,000 a second")
	if o.CancelRunning {
		wrong = append(wrong, Violation{"cancel_running", "is not available yet"})
	}
	if len(wrong) == 0 {
		return nil
	}
	return &Refusal{Reason: Invalid, Message: "the request is invalid", Violations: wrong}
}

// StateOf is what the switch on a source as a whole makes of it.
func StateOf(s Switch, now time.Time) State {
	if !s.InForce(now) {
		return Active
	}
	switch s.Verb {
	case Block:
		return Blocked
	case Hold:
		return Held
	case Demote:
		return Demoted
	}
	return Active
}

// Backlog is work that waits in the lane of a (source, type), as last reported of one of the tenants whose work is there. Nobody knows how much of a
// lane is whose: backlogs of one (source, type) are reports of the same work.
type Backlog struct {
	Source, Tenant, Type string // Tenant "*": all of the source's
	Jobs, Bytes          int64
}

// Preview tells what a switch touches. Jobs and Bytes are those of the lanes that hold work of the scope, so they are an upper bound for a scope that
// is not a whole source.
type Preview struct {
	Jobs, Bytes, Running int64
	Sources              []string
	Etag                 string
}

// PreviewOf sums up what of the backlogs a scope covers. standing is the sequence of the switch that is on the scope, 0 when there is none.
func PreviewOf(scope Scope, backlogs []Backlog, standing int64) Preview {
	var p Preview
	if scope.Kind != OfTenant {
		p.Sources = []string{scope.Source}
	}
	type lane struct{ source, typ string }
	lanes := map[lane]Backlog{}
	for _, b := range backlogs {
		if !scope.Covers(b.Source, b.Tenant) {
			continue
		}
		at := lane{b.Source, b.Type}
		counted := lanes[at] // reports of different times may differ: the larger one counts
		p.Jobs += max(0, b.Jobs-counted.Jobs)
		p.Bytes += max(0, b.Bytes-counted.Bytes)
		lanes[at] = Backlog{Jobs: max(b.Jobs, counted.Jobs), Bytes: max(b.Bytes, counted.Bytes)}
		if !slices.Contains(p.Sources, b.Source) {
			p.Sources = append(p.Sources, b.Source)
		}
	}
	slices.Sort(p.Sources)
	// What waits changes all the time. What was looked at is whom the switch touches and what stands there now.
	h := fnv.New64a()
	for _, name := range p.Sources {
		h.Write([]byte(name + "\x00"))
	}
	p.Etag = strconv.FormatInt(standing, 10) + "-" + strconv.FormatUint(h.Sum64(), 36)
	return p
}

// Thrown is what a switch did.
type Thrown struct {
	Switch  Switch // zero when only a preview was asked for
	Proof   Proof
	Preview Preview
}

package core

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Duration is time.Duration; core needs nothing else of a clock's.
type Duration = time.Duration

const day = 24 * time.Hour

// Priority of jobs, by the contract's numbers: a larger one is more urgent. 0: not given.
type Priority int32

// The priorities.
const (
	Bulk     Priority = 10
	Low      Priority = 20
	Default  Priority = 30
	High     Priority = 40
	Critical Priority = 50
)

func (p Priority) known() bool { return p >= Bulk && p <= Critical && p%10 == 0 }

// Overflow says what happens to jobs above the accept rate, by the contract's numbers. 0: not given.
type Overflow int32

// The ways to overflow.
const (
	Spill  Overflow = 1
	Reject Overflow = 2
)

// Action says what protection does to a source that runs away, by the contract's numbers. 0: not given.
type Action int32

// The actions.
const (
	ActAlert  Action = 1
	ActDemote Action = 2
	ActHold   Action = 3
)

// State is what the switches make of a source, by the contract's numbers.
type State int32

// The states.
const (
	Active  State = 1
	Held    State = 2
	Blocked State = 3
	Demoted State = 4
)

// Source is a registered origin of work. See the fields of automation.v1.Source.
type Source struct {
	Name, Owner, Description     string
	Types                        []string
	DefaultPriority, MaxPriority Priority
	Quota                        *Quota
	Tenants                      TenantQuota
	Weight                       int32
	Retry                        Retry
	DedupeWindow                 Duration
	Overflow                     Overflow
	Runaway                      Action
	MaxDepth                     int32
	Principals                   []string
	RunTimeout                   Duration
	Expiry                       Duration // 0: never

	// Revision and what follows are automation's to say.
	Revision         int64
	State            State
	Created, Updated time.Time
}

// Defaulted returns s with the contract's default in place of everything that was not given.
func (s Source) Defaulted() Source {
	set(&s.DefaultPriority, Default)
	set(&s.MaxPriority, max(High, s.DefaultPriority))
	if s.Quota == nil {
		s.Quota = DefaultQuota()
	}
	set(&s.Weight, 100)
	set(&s.Retry.MaxAttempts, 10)
	set(&s.Retry.Initial, time.Second)
	set(&s.Retry.Max, max(10*time.Minute, s.Retry.Initial))
	set(&s.Retry.Multiplier, 2)
	set(&s.DedupeWindow, 10*time.Minute)
	set(&s.Overflow, Spill)
	set(&s.Runaway, ActDemote)
	set(&s.MaxDepth, 100)
	set(&s.RunTimeout, 5*time.Minute)
	return s
}

func set[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// Etag is what callers give back to say which revision they saw.
func (s Source) Etag() string { return strconv.FormatInt(s.Revision, 10) }

// Validate names everything that is wrong with a defaulted source, or returns nil.
func (s Source) Validate() *Refusal {
	var wrong []Violation
	add := func(ok bool, field, description string) {
		if !ok {
			wrong = append(wrong, Violation{"source." + field, description})
		}
	}
	const name = "must be 1 to 64 of a-z 0-9 . _ -"
	add(validName(s.Name), "name", name)
	add(printable(s.Owner, 128), "owner", "must be at most 128 printable ASCII characters")
	add(prose(s.Description, 1024), "description", "must be at most 1,024 bytes, without control characters")
	add(len(s.Types) >= 1 && len(s.Types) <= 8, "types", "must be 1 to 8 types")
	for i, t := range s.Types {
		add(validName(t), fmt.Sprintf("types[%d]", i), name)
		add(slices.Index(s.Types, t) == i, fmt.Sprintf("types[%d]", i), "is there twice")
	}
	add(s.DefaultPriority.known(), "default_priority", "is not a priority")
	add(s.MaxPriority.known(), "max_priority", "is not a priority")
	add(s.DefaultPriority <= s.MaxPriority, "default_priority", "is above max_priority")
	if s.Quota != nil {
		wrong = append(wrong, s.Quota.violations("source.quota")...)
	}
	if s.Tenants.Each != nil {
		wrong = append(wrong, s.Tenants.Each.violations("source.tenant_quota.each")...)
	}
	add(len(s.Tenants.Overrides) <= maxOverrides, "tenant_quota.overrides", "must be at most 1,000")
	for _, tenant := range slices.Sorted(maps.Keys(s.Tenants.Overrides)) {
		at := fmt.Sprintf("tenant_quota.overrides[%q]", tenant)
		add(tenant != "" && printable(tenant, 128), at, "tenant must be 1 to 128 printable ASCII characters")
		q := s.Tenants.Overrides[tenant]
		add(q.AcceptRate == nil && q.BacklogJobs == nil && q.BacklogBytes == nil && q.PublishRate == nil, at, "may only set rate, burst and concurrency")
		wrong = append(wrong, q.violations("source."+at)...)
	}
	add(s.Weight >= 1 && s.Weight <= 1000, "weight", "must be 1 to 1,000")
	wrong = append(wrong, s.Retry.violations("source.retry")...)
	add(s.DedupeWindow > 0 && s.DedupeWindow <= time.Hour, "dedupe_window", "must be above 0 and at most 1 h")
	add(s.Overflow == Spill || s.Overflow == Reject, "overflow", "is not a way to overflow")
	add(s.Runaway >= ActAlert && s.Runaway <= ActHold, "runaway.action", "is not an action")
	add(s.MaxDepth >= 1 && s.MaxDepth <= 100, "runaway.max_depth", "must be 1 to 100")
	add(len(s.Principals) <= 64, "principals", "must be at most 64")
	for i, p := range s.Principals {
		add(p != "" && printable(p, 256), fmt.Sprintf("principals[%d]", i), "must be 1 to 256 printable ASCII characters")
	}
	add(s.RunTimeout > 0 && s.RunTimeout <= day, "run_timeout", "must be above 0 and at most 24 h")
	add(s.Expiry >= 0 && s.Expiry <= 90*day, "expiry", "must be at most 90 days")
	if len(wrong) == 0 {
		return nil
	}
	return &Refusal{Reason: Invalid, Message: "the source is invalid", Violations: wrong}
}

// Same reports whether two defaulted sources say the same, whatever automation adds to them.
func (s Source) Same(o Source) bool {
	return reflect.DeepEqual(s.bare(), o.bare())
}

// bare is s without what automation says, and with one form of empty.
func (s Source) bare() Source {
	s.Revision, s.State, s.Created, s.Updated = 0, 0, time.Time{}, time.Time{}
	if len(s.Types) == 0 {
		s.Types = nil
	}
	if len(s.Principals) == 0 {
		s.Principals = nil
	}
	if len(s.Tenants.Overrides) == 0 {
		s.Tenants.Overrides = nil
	}
	return s
}

// Register decides what registering want makes of what is there: write is false when it is there already.
func Register(have *Source, want Source) (next Source, write bool, refusal *Refusal) {
	want = want.Defaulted()
	if r := want.Validate(); r != nil {
		return Source{}, false, r
	}
	switch {
	case have == nil:
		return want, true, nil
	case have.Same(want):
		return *have, false, nil
	}
	return Source{}, false, Stale("the source is registered with other content; update it", have.Revision)
}

// Update decides what an edited copy of have makes of it. write is false when nothing changes.
func Update(have, edited Source) (next Source, write bool, refusal *Refusal) {
	if edited.Name != have.Name {
		return Source{}, false, Bad("source.name", "cannot be changed")
	}
	edited = edited.Defaulted()
	if r := edited.Validate(); r != nil {
		return Source{}, false, r
	}
	if have.Same(edited) {
		return have, false, nil
	}
	return edited, true, nil
}

// Seen refuses an etag that is not the source's. An empty one is whatever is there.
func (s Source) Seen(etag string) *Refusal {
	if etag == "" || etag == s.Etag() {
		return nil
	}
	return Stale("the source was changed since it was read", s.Revision)
}

// validName reports whether s is a name of a source or type.
func validName(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// printable reports whether s is at most limit bytes of printable ASCII.
func printable(s string, limit int) bool {
	if len(s) > limit {
		return false
	}
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// prose reports whether s is valid text of at most limit bytes that a terminal shows as it is: no control characters, line and paragraph separators or
// changes of direction, with which a reason could forge what lists show.
func prose(s string, limit int) bool {
	return len(s) <= limit && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return unicode.IsControl(r) || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069
	})
}

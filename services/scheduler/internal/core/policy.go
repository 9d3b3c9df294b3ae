package core

import (
	"time"
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
)

// Switch is an operator's act in force until Until. Where several meet, the strictest wins.
type Switch struct {
	Scope    Scope
	Verb     Verb
	To       Priority  // of Demote: the ceiling
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

package core

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"time"
)

const (
	// sourceShare is the part of the byte budget that one source may hold: with a quarter, three floods at once leave the fourth quarter to
	// everybody else, and a single source still has 4 MiB of the default 16 MiB in flight.
	sourceShare = 4
	// overloadedRetry spreads callers over half a second: the budget turns over within milliseconds once the broker answers.
	overloadedRetry = 500 * time.Millisecond
)

// Caller is who asks, as its credential says.
type Caller struct {
	Subject string
	// Sources are patterns, in which * stands for any run of characters; nil allows all, an empty list none.
	Sources []string
	// Job says that a job of the source asks: enqueue has judged whoever made it.
	Job bool
}

// Source is what the registry says of a source.
type Source struct {
	// PublishRate in notifications per second; 0 is no limit.
	PublishRate float64
	// Principals are the subjects that may publish as the source; one "*" admits everybody, an empty list nobody.
	Principals []string
}

// Effect is what the switches in force mean for publishing. A held source publishes: a hold stops jobs from starting.
type Effect struct {
	Blocked bool
	// Actor, Why and Until tell of the switch that blocks. Until is zero when only a person ends it.
	Actor, Why string
	Until      time.Time
}

// View is the control log and who is alive, as last read. Its methods are called under the Admission's lock: they must not block.
type View interface {
	// Source tells of a registered source; nil when there is none.
	Source(name string) *Source
	// Effect tells what the switches mean for the flow at now.
	Effect(source, tenant string, now time.Time) Effect
	// Replicas is how many notifiers are alive; the publish rate is divided by it. Below 1 counts as 1.
	Replicas() int
}

// Admission decides and remembers. It is not safe for concurrent use.
type Admission struct {
	limit    int64 // of used
	used     int64 // bytes of notifications whose produce has not ended
	start    time.Time
	accounts map[string]*account
}

// account is what is remembered of one source: at most as many as were ever registered.
type account struct {
	held   int64 // bytes in flight
	bucket bucket
	line   line // of jobs
}

// NewAdmission returns an Admission that has seen nothing; now starts its clock. limit bounds the bytes in flight.
func NewAdmission(now time.Time, limit int64) *Admission {
	return &Admission{limit: limit, start: now, accounts: map[string]*account{}}
}

// Admit decides about a draft that has passed Check. Admitted, its bytes are held until Release. A refusal changes nothing.
func (a *Admission) Admit(now time.Time, caller Caller, d *Draft, view View) *Refusal {
	src, refusal := bind(caller, d.Source, view)
	if refusal != nil {
		return refusal
	}
	if effect := view.Effect(d.Source, d.Tenant, now); effect.Blocked {
		return blocked(d.Source, effect)
	}
	acc := a.accounts[d.Source]
	if acc == nil {
		acc = &account{}
		a.accounts[d.Source] = acc
	}
	// A source that holds nothing may always hold one as far as its own share is concerned.
	n := d.Bytes()
	if a.used+n > a.limit || acc.held > 0 && acc.held+n > a.limit/sourceShare {
		return &Refusal{Reason: Overloaded, Message: "too many bytes wait for the broker", Retry: overloadedRetry, Quota: "inflight_bytes"}
	}
	if src.PublishRate > 0 {
		rate := src.PublishRate / float64(max(view.Replicas(), 1))
		if wait := acc.bucket.take(rate, now.Sub(a.start)); wait > 0 {
			if caller.Job {
				wait = acc.line.place(rate, now.Sub(a.start), wait)
			}
			return &Refusal{
				Reason: QuotaExceeded, Message: "above the source's publish rate", Retry: wait, Quota: "publish_rate",
				Metadata: map[string]string{"limit": strconv.FormatFloat(rate, 'g', -1, 64)},
			}
		}
	}
	acc.held += n
	a.used += n
	return nil
}

// Release returns what Admit held for a draft of the source: its produce has ended, whatever the end. bytes is Draft.Bytes as it was then.
func (a *Admission) Release(source string, bytes int64) {
	a.used -= bytes
	a.accounts[source].held -= bytes
}

// Inflight is how many bytes are held, and the most that could be.
func (a *Admission) Inflight() (used, limit int64) { return a.used, a.limit }

// bind finds the source and says whether the caller may publish as it. Of a source that is not registered nobody is a principal: only a credential
// that names it, or a job, is bound to it; all others are told the same of every source that is not theirs (S10).
func bind(caller Caller, name string, view View) (*Source, *Refusal) {
	src := view.Source(name)
	bound := caller.Job || caller.Sources != nil && matches(caller.Sources, name)
	if src != nil && !caller.Job {
		bound = (caller.Sources == nil || bound) && (slices.Contains(src.Principals, caller.Subject) || slices.Equal(src.Principals, []string{"*"}))
	}
	switch {
	case !bound:
		return nil, &Refusal{Reason: NotAllowed, Message: "the source does not exist or the caller may not publish as it"}
	case src == nil:
		return nil, &Refusal{Reason: UnknownSource, Message: "the source " + name + " is not registered"}
	}
	return src, nil
}

// matches says whether a pattern of a credential covers the name. The patterns were checked with the credential, so Match cannot fail.
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, _ := path.Match(pattern, name)
		return ok
	})
}

// blocked names who stopped the source, why and until when: the caller is bound to it and may know.
func blocked(source string, e Effect) *Refusal {
	until := "resumed"
	if !e.Until.IsZero() {
		until = e.Until.UTC().Format(time.RFC3339)
	}
	return &Refusal{
		Reason:   SourceBlocked,
		Message:  fmt.Sprintf("%s is blocked by %s until %s: %s", source, e.Actor, until, e.Why),
		Metadata: map[string]string{"actor": e.Actor, "until": until, "why": e.Why},
	}
}

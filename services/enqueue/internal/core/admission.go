package core

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Times and bounds of admission. They are parts of the contract, or fit such parts, and are no settings.
const (
	// KeyLife is how old an SDK's key may be: the owner remembers keys for 2 min, clocks may differ by KeySkew (scheduling.md §2).
	KeyLife = 2*time.Minute + KeySkew
	KeySkew = 30 * time.Second
	// Ahead is how far in the future a job may start: what the owner's wheel of the last stretch holds.
	Ahead = 15 * time.Second
	// envelopeBytes is what a record may hold beside its payload: labels and texts are below 4 KiB; the rest is for fields that this release
	// does not know yet and passes on. With HardPayloadBytes it stays below the largest record that a topic takes.
	envelopeBytes = 32 << 10
	// overloadedRetry spreads callers over half a second: the budget turns over within milliseconds once the broker answers.
	overloadedRetry = 500 * time.Millisecond
	// backlogRetry is four beats of status: earlier no other number can have arrived.
	backlogRetry = time.Second
	// lanesRetry is how often a record of the common lane moves.
	lanesRetry = 5 * time.Second
)

// Limits are the bounds of an Admission.
type Limits struct {
	// InflightBytes bounds the records whose produce has not ended.
	InflightBytes int64
	// RecallBytes bounds the memory of idempotency keys.
	RecallBytes int64
	// PayloadBytes is the largest payload.
	PayloadBytes int
	// Local says that unknown sources and types are about to be registered for whoever asks.
	Local bool
}

// Admission decides and remembers. It is not safe for concurrent use.
type Admission struct {
	limits   Limits
	start    time.Time
	budget   Budget
	sdkKeys  *Recall // apart, so that the many keys that SDKs make push no explicit one out
	keys     *Recall
	accounts map[string]*account
}

// account is what is remembered of one source: at most as many as were ever registered.
type account struct {
	accepted int64 // state of the accept rate
	held     int64 // bytes in flight
}

// New returns an Admission that has seen nothing; now starts its clock.
func New(now time.Time, limits Limits) *Admission {
	return &Admission{
		limits: limits, start: now, budget: Budget{Limit: limits.InflightBytes},
		sdkKeys: NewRecall(limits.RecallBytes / 4), keys: NewRecall(limits.RecallBytes - limits.RecallBytes/4),
		accounts: map[string]*account{},
	}
}

// Admit decides about a job that has passed Check. Accepted, its bytes are held until Release.
func (a *Admission) Admit(now time.Time, caller Caller, job *Job, view View) (Placement, *Refusal) {
	if most := a.limits.PayloadBytes; job.PayloadBytes > most || job.Bytes > int64(most+envelopeBytes) {
		return Placement{}, &Refusal{
			Reason: PayloadTooLarge, Message: fmt.Sprintf("the payload is larger than %d bytes", most), Metadata: map[string]string{"limit": strconv.Itoa(most)},
			Violations: []Violation{{"job.payload", fmt.Sprintf("has %d bytes, at most %d are allowed", job.PayloadBytes, most)}},
		}
	}
	src, refusal := a.bind(caller, job, view)
	if refusal != nil {
		return Placement{}, refusal
	}
	effect := view.Effect(job.Source, job.Tenant, now)
	if effect.Blocked {
		return Placement{}, blocked(job.Source, effect)
	}
	place, refusal := a.times(now, job, src)
	if refusal != nil {
		return Placement{}, refusal
	}
	tick := int64(now.Sub(a.start))
	keys, window := a.keys, src.KeyWindow
	if !job.KeyTime.IsZero() {
		keys, window = a.sdkKeys, KeyLife
	}
	if job.Key != "" && keys.conflicts(job.ID, job.Digest, tick) {
		return Placement{}, &Refusal{Reason: IdempotencyConflict, Message: "the idempotency key was used with another payload"}
	}
	place.Own = job.Priority
	if place.Own == None {
		place.Own = src.Priority
	}
	place.Own = min(place.Own, src.Ceiling)
	place.Topic = place.Own
	if effect.Demote != None {
		place.Topic = min(place.Topic, effect.Demote)
	}
	marks := view.Marks(job.Source)
	if refusal := full(src, marks, job); refusal != nil {
		return Placement{}, refusal
	}
	acc := a.accounts[job.Source]
	if acc == nil {
		acc = &account{}
	}
	if !a.budget.admits(place.Topic, acc.held, job.Bytes) {
		return Placement{}, &Refusal{Reason: Overloaded, Message: "too many bytes wait for the broker", Retry: overloadedRetry, Quota: "inflight_bytes"}
	}
	over := false
	if src.AcceptRate > 0 {
		// A second's worth at once after a pause, in parts of the replicas: in sum over all of them never above the quota.
		rate := src.AcceptRate / float64(max(view.Replicas(), 1))
		next, wait := Rate{PerSecond: rate, Burst: rate}.Take(acc.accepted, tick)
		if over = wait > 0; over && src.Reject {
			return Placement{}, &Refusal{
				Reason: QuotaExceeded, Message: "above the source's accept rate", Retry: wait, Quota: "accept_rate",
				Metadata: map[string]string{"limit": strconv.FormatFloat(rate, 'g', -1, 64)},
			}
		}
		acc.accepted = next
	}
	place.Lane = NoLane
	if lane, ok := marks.lane(job.Tenant, job.Type, over); ok {
		place.Lane, place.Held = lane, effect.Held
		if place.Verdict != Delayed {
			place.Verdict = Spilled
		}
	}
	if job.Key != "" {
		keys.remember(job.ID, job.Digest, tick, window)
	}
	acc.held += job.Bytes
	a.budget.used += job.Bytes
	a.accounts[job.Source] = acc
	return place, nil
}

// Release returns what Admit held for a job of the source: its produce has ended, whatever the end.
func (a *Admission) Release(source string, bytes int64) {
	a.budget.used -= bytes
	a.accounts[source].held -= bytes
}

// Inflight is how many bytes are held, and the most that could be.
func (a *Admission) Inflight() (used, limit int64) { return a.budget.used, a.budget.Limit }

// bind finds the source and says whether the caller may enqueue this type as it.
func (a *Admission) bind(caller Caller, job *Job, view View) (*Source, *Refusal) {
	src := view.Source(job.Source)
	named := caller.Sources == nil || matches(caller.Sources, job.Source)
	// Of a source that is not registered nobody is a principal: only a credential that names it, or local mode, which is about to admit everybody, is
	// bound to it (S10).
	bound := named && (a.limits.Local || caller.Sources != nil)
	if src != nil {
		bound = named && (slices.Contains(src.Principals, caller.Subject) || slices.Equal(src.Principals, []string{"*"}))
	}
	switch {
	case !bound || caller.Types != nil && !matches(caller.Types, job.Type):
		return nil, &Refusal{Reason: NotAllowed, Message: "the source does not exist or the caller may not enqueue as it"}
	case src == nil:
		return nil, &Refusal{Reason: UnknownSource, Message: "the source " + job.Source + " is not registered", Unregistered: true}
	case !slices.Contains(src.Types, job.Type):
		return nil, &Refusal{
			Reason: UnknownType, Message: "the source does not declare the type " + job.Type, Unregistered: true,
			Violations: []Violation{{"job.type", "is not among the source's types: " + strings.Join(src.Types, ", ")}},
		}
	}
	return src, nil
}

// matches says whether a pattern of a credential covers the name; * stands for any run of characters. The patterns were checked with the
// credential, so Match cannot fail.
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

// times judges all that depends on the clock, and depth, which depends on the source.
func (a *Admission) times(now time.Time, job *Job, src *Source) (Placement, *Refusal) {
	place := Placement{Verdict: Accepted}
	var bad []Violation
	if job.NotBefore.After(now) {
		place.Verdict, place.ReadyAt = Delayed, job.NotBefore
		if job.NotBefore.Sub(now) > Ahead {
			bad = append(bad, Violation{"job.not_before", "must not be more than 15 s ahead"})
		}
	}
	expiry := job.ExpiresIn
	if expiry == 0 {
		expiry = src.Expiry
	}
	if expiry > 0 {
		place.ExpiresAt = now.Add(expiry)
		if !place.ExpiresAt.After(job.NotBefore) {
			bad = append(bad, Violation{"job.expires_in", "ends before not_before: the job could never run"})
		}
	}
	if job.Depth > src.MaxDepth {
		bad = append(bad, Violation{"job.depth", fmt.Sprintf("the chain of jobs that enqueue jobs is longer than %d", src.MaxDepth)})
	}
	if age := now.Sub(job.KeyTime); !job.KeyTime.IsZero() && age < -KeySkew {
		// It would be remembered for longer than anybody plans for.
		bad = append(bad, Violation{"job.idempotency_key", "its time is more than 30 s ahead"})
	} else if !job.KeyTime.IsZero() && age > KeyLife {
		return place, &Refusal{Reason: KeyExpired, Message: "the idempotency key is older than 2 min 30 s: whether an earlier try made the job is not known any more"}
	}
	if bad != nil {
		return place, &Refusal{Reason: Invalid, Message: "the job is invalid", Violations: bad}
	}
	return place, nil
}

// full refuses new work of a source whose backlog, as last reported, is at its quota or in the common lane.
func full(src *Source, marks *Marks, job *Job) *Refusal {
	switch {
	case marks == nil:
		return nil
	case marks.Common:
		return &Refusal{Reason: LanesExhausted, Message: "no lane is free and work of the source waits in the common one", Retry: lanesRetry, Quota: "lanes"}
	case src.BacklogJobs > 0 && marks.Jobs >= src.BacklogJobs:
		return &Refusal{Reason: BacklogFull, Message: "the source's backlog is at its quota of jobs", Retry: backlogRetry, Quota: "backlog_jobs",
			Metadata: map[string]string{"limit": strconv.FormatInt(src.BacklogJobs, 10), "backlog": strconv.FormatInt(marks.Jobs, 10)}}
	case src.BacklogBytes > 0 && marks.Bytes+job.Bytes > src.BacklogBytes:
		return &Refusal{Reason: BacklogFull, Message: "the source's backlog is at its quota of bytes", Retry: backlogRetry, Quota: "backlog_bytes",
			Metadata: map[string]string{"limit": strconv.FormatInt(src.BacklogBytes, 10), "backlog": strconv.FormatInt(marks.Bytes, 10)}}
	}
	return nil
}

package core

import (
	"fmt"
	"math"
)

// Quota is what a source or tenant may use. Nil: no limit of that kind.
type Quota struct {
	// Rate is in jobs started per second, Burst what may start at once after a pause, Concurrency what runs at the same time.
	Rate        *float64
	Burst       *int32
	Concurrency *int32
	// AcceptRate is in jobs accepted per second.
	AcceptRate *float64
	// BacklogJobs and BacklogBytes bound what is not settled.
	BacklogJobs, BacklogBytes *int64
	// PublishRate is in notifications per second.
	PublishRate *float64
}

// Bounds of quotas. Beyond them the engine's arithmetic in nanoseconds and bytes could overflow, and nobody has such a source.
const (
	maxRate         = 1e6
	minRamp         = 0.01 // of a resume: what begins slower is not free again when its ramp is over
	maxCount        = 1_000_000
	maxBacklogJobs  = 1e12
	maxBacklogBytes = 1e15
)

// The default quota: no dispatch rate, because the lending of slots keeps sources apart; enough to be in nobody's way, not enough to
// fill the disk.
const (
	DefaultAcceptRate   = 20_000
	DefaultBacklogJobs  = 1_000_000
	DefaultBacklogBytes = 1 << 30
	DefaultPublishRate  = 20_000
)

// DefaultQuota is what a source gets that says nothing.
func DefaultQuota() *Quota {
	rate, jobs, bytes, publish := float64(DefaultAcceptRate), int64(DefaultBacklogJobs), int64(DefaultBacklogBytes), float64(DefaultPublishRate)
	return &Quota{AcceptRate: &rate, BacklogJobs: &jobs, BacklogBytes: &bytes, PublishRate: &publish}
}

// violations says what is wrong with q; at is the path of q in the request.
func (q Quota) violations(at string) []Violation {
	var wrong []Violation
	rate := func(name string, v *float64) {
		// The comparison is false for NaN.
		if v != nil && !(*v > 0 && *v <= maxRate) {
			wrong = append(wrong, Violation{at + "." + name, fmt.Sprintf("must be above 0 and at most %d a second", int64(maxRate))})
		}
	}
	count := func(name string, v *int32) {
		if v != nil && (*v < 1 || *v > maxCount) {
			wrong = append(wrong, Violation{at + "." + name, fmt.Sprintf("must be 1 to %d", maxCount)})
		}
	}
	size := func(name string, v *int64, limit float64) {
		if v != nil && (*v < 1 || *v > int64(limit)) {
			wrong = append(wrong, Violation{at + "." + name, fmt.Sprintf("must be 1 to %d", int64(limit))})
		}
	}
	rate("rate", q.Rate)
	count("burst", q.Burst)
	count("concurrency", q.Concurrency)
	rate("accept_rate", q.AcceptRate)
	size("backlog_jobs", q.BacklogJobs, maxBacklogJobs)
	size("backlog_bytes", q.BacklogBytes, maxBacklogBytes)
	rate("publish_rate", q.PublishRate)
	if q.Burst != nil && q.Rate == nil {
		wrong = append(wrong, Violation{at + ".burst", "needs a rate"})
	}
	return wrong
}

// TenantQuota is what each tenant of a source may use of the source's quota.
type TenantQuota struct {
	Each      *Quota
	Overrides map[string]Quota
}

const maxOverrides = 1000

// Retry says how failed jobs are tried again.
type Retry struct {
	MaxAttempts  int32
	Initial, Max Duration
	Multiplier   float64
}

func (r Retry) violations(at string) []Violation {
	var wrong []Violation
	if r.MaxAttempts < 1 || r.MaxAttempts > 100 {
		wrong = append(wrong, Violation{at + ".max_attempts", "must be 1 to 100"})
	}
	if r.Initial <= 0 || r.Initial > day {
		wrong = append(wrong, Violation{at + ".initial", "must be above 0 and at most 24 h"})
	}
	if r.Max < r.Initial || r.Max > day {
		wrong = append(wrong, Violation{at + ".max", "must be initial to 24 h"})
	}
	if !(r.Multiplier >= 1 && r.Multiplier <= 10) || math.IsNaN(r.Multiplier) {
		wrong = append(wrong, Violation{at + ".multiplier", "must be 1 to 10"})
	}
	return wrong
}

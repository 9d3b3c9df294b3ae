package core

import (
	"fmt"
	"time"
)

// HardPayloadBytes is the largest payload that any setting allows: with its envelope the job still can be moved (reliability H24).
const HardPayloadBytes = 900 << 10

// Fields are the parts of a job that have a form. The rules are those of job.proto, written out because a batch of a thousand jobs is judged
// job by job, and the general validator costs more than reading, judging and encoding it (BenchmarkProtovalidate, BenchmarkFromSpec; FuzzCheckAgreesWithProto
// holds the two together).
type Fields struct {
	Source, Tenant, Type, ContentType, Key, Parent, RedriveOf string
	// PriorityOK says that the priority is a known one or absent, NotBeforeOK that the time is a valid one or absent.
	PriorityOK, NotBeforeOK bool
	// ExpiresIn and RunTimeout are nil when absent and negative when they are no valid durations.
	ExpiresIn, RunTimeout *time.Duration
	MaxAttempts, Depth    int32
	Labels                map[string]string
}

// Bounds of the fields, as in job.proto.
const (
	maxName    = 64
	maxText    = 128
	maxLabels  = 8
	maxExpiry  = 90 * 24 * time.Hour
	maxRun     = 24 * time.Hour
	maxTries   = 100
	maxChain   = 100
	uuidLength = 36
)

// Check names every field that is not of its form.
func Check(f *Fields) []Violation {
	var bad []Violation
	fail := func(ok bool, field, description string) {
		if !ok {
			bad = append(bad, Violation{"job." + field, description})
		}
	}
	const name, text = "must be 1 to 64 of a-z 0-9 . _ -", "must be printable ASCII of at most 128 bytes"
	fail(isName(f.Source), "source", name)
	fail(isText(f.Tenant), "tenant", text)
	fail(isName(f.Type), "type", name)
	fail(f.PriorityOK, "priority", "must be a known priority")
	fail(isText(f.ContentType), "content_type", text)
	fail(f.NotBeforeOK, "not_before", "must be a valid time")
	fail(within(f.ExpiresIn, maxExpiry), "expires_in", "must be above 0 and at most 90 days")
	fail(isText(f.Key), "idempotency_key", text)
	fail(within(f.RunTimeout, maxRun), "run_timeout", "must be above 0 and at most 24 hours")
	fail(f.MaxAttempts >= 0 && f.MaxAttempts <= maxTries, "max_attempts", "must be 0 to 100")
	fail(len(f.Labels) <= maxLabels, "labels", "must be at most 8")
	for k, v := range f.Labels {
		fail(isName(k) && isText(v), fmt.Sprintf("labels[%q]", clip(k)), "key must be 1 to 64 of a-z 0-9 . _ -, value printable ASCII of at most 128 bytes")
		if len(bad) > maxLabels { // a caller's map may be large; the answer is not
			break
		}
	}
	fail(isUUID(f.Parent), "parent_job_id", "must be a job id")
	fail(isUUID(f.RedriveOf), "redrive_of", "must be a job id")
	fail(f.Depth >= 0 && f.Depth <= maxChain, "depth", "must be 0 to 100")
	return bad
}

func within(d *time.Duration, most time.Duration) bool { return d == nil || *d > 0 && *d <= most }

// isName holds for names of sources and types: [a-z0-9._-]{1,64}, which no log line, metric or path can be bent with (S36).
func isName(s string) bool {
	if len(s) == 0 || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// isText holds for printable ASCII of at most 128 bytes.
func isText(s string) bool {
	if len(s) > maxText {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// isUUID holds for nothing and for the canonical text of a UUID.
func isUUID(s string) bool {
	if s == "" {
		return true
	}
	if len(s) != uuidLength {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// clip keeps a name that a stranger wrote short in an answer.
func clip(s string) string {
	if len(s) > maxName {
		return s[:maxName]
	}
	return s
}

package worker

import (
	"context"
	"time"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"

	"github.com/spillway/spillway/pkg/client"
)

// Job is one unit of work, as its handler sees it. It is the handler's to read, not to change.
type Job struct {
	ID          string // UUID; what a handler must be idempotent on
	Source      string
	Tenant      string // "": none
	Type        string
	Priority    client.Priority
	Payload     []byte
	ContentType string
	Labels      map[string]string
	ParentID    string // the job whose handler enqueued this one; "": none
	Depth       int    // distance to the first ancestor
	Attempt     int    // 1 for the first
	AcceptedAt  time.Time
	ExpiresAt   time.Time // zero: never
	Token       Token     // of this attempt; grows from one attempt of a job to the next
}

// Token is the fencing token of an attempt. A handler that writes to a store which can compare tokens passes it
// along, so that a worker which was stopped and woke up too late cannot overwrite what a later attempt wrote.
type Token struct {
	Shard          int32
	Epoch, Counter int64
}

// Before reports whether t was issued earlier than u, for the same job.
func (t Token) Before(u Token) bool {
	return t.Epoch < u.Epoch || t.Epoch == u.Epoch && t.Counter < u.Counter
}

func tokenOf(t *jobv1.Token) Token {
	return Token{Shard: t.GetShard(), Epoch: t.GetEpoch(), Counter: t.GetCounter()}
}

func newJob(j *jobv1.Job, attempt int32, token Token) *Job {
	spec := j.GetSpec()
	job := &Job{
		ID: j.GetId(), Source: spec.GetSource(), Tenant: spec.GetTenant(), Type: spec.GetType(), Priority: client.Priority(spec.GetPriority()),
		Payload: spec.GetPayload(), ContentType: spec.GetContentType(), Labels: spec.GetLabels(), ParentID: spec.GetParentJobId(),
		Depth: int(j.GetDepth()), Attempt: int(attempt), Token: token,
	}
	if at := j.GetAcceptedAt(); at != nil {
		job.AcceptedAt = at.AsTime()
	}
	if at := j.GetExpiresAt(); at != nil {
		job.ExpiresAt = at.AsTime()
	}
	return job
}

type jobKey struct{}

// FromContext returns the job that the context of a handler belongs to.
func FromContext(ctx context.Context) (*Job, bool) {
	job, ok := ctx.Value(jobKey{}).(*Job)
	return job, ok
}

// leaseContext is the context of a job: it ends with the lease, is cancelled by the worker's wheel instead of a timer
// of its own, and knows its job.
type leaseContext struct {
	context.Context
	job    *Job
	runEnd time.Time
}

// Deadline is the end of the run timeout; the lease may end earlier.
func (c *leaseContext) Deadline() (time.Time, bool) { return c.runEnd, !c.runEnd.IsZero() }

func (c *leaseContext) Value(key any) any {
	if key == (jobKey{}) {
		return c.job
	}
	return c.Context.Value(key)
}

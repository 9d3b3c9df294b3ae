package api

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/enqueue/internal/core"
)

// envelopeBytes is what a record has beside its spec, at most: id 38, times 30, hash 34, replica 66, headers of trace, version and transit 200.
const envelopeBytes = 400

// callBytes is what a call holds while it waits for the log, beside its jobs: goroutine, stream, contexts, its part of a connection. With a
// broker that does not answer and jobs of 256 bytes, 9,000 waiting calls took 160 MiB; the budget for bytes has to see them.
const callBytes = 12 << 10

// priorities pairs the words of both sides. What is not in it is not known.
var priorities = map[jobv1.Priority]core.Priority{
	jobv1.Priority_PRIORITY_UNSPECIFIED: core.None,
	jobv1.Priority_PRIORITY_BULK:        core.Bulk,
	jobv1.Priority_PRIORITY_LOW:         core.Low,
	jobv1.Priority_PRIORITY_DEFAULT:     core.Default,
	jobv1.Priority_PRIORITY_HIGH:        core.High,
	jobv1.Priority_PRIORITY_CRITICAL:    core.Critical,
}

// toPriority is the inverse for the priorities that a record can have.
var toPriority = [...]jobv1.Priority{
	core.Bulk: jobv1.Priority_PRIORITY_BULK, core.Low: jobv1.Priority_PRIORITY_LOW, core.Default: jobv1.Priority_PRIORITY_DEFAULT,
	core.High: jobv1.Priority_PRIORITY_HIGH, core.Critical: jobv1.Priority_PRIORITY_CRITICAL,
}

var verdicts = map[core.Verdict]enqueuev1.Verdict{
	core.Accepted: enqueuev1.Verdict_VERDICT_ACCEPTED,
	core.Spilled:  enqueuev1.Verdict_VERDICT_ACCEPTED_SPILLED,
	core.Delayed:  enqueuev1.Verdict_VERDICT_ACCEPTED_DELAYED,
}

// fromSpec reads a job. It keeps the spec: a request's message belongs to its call, and the record is made of it.
func fromSpec(spec *jobv1.JobSpec) (core.Job, *core.Refusal) {
	priority, known := priorities[spec.GetPriority()]
	fields := core.Fields{
		Source: spec.GetSource(), Tenant: spec.GetTenant(), Type: spec.GetType(), ContentType: spec.GetContentType(), Key: spec.GetIdempotencyKey(),
		Parent: spec.GetParentJobId(), RedriveOf: spec.GetRedriveOf(), PriorityOK: known, NotBeforeOK: spec.GetNotBefore() == nil || spec.GetNotBefore().IsValid(),
		ExpiresIn: duration(spec.GetExpiresIn()), RunTimeout: duration(spec.GetRunTimeout()), MaxAttempts: spec.GetMaxAttempts(), Depth: spec.GetDepth(),
		Labels: spec.GetLabels(),
	}
	if bad := core.Check(&fields); bad != nil {
		return core.Job{}, &core.Refusal{Reason: core.Invalid, Message: fmt.Sprintf("%d fields are invalid", len(bad)), Violations: bad}
	}
	r := &record{spec: spec, sum: sha256.Sum256(spec.GetPayload())}
	job := core.Job{
		Source: fields.Source, Tenant: fields.Tenant, Type: fields.Type, Priority: priority, Key: fields.Key, Depth: fields.Depth,
		PayloadBytes: len(spec.GetPayload()), Bytes: int64(proto.Size(spec) + envelopeBytes), Record: r,
	}
	copy(job.Digest[:], r.sum[:])
	if fields.ExpiresIn != nil {
		job.ExpiresIn = *fields.ExpiresIn
	}
	if spec.GetNotBefore() != nil {
		job.NotBefore = spec.GetNotBefore().AsTime()
	}
	return job, nil
}

// duration is nil for an absent one and negative for one that is malformed or beyond what Go can hold, as core.Fields wants it.
func duration(d *durationpb.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	v := d.AsDuration() // saturates
	if !d.IsValid() {
		v = -1
	}
	return &v
}

// record writes the durable form of a job.
type record struct {
	spec *jobv1.JobSpec
	sum  [sha256.Size]byte
}

// Encode returns the value of the job's record. Fields that this release does not know are passed on.
func (r *record) Encode(s core.Stamp) ([]byte, error) {
	r.spec.Priority = toPriority[s.Priority]
	job := &jobv1.Job{
		Id: s.ID, Spec: r.spec, AcceptedAt: timestamppb.New(s.AcceptedAt), Depth: r.spec.GetDepth(), PayloadSha256: r.sum[:], AcceptedBy: s.Replica,
	}
	if !s.ExpiresAt.IsZero() {
		job.ExpiresAt = timestamppb.New(s.ExpiresAt)
	}
	return proto.Marshal(job)
}

func response(r *core.Result) *enqueuev1.EnqueueResponse {
	resp := &enqueuev1.EnqueueResponse{JobId: r.ID, Verdict: verdicts[r.Verdict], Receipt: receipt(r.Home)}
	if !r.ReadyAt.IsZero() {
		resp.EstimatedStart = timestamppb.New(r.ReadyAt)
	}
	return resp
}

// receipt is the job's home in base64url, at most 64 bytes: opaque to callers, and what GetJob looks at first.
func receipt(h core.Home) string {
	b, err := proto.Marshal(&logv1.Home{Topic: h.Topic, Partition: h.Partition, Offset: h.Offset})
	if err != nil { // only for names that are no UTF-8; ours are ours
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

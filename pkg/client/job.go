package client

import (
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

// Priority is how urgent a job is; a larger one is more urgent. The zero value leaves it to the source.
type Priority int32

// The priorities.
const (
	Bulk     = Priority(jobv1.Priority_PRIORITY_BULK)
	Low      = Priority(jobv1.Priority_PRIORITY_LOW)
	Default  = Priority(jobv1.Priority_PRIORITY_DEFAULT)
	High     = Priority(jobv1.Priority_PRIORITY_HIGH)
	Critical = Priority(jobv1.Priority_PRIORITY_CRITICAL)
)

// Job is what is asked for. Source and Type are required; in a handler the source is inherited when it is empty.
type Job struct {
	// Source is the registered origin of the work, Tenant whose work it is (may be empty), Type what kind of work.
	Source, Tenant, Type string
	// Priority is lowered to the source's ceiling, and to the parent's in a handler.
	Priority Priority
	// Payload is opaque, at most 256 KiB by default; ContentType tells the handler what it is.
	Payload     []byte
	ContentType string
	// NotBefore delays the start; zero is at once. ExpiresIn gives the job up when it has not started that long after acceptance; 0 leaves it to
	// the source.
	NotBefore time.Time
	ExpiresIn time.Duration
	// Key makes repeated calls one job: at most 128 printable characters. Empty: this call alone makes one job, however often it is tried.
	Key string
	// RunTimeout and MaxAttempts: 0 leaves them to the source.
	RunTimeout  time.Duration
	MaxAttempts int
	// Labels are for people: at most 8.
	Labels map[string]string
}

// WithJSON returns the job with v in JSON as its payload.
func (j Job) WithJSON(v any) (Job, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return j, fmt.Errorf("payload: %w", err)
	}
	j.Payload, j.ContentType = b, "application/json"
	return j, nil
}

// WithProto returns the job with m in its binary form as its payload.
func (j Job) WithProto(m proto.Message) (Job, error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return j, fmt.Errorf("payload: %w", err)
	}
	j.Payload, j.ContentType = b, "application/protobuf"
	return j, nil
}

// Verdict says where an accepted job went.
type Verdict int32

// The verdicts.
const (
	// Accepted: it waits for its turn.
	Accepted = Verdict(enqueuev1.Verdict_VERDICT_ACCEPTED)
	// AcceptedSpilled: its source uses more than its quota or is held; the job waits in the source's own overflow lane.
	AcceptedSpilled = Verdict(enqueuev1.Verdict_VERDICT_ACCEPTED_SPILLED)
	// AcceptedDelayed: it waits for its NotBefore.
	AcceptedDelayed = Verdict(enqueuev1.Verdict_VERDICT_ACCEPTED_DELAYED)
)

// String is the verdict in one word.
func (v Verdict) String() string {
	switch v {
	case Accepted:
		return "accepted"
	case AcceptedSpilled:
		return "accepted_spilled"
	case AcceptedDelayed:
		return "accepted_delayed"
	default:
		return fmt.Sprintf("verdict(%d)", int32(v))
	}
}

// Result tells of an accepted job.
type Result struct {
	// JobID is the job's id: the same for every try under one key.
	JobID string
	// Verdict says where it went.
	Verdict Verdict
	// Receipt is opaque; with it the job is found faster.
	Receipt string
	// EstimatedStart is zero when nothing is known.
	EstimatedStart time.Time
}

// Item is the verdict on one job of a batch: Err is nil for an accepted one, else an [*Error].
type Item struct {
	Result Result
	Err    error
}

// spec is the job as it is sent. The key is made here, before the first try, and is part of the spec from then on.
func (j *Job) spec(parent *Parent, key func() string) *jobv1.JobSpec {
	s := &jobv1.JobSpec{
		Source: j.Source, Tenant: j.Tenant, Type: j.Type, Priority: jobv1.Priority(j.Priority), Payload: j.Payload, ContentType: j.ContentType,
		IdempotencyKey: j.Key, MaxAttempts: int32(min(max(j.MaxAttempts, -1), 1<<30)), Labels: j.Labels,
	}
	if !j.NotBefore.IsZero() {
		s.NotBefore = timestamppb.New(j.NotBefore)
	}
	if j.ExpiresIn != 0 {
		s.ExpiresIn = durationpb.New(j.ExpiresIn)
	}
	if j.RunTimeout != 0 {
		s.RunTimeout = durationpb.New(j.RunTimeout)
	}
	if s.IdempotencyKey == "" {
		s.IdempotencyKey = key()
	}
	if parent != nil {
		parent.bequeath(s)
	}
	return s
}

func result(r *enqueuev1.EnqueueResponse) Result {
	out := Result{JobID: r.GetJobId(), Verdict: Verdict(r.GetVerdict()), Receipt: r.GetReceipt()}
	if r.GetEstimatedStart() != nil {
		out.EstimatedStart = r.GetEstimatedStart().AsTime()
	}
	return out
}

package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spillway/spillway/pkg/worker"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

// JobType is the type of jobs that are notifications.
const JobType = "notify"

const (
	// maxPayload bounds what is decoded: four times the data, for white space and the names around it.
	maxPayload = 4 * core.MaxData
	// standBack is how long a job waits whose source is blocked, or when too many bytes wait for the log. The scheduler hears of a block at about the
	// same time, and does not start it again before the block ends.
	standBack = 5 * time.Second
)

// payload is that of a notify job. Fields that this release does not know are ignored.
type payload struct {
	Channel string          `json:"channel"`
	Class   string          `json:"class"`
	Key     string          `json:"key"`
	Data    json.RawMessage `json:"data"`
	TTL     *string         `json:"ttl"`
}

// Handle publishes the notification of a job of type notify; the job is done when its notification is durable. What trying again cannot mend is a
// permanent failure; over the quota or the budget, and while its source is blocked, the job comes again later and no attempt is counted; when the
// log is away, or took the record without an answer, the attempt has failed.
func (r *Room) Handle(ctx context.Context, job *worker.Job) error {
	d, err := draft(job)
	if err != nil {
		return worker.Permanent(fmt.Errorf("notify: %w", err))
	}
	refusal := r.Publish(ctx, core.Caller{Job: true}, []*core.Draft{d}, func() {})[0].Refusal
	if refusal == nil {
		return nil
	}
	switch refusal.Reason {
	case core.Invalid, core.PayloadTooLarge:
		return worker.Permanent(fmt.Errorf("notify: %w", refusal))
	case core.QuotaExceeded:
		return worker.Snooze(refusal.Retry)
	case core.Overloaded, core.SourceBlocked:
		return worker.Snooze(standBack)
	default:
		return fmt.Errorf("notify: %w", refusal)
	}
}

// draft reads the payload of a job: {"channel", "class", "key", "data", "ttl"}. Source and tenant are the job's. Its size and its fields are judged
// with all other drafts'.
func draft(job *worker.Job) (*core.Draft, error) {
	if len(job.Payload) > maxPayload {
		return nil, fmt.Errorf("the payload has %d bytes, at most %d are read", len(job.Payload), maxPayload)
	}
	var p payload
	if err := json.Unmarshal(job.Payload, &p); err != nil {
		return nil, fmt.Errorf("the payload is not of the form of a notification: %w", err)
	}
	if job.ID == "" {
		return nil, errors.New("the job has no id")
	}
	d := &core.Draft{
		Source: job.Source, Tenant: job.Tenant, Channel: p.Channel, Key: p.Key, Class: core.ParseClass(p.Class), Data: p.Data, JobID: job.ID,
	}
	if p.TTL != nil {
		ttl, err := time.ParseDuration(*p.TTL)
		if err != nil {
			ttl = -1 // named with all that is wrong
		}
		d.TTL = &ttl
	}
	return d, nil
}

package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/enqueue/internal/core"
)

// errEncode: the job has no durable form. Nothing was sent.
var errEncode = errors.New("encode job")

// record makes the record of an accepted job: the value as the caller wrote it and acceptance stamped it, and beside it the trace and, only
// where something about the job differs from an ordinary one, the transit.
func (r *Room) record(ctx context.Context, now time.Time, shard int, job *core.Job, place *core.Placement) (kafka.Record, core.Home, span, error) {
	home := core.Home{Topic: kafka.Topics{}.Jobs(place.Topic.String()), Partition: int32(shard)}
	if place.Lane != core.NoLane {
		home.Topic, home.Partition = kafka.Topics{}.Spill(), place.Lane
	}
	id := envelope.JobID(job.ID).String()
	ctx, span := r.tracer.send(ctx, id, home, job, place)
	value, err := job.Record.Encode(core.Stamp{ID: id, Priority: place.Own, AcceptedAt: now, ExpiresAt: place.ExpiresAt, Replica: r.config.Replica})
	if err != nil {
		return kafka.Record{}, home, span, fmt.Errorf("%w: %w", errEncode, err)
	}
	headers := make([]kafka.Header, 0, 4)
	headers = append(headers, envelope.VersionHeader())
	if transit := transitOf(place); transit != nil {
		transit.Writer = r.config.Replica
		headers = append(headers, envelope.EncodeTransit(transit))
	}
	r.tracer.inject(ctx, &headers)
	return kafka.Record{
		Topic: r.config.Topics.Prefix + home.Topic, Partition: int(home.Partition), Key: []byte(job.Source), Value: value, Headers: headers,
	}, home, span, nil
}

// transitOf is nil for a job that goes its ordinary way.
func transitOf(place *core.Placement) *logv1.Transit {
	if place.Lane == core.NoLane && place.ReadyAt.IsZero() {
		return nil
	}
	t := &logv1.Transit{}
	switch {
	case place.Lane != core.NoLane && place.Held:
		t.Cause = jobv1.WaitCause_WAIT_CAUSE_HOLD
	case place.Lane != core.NoLane:
		t.Cause = jobv1.WaitCause_WAIT_CAUSE_SPILL
	default:
		t.Cause = jobv1.WaitCause_WAIT_CAUSE_DELAY
	}
	if !place.ReadyAt.IsZero() {
		t.ReadyAt = timestamppb.New(place.ReadyAt)
	}
	return t
}

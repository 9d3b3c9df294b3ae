package intake

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// growth is what may be added to a job's record on its way: transit, the reason of a dead letter (2 KiB), names. A job without that room could be
// neither moved nor buried, and is refused while it still can be parked; enqueue's own are far below (H24).
const growth = 16 << 10

// errTooLarge parks a job that no copy could be made of.
var errTooLarge = errors.New("the job's record leaves no room for what is added on its way")

// perJob is what a job costs in memory beside its record: the engine's entry, its lease and its place in two indexes.
const perJob = 512

// priorities is core's word for each priority that a record may have.
var priorities = map[int32]core.Priority{
	int32(jobv1.Priority_PRIORITY_BULK):     core.Bulk,
	int32(jobv1.Priority_PRIORITY_LOW):      core.Low,
	int32(jobv1.Priority_PRIORITY_DEFAULT):  core.Default,
	int32(jobv1.Priority_PRIORITY_HIGH):     core.High,
	int32(jobv1.Priority_PRIORITY_CRITICAL): core.Critical,
}

// decode makes the engine's job of a record. An error says why nobody can act on it; a job beside it is what could be read nevertheless, enough to
// give it its outcome. Of a record of another version nothing is read: its bytes may mean anything.
func decode(m kafka.Message, shard int32, home core.Home) (*core.Job, error) {
	if err := envelope.CheckVersion(m.Headers); err != nil {
		return nil, err
	}
	fields, bad := envelope.Scan(m.Value)
	if bad != nil && !errors.Is(bad, envelope.ErrUnknownValue) {
		return nil, bad
	}
	transit, err := envelope.DecodeTransit(m.Headers)
	bad = cmp.Or(bad, err)
	priority, known := priorities[fields.Priority]
	if !known && bad == nil {
		bad = fmt.Errorf("%w: priority %d", envelope.ErrUnknownValue, fields.Priority)
	}
	if bad == nil && m.Size() > kafka.MaxRecordBytes-growth {
		bad = fmt.Errorf("%w: %d bytes", errTooLarge, m.Size())
	}
	record := &core.Record{Value: m.Value, PayloadSHA256: fields.PayloadSHA256, Moves: transit.GetMoves()}
	if text, has := envelope.Get(m.Headers, "traceparent"); has {
		record.Traceparent = string(text)
	}
	if text, has := envelope.Get(m.Headers, "tracestate"); has {
		record.Tracestate = string(text)
	}
	if origin := transit.GetOrigin(); origin != nil {
		record.Origin, record.Moved = homeOf(origin.GetTopic(), origin.GetPartition(), origin.GetOffset()), true
	}
	readyAt, quarantine := fields.NotBefore, time.Time{}
	if at := transit.GetReadyAt(); at != nil && at.AsTime().After(readyAt) {
		// A copy says when, and not why. It may have been made in a quarantine: then somebody may run the job, and his word for it counts.
		readyAt, quarantine = at.AsTime(), at.AsTime()
	}
	return &core.Job{
		ID: core.JobID(fields.ID), Shard: shard, Source: fields.Source, Tenant: fields.Tenant, Type: fields.Type, Priority: priority,
		Home: home, Size: m.Size() + perJob, Digest: digest(fields.PayloadSHA256),
		AcceptedAt: fields.AcceptedAt, ExpiresAt: fields.ExpiresAt, ReadyAt: readyAt, Quarantine: quarantine,
		Attempts: transit.GetAttempts(), MaxAttempts: fields.MaxAttempts, RunTimeout: fields.RunTimeout,
		FromLane: home.Topic == core.TopicSpill, Record: record,
	}, bad
}

// digest is 32 bits of a payload's hash, enough to tell a repeated job from one that only has the same key.
func digest(sha []byte) uint32 {
	if len(sha) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(sha)
}

// homeOf reads a home as a transit header names it; a topic that is unknown stands for the lanes.
func homeOf(topic string, partition int32, offset int64) core.Home {
	home := core.Home{Topic: core.TopicSpill, Partition: partition, Offset: offset}
	if name, is := strings.CutPrefix(topic, "jobs."); is {
		for p := range core.Priorities {
			if core.Priority(p).String() == name {
				home.Topic = core.Topic(p)
			}
		}
	}
	return home
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

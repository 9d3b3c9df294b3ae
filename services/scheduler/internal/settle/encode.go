package settle

import (
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// maxText is the longest error text in an event (contract: 2 KiB), so that no record outgrows its limits (H24).
const maxText = 2 << 10

// outcomes is what each terminal settlement is called in the log.
var outcomes = map[core.SettlementKind]jobv1.Outcome{
	core.Succeeded: jobv1.Outcome_OUTCOME_SUCCEEDED,
	core.Dead:      jobv1.Outcome_OUTCOME_DEAD,
	core.Expired:   jobv1.Outcome_OUTCOME_EXPIRED,
}

// settled is the terminal event of a job.
func settled(epoch int64, s core.Settlement, outcome jobv1.Outcome, now time.Time) *logv1.JobEvent {
	event := &logv1.Settled{
		JobId: envelope.JobID(s.Job.ID).String(), Source: s.Job.Source, Tenant: s.Job.Tenant, Type: s.Job.Type,
		Outcome: outcome, Token: token(s.Token), Attempts: s.Job.Attempts,
		AcceptedAt: stamp(s.Job.AcceptedAt), SettledAt: timestamppb.New(now),
		Waits: waits(s.Waits), PayloadSha256: record(s.Job).PayloadSHA256, Reason: reason(s),
	}
	if s.Ran > 0 {
		event.Ran = durationpb.New(s.Ran)
	}
	return &logv1.JobEvent{Epoch: epoch, Event: &logv1.JobEvent_Settled{Settled: event}}
}

// attemptFailed is the event of an attempt that another one follows.
func attemptFailed(epoch int64, s core.Settlement) *logv1.JobEvent {
	a := s.Attempt
	return &logv1.JobEvent{Epoch: epoch, Event: &logv1.JobEvent_Attempt{Attempt: &logv1.AttemptFailed{
		JobId: envelope.JobID(s.Job.ID).String(), Source: s.Job.Source, Token: token(s.Token), RetryAt: stamp(s.RetryAt),
		Attempt: &jobv1.Attempt{
			Number: a.Number, Worker: a.Worker, StartedAt: stamp(a.StartedAt), EndedAt: stamp(a.EndedAt),
			Error: cut(a.Error), ErrorType: cut(a.ErrorType), Counted: a.Counted,
		},
	}}}
}

func reason(s core.Settlement) string {
	text := string(s.Reason)
	if s.Attempt.Error != "" {
		text = strings.TrimPrefix(text+": "+s.Attempt.Error, ": ")
	}
	return cut(text)
}

// cut shortens text to maxText bytes of valid UTF-8.
func cut(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.ToValidUTF8(text, "")
}

func token(t core.Token) *jobv1.Token {
	if t == (core.Token{}) {
		return nil
	}
	return &jobv1.Token{Shard: t.Shard, Epoch: t.Epoch, Counter: t.Counter}
}

func waits(w core.Waits) []*jobv1.Wait {
	var list []*jobv1.Wait
	for cause, d := range w {
		if d > 0 {
			list = append(list, &jobv1.Wait{Cause: jobv1.WaitCause(cause), Duration: durationpb.New(d)})
		}
	}
	return list
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func record(job *core.Job) *core.Record { return job.Record.(*core.Record) }

// copyHeaders are the headers of a job's copy: the transit header tells what changed, the creation context stays as it was.
func (w *Writer) copyHeaders(job *core.Job, epoch int64, cause jobv1.WaitCause) []kafka.Header {
	r := record(job)
	origin := job.Home
	if r.Moved {
		origin = r.Origin
	}
	readyAt := job.ReadyAt
	if job.Quarantine.After(readyAt) {
		readyAt = job.Quarantine // a former owner may have granted it: so may whoever reads the copy not, before that time
	}
	transit := &logv1.Transit{
		Epoch: epoch, Attempts: job.Attempts, Moves: r.Moves + 1, Cause: cause, Writer: w.cfg.Replica, ReadyAt: stamp(readyAt),
		Origin: &logv1.Home{Topic: TopicName(origin.Topic), Partition: origin.Partition, Offset: origin.Offset},
	}
	headers := []kafka.Header{{Key: envelope.HeaderVersion, Value: []byte(envelope.Version)}, envelope.EncodeTransit(transit)}
	if r.Traceparent != "" {
		headers = append(headers, kafka.Header{Key: "traceparent", Value: []byte(r.Traceparent)})
	}
	if r.Tracestate != "" {
		headers = append(headers, kafka.Header{Key: "tracestate", Value: []byte(r.Tracestate)})
	}
	return headers
}

// TopicName is the name of a home's topic without the installation's prefix.
func TopicName(topic core.Topic) string {
	if topic == core.TopicSpill {
		return "spill"
	}
	return "jobs." + core.Priority(topic).String()
}

// eventHeaders authenticate an event (format 5).
func (w *Writer) eventHeaders(topic string, value []byte) []kafka.Header {
	return []kafka.Header{
		{Key: envelope.HeaderVersion, Value: []byte(envelope.Version)},
		{Key: envelope.HeaderMAC, Value: envelope.MAC(w.cfg.MACKey, topic, value, nil)},
	}
}

func encode(event *logv1.JobEvent) []byte {
	value, err := proto.Marshal(event)
	if err != nil {
		panic("settle: an event that cannot be encoded: " + err.Error()) // invalid UTF-8 is cut before; nothing else can fail
	}
	return value
}

package history

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/kafka"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

const (
	// fetchBytes and fetchWait bound one look at a partition.
	fetchBytes = 1 << 20
	fetchWait  = 500 * time.Millisecond
	// fetchPause is the pause after a look that failed, while a broker is away.
	fetchPause = 200 * time.Millisecond
)

// tail writes what one partition of outcomes tells, from its first record on, so
// that trimming hides nothing, until ctx ends. It reads with a plain client: no
// group, no commit.
func tail(ctx context.Context, c *kafka.Client, topic string, partition int, log *Log) error {
	for next := int64(0); ctx.Err() == nil; {
		batch, err := c.Fetch(ctx, topic, partition, next, fetchBytes, fetchWait)
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(fetchPause):
			}
			continue
		}
		for i := range batch.Messages {
			e, ok, err := outcome(&batch.Messages[i])
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if err := log.WriteAs(e); err != nil {
				return err
			}
		}
		if n := len(batch.Messages); n > 0 {
			next = batch.Messages[n-1].Offset + 1
		}
	}
	return nil
}

// outcome reads one event of the outcomes log; false: it tells nothing here.
func outcome(m *kafka.Message) (Event, bool, error) {
	var in logv1.JobEvent
	if err := proto.Unmarshal(m.Value, &in); err != nil {
		return Event{}, false, fmt.Errorf("outcomes %d/%d: %w", m.Partition, m.Offset, err)
	}
	e := Event{Token: &Token{Shard: int32(m.Partition), Epoch: in.GetEpoch()}, Offset: m.Offset}
	at := m.Time
	switch {
	case in.GetFence() != nil:
		e.Kind, e.Code, e.Token.Epoch = Fence, in.GetFence().GetReplica(), m.Offset
		at = in.GetFence().GetAt().AsTime()
	case in.GetHandover() != nil:
		e.Kind = Handover
	case in.GetSettled() != nil:
		s := in.GetSettled()
		e.Kind, e.Job, e.Source = Settled, s.GetJobId(), s.GetSource()
		e.Code = strings.TrimPrefix(s.GetOutcome().String(), "OUTCOME_")
		if t := s.GetToken(); t != nil {
			e.Lease = &Token{t.GetShard(), t.GetEpoch(), t.GetCounter()}
		}
		at = s.GetSettledAt().AsTime()
	default:
		return e, false, nil
	}
	mono, wall := Now()
	e.Wall = at.UnixNano()
	e.Mono = mono - (wall - e.Wall)
	return e, true, nil
}

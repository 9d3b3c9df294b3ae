package broker

import (
	"context"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
)

// shards is P of the conformance suite's installation.
const shards = 4

// suite is one run of Conformance. Every fact uses a partition of its own, so a
// fact that fails does not take others with it.
type suite struct {
	target Target
	layout kafka.Layout
	client *kafka.Client
}

// context bounds one fact.
func (s *suite) context(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// append writes values as one batch, as soon as that is possible, and returns
// the offset of the first. For a while after a death replicas are missing.
func (s *suite) append(t *testing.T, topic string, partition int, values ...[]byte) int64 {
	t.Helper()
	records := make([]kafka.Record, len(values))
	for i, v := range values {
		records[i] = kafka.Record{Topic: topic, Partition: partition, Key: []byte("k"), Value: v}
	}
	var base int64
	err := s.persist(t, func(ctx context.Context) (err error) {
		base, err = s.client.Append(ctx, topic, partition, records)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return base
}

// persist repeats a call while its error may pass.
func (s *suite) persist(t *testing.T, call func(context.Context) error) error {
	ctx := s.context(t)
	for {
		err := call(ctx)
		if !kafka.Retriable(err) || ctx.Err() != nil {
			return err
		}
		_ = s.client.Refresh(ctx) // if it fails, so will the next call
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *suite) ends(t *testing.T, topic string, partition int) kafka.Range {
	t.Helper()
	ends, err := s.client.Ends(s.context(t), topic, []int{partition})
	if err != nil {
		t.Fatal(err)
	}
	return ends[partition]
}

// committed reads one commit.
func (s *suite) committed(t *testing.T, topic string, partition int) kafka.Commit {
	t.Helper()
	found, err := s.client.Committed(s.context(t), s.layout.Group(), topic, []int{partition})
	if err != nil {
		t.Fatal(err)
	}
	return found[partition]
}

// nobody commits while the group is empty.
func (s *suite) nobody() kafka.Member { return kafka.Member{Group: s.layout.Group(), Generation: -1} }

package controllog

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/kafka"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// ErrOtherCluster: the control log belongs to an installation that is configured otherwise.
var ErrOtherCluster = errors.New("control log is of another installation")

// Mismatch says in what an installation differs from what a service is configured for, wrapping ErrOtherCluster, or nil. Of want, an
// empty cluster_id and zero shards or lanes are not compared.
func Mismatch(have, want *logv1.ClusterConfig) error {
	differ := func(what string, have, want any) error {
		return fmt.Errorf("%w: %s is %v, want %v", ErrOtherCluster, what, have, want)
	}
	switch {
	case have == nil:
		return fmt.Errorf("%w: it is empty", ErrOtherCluster)
	case want.GetClusterId() != "" && have.GetClusterId() != want.GetClusterId():
		return differ("cluster id", have.GetClusterId(), want.GetClusterId())
	case want.GetShards() != 0 && have.GetShards() != want.GetShards():
		return differ("number of shards", have.GetShards(), want.GetShards())
	case want.GetLanes() != 0 && have.GetLanes() != want.GetLanes():
		return differ("number of lanes", have.GetLanes(), want.GetLanes())
	case have.GetPrefix() != want.GetPrefix():
		return differ("prefix", fmt.Sprintf("%q", have.GetPrefix()), fmt.Sprintf("%q", want.GetPrefix()))
	}
	return nil
}

// Establish makes c the first record of an empty control log, or checks the one that is there against it, and returns what the log
// says. It is idempotent and may run in several places at once: the log decides whose record is first. c's cluster_id is used only if
// the log is empty; its format version is set.
func Establish(ctx context.Context, log Log, producer Producer, topic string, key []byte, c *logv1.ClusterConfig) (*logv1.ClusterConfig, error) {
	c = proto.CloneOf(c)
	c.FormatVersion = Format
	for {
		state, err := read(ctx, log, topic, key)
		if err != nil {
			return nil, err
		}
		if have := state.Config(); have != nil {
			want := proto.CloneOf(c)
			want.ClusterId = ""
			return have, Mismatch(have, want)
		}
		value, err := proto.Marshal(&logv1.Command{Format: Format, Actor: "spillway install", Act: &logv1.Command_ClusterConfig{ClusterConfig: c}})
		if err != nil {
			return nil, err
		}
		_, err = producer.Produce(ctx, kafka.Record{Topic: topic, Value: value, Headers: seal(topic, key, value, state.tail[:])})
		if err != nil && !errors.Is(err, kafka.ErrFateUnknown) {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
}

// read folds the log once from its beginning to its end.
func read(ctx context.Context, log Log, topic string, key []byte) (*State, error) {
	fold := NewFold(topic, key)
	pause := retryMin
	f := &Follower{log: log, topic: topic}
	for next := int64(0); ; {
		batch, err := f.fetch(ctx, next)
		switch {
		case err == nil:
		case kafka.Retriable(err) && ctx.Err() == nil:
			f.recover(ctx, &pause)
			continue
		default:
			return nil, fmt.Errorf("read control log: %w", err)
		}
		for i := range batch.Messages {
			m := &batch.Messages[i]
			if _, err := fold.Apply(Record{Offset: m.Offset, Value: m.Value, Headers: m.Headers}); err != nil {
				return nil, err
			}
			next = m.Offset + 1
		}
		if next >= batch.HighWatermark {
			return fold.State(), nil
		}
	}
}

package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// DeleteRecords makes the log forget the records of topic below the offset
// given for each partition; below the log start it is a no-op. An offset that
// would leave a partition empty is refused with ErrWouldEmpty before anything
// is deleted. Leaders that move and brokers that are away are tried again for
// CallTimeout; they do not keep the others from deleting theirs. A partition
// whose leader does not know the offset yet is left as it is, without an error:
// deleting is housekeeping, and it is a checkpoint, not a promise (a broker
// that dies soon after may bring records back), so it has to be repeated
// anyway.
func (c *Client) DeleteRecords(ctx context.Context, topic string, upTo map[int]int64) error {
	if len(upTo) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	partitions := slices.Sorted(maps.Keys(upTo))
	ends, err := c.Ends(ctx, topic, partitions)
	if err != nil {
		return err
	}
	left := make(map[int]int64, len(upTo))
	for _, p := range partitions {
		offset, end := upTo[p], ends[p]
		if offset < 0 || offset >= end.Next && offset > end.First {
			return fmt.Errorf("kafka: delete %s/%d up to %d of [%d, %d): %w", topic, p, offset, end.First, end.Next, ErrWouldEmpty)
		}
		if offset > end.First {
			left[p] = offset
		}
	}
	var refused []error // for good
	err = c.retry(ctx, func() error {
		described, err := c.describe(ctx, topic)
		if err != nil {
			return err
		}
		byLeader := make(map[int][]deletePartition)
		for _, p := range described.Partitions {
			if offset, has := left[p.ID]; has {
				byLeader[p.Leader.ID] = append(byLeader[p.Leader.ID], deletePartition{Index: int32(p.ID), Offset: offset})
			}
		}
		var again error
		for _, list := range byLeader {
			for p, err := range c.deleteRecords(ctx, topic, list) {
				switch {
				case err != nil && Retriable(err):
					again = err
					continue
				case err != nil && !OutOfRange(err):
					refused = append(refused, err)
				}
				delete(left, p)
			}
		}
		return again
	})
	return errors.Join(err, errors.Join(refused...))
}

// deleteRecords sends one request for partitions of one leader, and says of
// each what became of it.
func (c *Client) deleteRecords(ctx context.Context, topic string, list []deletePartition) map[int]error {
	results := make(map[int]error, len(list))
	msg, err := c.transport.RoundTrip(ctx, c.client.Addr, &deleteRequest{
		Topics:    []deleteTopic{{Name: topic, Partitions: list}},
		TimeoutMs: int32((CallTimeout / 4).Milliseconds()),
	})
	if err == nil {
		err = io.ErrUnexpectedEOF // of a partition that the answer leaves out
	}
	for _, p := range list {
		results[int(p.Index)] = fmt.Errorf("kafka: delete records of %s/%d: %w", topic, p.Index, err)
	}
	if msg == nil {
		return results
	}
	for _, t := range msg.(*deleteResponse).Topics {
		for _, p := range t.Partitions {
			results[int(p.Index)] = nil
			if p.ErrorCode != 0 {
				results[int(p.Index)] = fmt.Errorf("kafka: delete records of %s/%d: %w", topic, p.Index, kafkago.Error(p.ErrorCode))
			}
		}
	}
	return results
}

// The wire form of DeleteRecords (key 21), which kafka-go does not have.
// Version 2 is flexible; versions 0 and 1 are the same and enough.
func init() { protocol.Register(&deleteRequest{}, &deleteResponse{}) }

type deleteRequest struct {
	Topics    []deleteTopic `kafka:"min=v0,max=v1"`
	TimeoutMs int32         `kafka:"min=v0,max=v1"`
}

type deleteTopic struct {
	Name       string            `kafka:"min=v0,max=v1"`
	Partitions []deletePartition `kafka:"min=v0,max=v1"`
}

type deletePartition struct {
	Index  int32 `kafka:"min=v0,max=v1"`
	Offset int64 `kafka:"min=v0,max=v1"`
}

// ApiKey implements protocol.Message.
func (r *deleteRequest) ApiKey() protocol.ApiKey { return protocol.DeleteRecords }

// Broker implements protocol.BrokerMessage: the leader of the first partition,
// which the caller has made the leader of all of them.
func (r *deleteRequest) Broker(cluster protocol.Cluster) (protocol.Broker, error) {
	name, index := r.Topics[0].Name, r.Topics[0].Partitions[0].Index
	topic, ok := cluster.Topics[name]
	if !ok {
		return protocol.Broker{ID: -1}, protocol.NewErrNoTopic(name)
	}
	partition, ok := topic.Partitions[index]
	if !ok {
		return protocol.Broker{ID: -1}, protocol.NewErrNoPartition(name, index)
	}
	leader, ok := cluster.Brokers[partition.Leader]
	if !ok {
		return protocol.Broker{ID: -1}, protocol.NewErrNoLeader(name, index)
	}
	return leader, nil
}

type deleteResponse struct {
	ThrottleTimeMs int32          `kafka:"min=v0,max=v1"`
	Topics         []deletedTopic `kafka:"min=v0,max=v1"`
}

type deletedTopic struct {
	Name       string             `kafka:"min=v0,max=v1"`
	Partitions []deletedPartition `kafka:"min=v0,max=v1"`
}

type deletedPartition struct {
	Index        int32 `kafka:"min=v0,max=v1"`
	LowWatermark int64 `kafka:"min=v0,max=v1"`
	ErrorCode    int16 `kafka:"min=v0,max=v1"`
}

// ApiKey implements protocol.Message.
func (r *deleteResponse) ApiKey() protocol.ApiKey { return protocol.DeleteRecords }

package kafka

import (
	"context"
	"fmt"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// DeleteRecords makes the log forget the records of topic below the offset
// given for each partition; below the log start it is a no-op. An offset that
// would leave a partition empty is refused with ErrWouldEmpty before anything
// is deleted. Deleting is a checkpoint, not a promise: a broker that dies soon
// after may bring records back, so repeat it.
func (c *Client) DeleteRecords(ctx context.Context, topic string, upTo map[int]int64) error {
	if len(upTo) == 0 {
		return nil
	}
	partitions := make([]int, 0, len(upTo))
	for p := range upTo {
		partitions = append(partitions, p)
	}
	ends, err := c.Ends(ctx, topic, partitions)
	if err != nil {
		return err
	}
	described, err := c.describe(ctx, topic)
	if err != nil {
		return err
	}
	leaders := make(map[int]int, len(described.Partitions))
	for _, p := range described.Partitions {
		leaders[p.ID] = p.Leader.ID
	}
	byLeader := make(map[int][]deletePartition)
	for p, offset := range upTo {
		switch end := ends[p]; {
		case offset < 0 || offset >= end.Next && offset > end.First:
			return fmt.Errorf("kafka: delete %s/%d up to %d of [%d, %d): %w", topic, p, offset, end.First, end.Next, ErrWouldEmpty)
		case offset <= end.First:
			continue
		}
		byLeader[leaders[p]] = append(byLeader[leaders[p]], deletePartition{Index: int32(p), Offset: offset})
	}
	for _, list := range byLeader {
		if err := c.deleteRecords(ctx, topic, list); err != nil {
			return err
		}
	}
	return nil
}

// deleteRecords sends one request for partitions of one leader.
func (c *Client) deleteRecords(ctx context.Context, topic string, list []deletePartition) error {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	msg, err := c.transport.RoundTrip(ctx, c.client.Addr, &deleteRequest{
		Topics:    []deleteTopic{{Name: topic, Partitions: list}},
		TimeoutMs: int32((CallTimeout / 2).Milliseconds()),
	})
	if err != nil {
		return fmt.Errorf("kafka: delete records of %s: %w", topic, err)
	}
	for _, t := range msg.(*deleteResponse).Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return fmt.Errorf("kafka: delete records of %s/%d: %w", topic, p.Index, kafkago.Error(p.ErrorCode))
			}
		}
	}
	return nil
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

package kafka

import (
	"context"
	"errors"
	"fmt"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/heartbeat"
)

// Member is a group member in one generation; the broker accepts its commits
// while the generation lasts. The zero ID with Generation -1 is nobody, whose
// commits are accepted while the group has no members.
type Member struct {
	Group      string
	ID         string
	Generation int32
}

// Commit is a committed offset, the first one not yet done with, and the
// metadata beside it (ASCII, at most 3,000 characters: some brokers enforce no
// limit, others 4,096).
type Commit struct {
	Topic     string
	Partition int
	Offset    int64
	Metadata  string
}

// CommitOffsets commits for member. An error that wraps ErrFenced means that
// the generation is over: drop the commits, never repeat them under another
// one. On any other error some of them may be in place; committing again is
// harmless, because a commit states a position.
func (c *Client) CommitOffsets(ctx context.Context, member Member, commits []Commit) error {
	topics := make(map[string][]kafkago.OffsetCommit)
	for _, m := range commits {
		topics[m.Topic] = append(topics[m.Topic], kafkago.OffsetCommit{
			Partition: m.Partition, Offset: m.Offset, Metadata: m.Metadata,
		})
	}
	res, err := c.client.OffsetCommit(ctx, &kafkago.OffsetCommitRequest{
		GroupID:      member.Group,
		GenerationID: int(member.Generation),
		MemberID:     member.ID,
		Topics:       topics,
	})
	if err != nil {
		return fmt.Errorf("kafka: commit for %s: %w", member.Group, err)
	}
	for topic, partitions := range res.Topics {
		for _, p := range partitions {
			switch {
			case p.Error == nil:
			case Fenced(p.Error):
				return fmt.Errorf("kafka: commit %s/%d for %s: %w: %w", topic, p.Partition, member.Group, ErrFenced, p.Error)
			default:
				return fmt.Errorf("kafka: commit %s/%d for %s: %w", topic, p.Partition, member.Group, p.Error)
			}
		}
	}
	return nil
}

// Committed returns the group's commits for the partitions of topic. One that
// has none is left out of the answer: there is no reset policy to guess by.
func (c *Client) Committed(ctx context.Context, group, topic string, partitions []int) (map[int]Commit, error) {
	found := make(map[int]Commit, len(partitions))
	if len(partitions) == 0 {
		return found, nil // an empty list would ask for all topics
	}
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	var res *kafkago.OffsetFetchResponse
	err := c.retry(ctx, func() (err error) { // as for offsets
		res, err = c.client.OffsetFetch(ctx, &kafkago.OffsetFetchRequest{
			GroupID: group,
			Topics:  map[string][]int{topic: partitions},
		})
		if err == nil {
			err = res.Error
		}
		return err
	})
	if errors.Is(err, kafkago.GroupIdNotFound) {
		return found, nil // some brokers know no group before its first commit
	}
	if err != nil {
		return nil, fmt.Errorf("kafka: commits of %s in %s: %w", group, topic, err)
	}
	for _, p := range res.Topics[topic] {
		if p.Error != nil {
			return nil, fmt.Errorf("kafka: commit of %s in %s/%d: %w", group, topic, p.Partition, p.Error)
		}
		if p.CommittedOffset >= 0 {
			found[p.Partition] = Commit{Topic: topic, Partition: p.Partition, Offset: p.CommittedOffset, Metadata: p.Metadata}
		}
	}
	return found, nil
}

// Heartbeat tells the coordinator that member is alive; nil means that the
// generation stood when the broker answered. It exists beside the heartbeats
// of the library's consumer group because those cannot be observed.
func (c *Client) Heartbeat(ctx context.Context, member Member) error {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	msg, err := c.transport.RoundTrip(ctx, c.client.Addr, &heartbeatRequest{
		GroupID:      member.Group,
		GenerationID: member.Generation,
		MemberID:     member.ID,
	})
	if err == nil {
		res := msg.(*heartbeat.Response)
		err = swapped(res.ThrottleTimeMs)
	}
	switch {
	case err == nil:
		return nil
	case Fenced(err):
		return fmt.Errorf("kafka: heartbeat in %s: %w: %w", member.Group, ErrFenced, err)
	default:
		return fmt.Errorf("kafka: heartbeat in %s: %w", member.Group, err)
	}
}

// LeaveGroup takes the member of that id out of the group, so that the next
// generation does not wait for it. Nil: it is not in the group any more,
// whoever took it out.
func (c *Client) LeaveGroup(ctx context.Context, group, id string) error {
	res, err := c.client.LeaveGroup(ctx, &kafkago.LeaveGroupRequest{
		GroupID: group,
		Members: []kafkago.LeaveGroupRequestMember{{ID: id}},
	})
	if err == nil {
		err = swapped(int32(res.Throttle.Milliseconds()))
	}
	if err == nil && len(res.Members) > 0 {
		err = res.Members[0].Error
	}
	if err == nil || errors.Is(err, kafkago.UnknownMemberId) || errors.Is(err, kafkago.GroupIdNotFound) {
		return nil
	}
	return fmt.Errorf("kafka: leave %s: %w", group, err)
}

// swapped undoes kafka-go's decoding of Heartbeat and LeaveGroup answers: it
// reads the error code, which comes second, first. So the 16 low bits of what
// it takes for the throttle time are the code.
func swapped(throttle int32) error {
	if code := int16(throttle); code != 0 {
		return kafkago.Error(code)
	}
	return nil
}

// heartbeatRequest is kafka-go's Heartbeat with the one thing that it lacks
// there: it is a message for the group's coordinator. Without Group it would
// go to whichever broker answers first, and only a cluster of one would know
// the member.
type heartbeatRequest struct {
	_ struct{} `kafka:"min=v4,max=v4,tag"`

	GroupID         string `kafka:"min=v0,max=v4"`
	GenerationID    int32  `kafka:"min=v0,max=v4"`
	MemberID        string `kafka:"min=v0,max=v4"`
	GroupInstanceID string `kafka:"min=v3,max=v4,nullable"`
}

// heartbeatOverride tells our request from kafka-go's own of the same key.
const heartbeatOverride protocol.OverrideTypeKey = 1

func init() {
	protocol.RegisterOverride(&heartbeatRequest{}, &heartbeat.Response{}, heartbeatOverride)
}

// ApiKey implements protocol.Message.
func (r *heartbeatRequest) ApiKey() protocol.ApiKey { return protocol.Heartbeat }

// Group implements protocol.GroupMessage.
func (r *heartbeatRequest) Group() string { return r.GroupID }

// TypeKey implements protocol.OverrideTypeMessage.
func (r *heartbeatRequest) TypeKey() protocol.OverrideTypeKey { return heartbeatOverride }

package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/consumer"
	"github.com/segmentio/kafka-go/protocol/heartbeat"
	"github.com/segmentio/kafka-go/protocol/joingroup"
	"github.com/segmentio/kafka-go/protocol/syncgroup"
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

// protocolType is what brokers understand of a group beside its name: the topics
// of such a group's members are read, and commits in them do not expire.
const protocolType = "consumer"

// Join is what a member of a group says of itself.
type Join struct {
	Group string
	// ID is the member's id, which the coordinator gives: empty at first.
	ID string
	// Protocol names the rule by which the leader will assign. All members
	// must name the same.
	Protocol string
	// Topics are what the group reads: the coordinator lets its commits in them
	// never expire.
	Topics []string
	// UserData is for the leader.
	UserData []byte
	// Session is how long the member may be silent, Rebalance how long a
	// rebalance waits for it to join again.
	Session, Rebalance time.Duration
}

// Joined is a member's place in the generation that is being formed.
type Joined struct {
	Member
	// Leader: this member assigns, and Members are all members of the group.
	Leader  bool
	Members []Applicant
}

// Applicant is a member as the leader sees it.
type Applicant struct {
	ID       string
	UserData []byte
}

// Assignment is what the leader gives to one member.
type Assignment struct {
	Partitions map[string][]int
	UserData   []byte
}

// JoinGroup makes the member part of the next generation. The coordinator
// answers when all members have joined, or left, or Rebalance has passed. The
// member's id is in the answer even when the call failed, if it is known: joining
// with it again makes no second member. An id that the coordinator does not know
// (any more) is an error for which Fenced holds.
func (c *Client) JoinGroup(ctx context.Context, join Join) (Joined, error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	joined := Joined{Member: Member{Group: join.Group, ID: join.ID}}
	subscription, err := protocol.Marshal(consumer.MaxVersionSupported, consumer.Subscription{
		Version: consumer.MaxVersionSupported, Topics: join.Topics, UserData: join.UserData,
	})
	if err != nil {
		return joined, fmt.Errorf("kafka: join %s: %w", join.Group, err)
	}
	for {
		msg, err := c.transport.RoundTrip(ctx, c.client.Addr, &joingroup.Request{
			GroupID:            join.Group,
			SessionTimeoutMS:   int32(join.Session.Milliseconds()),
			RebalanceTimeoutMS: int32(join.Rebalance.Milliseconds()),
			MemberID:           joined.ID,
			ProtocolType:       protocolType,
			Protocols:          []joingroup.RequestProtocol{{Name: join.Protocol, Metadata: subscription}},
		})
		if err != nil {
			return joined, groupError("join", join.Group, err)
		}
		res := msg.(*joingroup.Response)
		if kafkago.Error(res.ErrorCode) == kafkago.MemberIDRequired && joined.ID == "" && res.MemberID != "" {
			// It has given us an id and waits for us to come with it: so a
			// join whose answer is lost leaves no member that nobody is.
			joined.ID = res.MemberID
			continue
		}
		if res.ErrorCode != 0 {
			return joined, groupError("join", join.Group, kafkago.Error(res.ErrorCode))
		}
		joined.ID, joined.Generation = res.MemberID, res.GenerationID
		joined.Leader = res.LeaderID == res.MemberID
		for _, m := range res.Members {
			var said consumer.Subscription
			if err := protocol.Unmarshal(m.Metadata, consumer.MaxVersionSupported, &said); err != nil {
				return joined, fmt.Errorf("kafka: join %s: member %s: %w", join.Group, m.MemberID, err)
			}
			joined.Members = append(joined.Members, Applicant{ID: m.MemberID, UserData: said.UserData})
		}
		return joined, nil
	}
}

// SyncGroup returns what the member was assigned. The leader calls it with the
// assignments of all members, by their id; the others with none, and wait for
// the leader. It may be repeated.
func (c *Client) SyncGroup(ctx context.Context, member Member, rule string, assignments map[string]Assignment) (Assignment, error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	request := &syncgroup.Request{
		GroupID: member.Group, GenerationID: member.Generation, MemberID: member.ID, ProtocolType: protocolType, ProtocolName: rule,
	}
	for id, a := range assignments {
		assigned := consumer.Assignment{Version: consumer.MaxVersionSupported, UserData: a.UserData}
		for topic, partitions := range a.Partitions {
			list := make([]int32, len(partitions))
			for i, p := range partitions {
				list[i] = int32(p)
			}
			assigned.AssignedPartitions = append(assigned.AssignedPartitions, consumer.TopicPartition{Topic: topic, Partitions: list})
		}
		encoded, err := protocol.Marshal(consumer.MaxVersionSupported, assigned)
		if err != nil {
			return Assignment{}, fmt.Errorf("kafka: sync %s: %w", member.Group, err)
		}
		request.Assignments = append(request.Assignments, syncgroup.RequestAssignment{MemberID: id, Assignment: encoded})
	}
	msg, err := c.transport.RoundTrip(ctx, c.client.Addr, request)
	if err != nil {
		return Assignment{}, groupError("sync", member.Group, err)
	}
	res := msg.(*syncgroup.Response)
	if res.ErrorCode != 0 {
		return Assignment{}, groupError("sync", member.Group, kafkago.Error(res.ErrorCode))
	}
	ours := Assignment{Partitions: make(map[string][]int)}
	if len(res.Assignments) == 0 { // a leader that has left us out
		return ours, nil
	}
	var assigned consumer.Assignment
	if err := protocol.Unmarshal(res.Assignments, consumer.MaxVersionSupported, &assigned); err != nil {
		return Assignment{}, fmt.Errorf("kafka: sync %s: %w", member.Group, err)
	}
	ours.UserData = assigned.UserData
	for _, t := range assigned.AssignedPartitions {
		for _, p := range t.Partitions {
			ours.Partitions[t.Topic] = append(ours.Partitions[t.Topic], int(p))
		}
	}
	return ours, nil
}

// Heartbeat tells the coordinator that member is alive; nil means that the
// generation stood when the broker answered.
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
	if err != nil {
		return groupError("heartbeat in", member.Group, err)
	}
	return nil
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

// groupError says of an error what it means for the member.
func groupError(call, group string, err error) error {
	if Fenced(err) {
		return fmt.Errorf("kafka: %s %s: %w: %w", call, group, ErrFenced, err)
	}
	return fmt.Errorf("kafka: %s %s: %w", call, group, err)
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

package kafka_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
)

// kafka-go sends heartbeats to any broker; only the coordinator knows the
// member. Among six groups on three brokers some have their coordinator away
// from the broker that our control connection leads to.
func TestHeartbeatGoesToTheCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := kafkatest.StartCluster(t, 3)
		broker.CreateTopic(t, "t", 1)
		c := broker.Client(t, "test")
		if err := c.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i := range 6 {
			group := fmt.Sprint("group-", i)
			member := join(t, c, group)
			if err := c.Heartbeat(t.Context(), member); err != nil {
				t.Errorf("%s: %v", group, err)
			}
			stale := member
			stale.Generation--
			if err := c.Heartbeat(t.Context(), stale); !kafka.Fenced(err) {
				t.Errorf("%s: heartbeat of a past generation: %v", group, err)
			}
			if err := c.LeaveGroup(t.Context(), group, member.ID); err != nil {
				t.Errorf("%s: leave: %v", group, err)
			}
			if err := c.Heartbeat(t.Context(), member); !kafka.Fenced(err) {
				t.Errorf("%s: heartbeat after leaving: %v", group, err)
			}
		}
	})
}

// join makes a member of a group in which nobody else is.
func join(t *testing.T, c *kafka.Client, group string) kafka.Member {
	t.Helper()
	request := &kafkago.JoinGroupRequest{
		GroupID: group, SessionTimeout: 10 * time.Second, RebalanceTimeout: 2 * time.Second, ProtocolType: "consumer",
		Protocols: []kafkago.GroupProtocol{{Name: "p", Metadata: kafkago.GroupProtocolSubscription{Topics: []string{"t"}}}},
	}
	joined, err := c.Kafka().JoinGroup(t.Context(), request)
	if err == nil && joined.MemberID != "" && joined.Error != nil { // told its id, asked to come again with it
		request.MemberID = joined.MemberID
		joined, err = c.Kafka().JoinGroup(t.Context(), request)
	}
	if err != nil || joined.Error != nil {
		t.Fatalf("join: %v, %v", err, joined.Error)
	}
	_, err = c.Kafka().SyncGroup(t.Context(), &kafkago.SyncGroupRequest{
		GroupID: group, GenerationID: joined.GenerationID, MemberID: joined.MemberID, ProtocolType: "consumer", ProtocolName: "p",
		Assignments: []kafkago.SyncGroupRequestAssignment{{MemberID: joined.MemberID}},
	})
	if err != nil {
		t.Fatalf("sync: %v", err)
	}
	return kafka.Member{Group: group, ID: joined.MemberID, Generation: int32(joined.GenerationID)}
}

// Package rightstest tries the table of package rights on a broker, for tests:
// the same on the one in memory and on Apache Kafka.
package rightstest

import (
	"context"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/rights"
)

// unseen bounds a call about a topic that the client may not see, which it
// would otherwise look for in vain for seconds.
const unseen = 500 * time.Millisecond

// Try does everything as everybody: each role reads, writes and deletes in each
// topic of an installation, commits for its group and makes a topic, and the
// test fails where that does not end as the table says. The rights have been
// granted; admin may do everything, open returns a client that a role's
// principal has logged in with.
func Try(t *testing.T, admin *kafka.Client, layout kafka.Layout, open func(rights.Role) *kafka.Client) {
	t.Helper()
	ctx := t.Context()
	roles := rights.Roles()
	for _, topic := range layout.All() { // something to read, and to delete for each
		for range 2 + len(roles) {
			if _, err := admin.Append(ctx, topic, 0, []kafka.Record{{Value: []byte("v")}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	type key struct {
		role   rights.Role
		topic  string
		action rights.Operation
	}
	allowed, seen := make(map[key]bool), make(map[key]bool)
	for _, r := range rights.Of(layout.Topics) {
		for _, o := range r.Operations {
			allowed[key{r.Role, r.Topic, o}] = true
			seen[key{role: r.Role, topic: r.Topic}] = true
		}
	}
	for _, role := range roles {
		client := open(role)
		if err := client.Ready(ctx); err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		for _, topic := range layout.All() {
			ctx, cancel := ctx, func() {}
			if !seen[key{role: role, topic: topic}] {
				ctx, cancel = context.WithTimeout(ctx, unseen)
			} else if _, err := client.Partitions(ctx, topic); err != nil {
				t.Errorf("%s does not see %s: %v", role, topic, err)
			}
			for action, try := range map[rights.Operation]func() error{
				rights.Read: func() error {
					_, err := client.Fetch(ctx, topic, 0, int64(1+len(roles)), 1<<20, time.Millisecond)
					return err
				},
				rights.Write: func() error {
					_, err := client.Append(ctx, topic, 0, []kafka.Record{{Value: []byte("w")}})
					return err
				},
				rights.Delete: func() error {
					ends, err := admin.Ends(t.Context(), topic, []int{0})
					if err != nil {
						t.Fatal(err)
					}
					return client.DeleteRecords(ctx, topic, map[int]int64{0: ends[0].First + 1})
				},
			} {
				err := try()
				if may := allowed[key{role, topic, action}]; may != (err == nil) {
					t.Errorf("%s, %s of %s: %v; the table says %v", role, action, topic, err, may)
				}
			}
			cancel()
		}
		member := kafka.Member{Group: layout.Group(), Generation: -1}
		commit := []kafka.Commit{{Topic: layout.Jobs("bulk"), Partition: 0, Metadata: kafka.FirstMetadata}}
		if err := client.CommitOffsets(ctx, member, commit); (err == nil) != (role == rights.Scheduler) {
			t.Errorf("%s commits for the group: %v", role, err)
		}
		if role == rights.Enqueue || role == rights.Scheduler {
			if err := kafka.Check(ctx, client, layout); err != nil {
				t.Errorf("%s checks the topics: %v", role, err)
			}
		}
		res, err := client.Kafka().CreateTopics(ctx, &kafkago.CreateTopicsRequest{
			Topics: []kafkago.TopicConfig{{Topic: layout.Prefix + "new", NumPartitions: 1, ReplicationFactor: 1}},
		})
		if err == nil && res.Errors[layout.Prefix+"new"] == nil {
			t.Errorf("%s makes a topic", role)
		}
	}
}

package broker

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/spillway/spillway/pkg/kafka"
)

// plain returns a client that does what the product's own refuses to do.
func (s *suite) plain(t *testing.T) *kgo.Client {
	t.Helper()
	options := []kgo.Opt{kgo.SeedBrokers(s.target.Addresses...)}
	if path, ok := strings.CutPrefix(s.target.Addresses[0], "unix:"); ok {
		options = []kgo.Opt{kgo.SeedBrokers("localhost:1"), kgo.Dialer(func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		})}
	}
	c, err := kgo.NewClient(options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// metadataLimit: Kafka refuses what is too long for its partition alone. Where
// nothing is enforced our own encoder has to; it stays far below.
func (s *suite) metadataLimit(t *testing.T) {
	topic := s.layout.Jobs("critical")
	for characters, refused := range map[int]bool{
		4096: s.target.Ways.MetadataLimit > 0 && s.target.Ways.MetadataLimit < 4096,
		4097: s.target.Ways.MetadataLimit > 0 && s.target.Ways.MetadataLimit < 4097,
	} {
		long := kafka.Commit{Topic: topic, Partition: 0, Offset: int64(characters), Metadata: strings.Repeat("m", characters)}
		short := kafka.Commit{Topic: topic, Partition: 1, Offset: int64(characters), Metadata: kafka.FirstMetadata}
		err := s.client.CommitOffsets(s.context(t), s.nobody(), []kafka.Commit{long, short})
		if (err != nil) != refused || kafka.Retriable(err) || kafka.Fenced(err) {
			t.Errorf("%d characters: %v", characters, err)
		}
		if got := s.committed(t, topic, 0); (got == long) == refused {
			t.Errorf("%d characters: the commit is of offset %d", characters, got.Offset)
		}
		if got := s.committed(t, topic, 1); got != short {
			t.Errorf("%d characters: the commit beside it is %+v", characters, got)
		}
	}
}

// unknownSetting: where nothing is checked, nobody tells that a setting is in
// vain; so only settings of a list are ever passed on, and compared afterwards.
func (s *suite) unknownSetting(t *testing.T) {
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = s.layout.Prefix+"strange", 1, 1
	setting := kmsg.NewCreateTopicsRequestTopicConfig()
	setting.Name, setting.Value = "retention.moons", kmsg.StringPtr("1")
	topic.Configs = append(topic.Configs, setting)
	request := kmsg.NewPtrCreateTopicsRequest()
	request.Topics = append(request.Topics, topic)
	answer, err := request.RequestWith(s.context(t), s.plain(t))
	if err != nil {
		t.Fatal(err)
	}
	err = kerr.ErrorForCode(answer.Topics[0].ErrorCode)
	if refused := errors.Is(err, kerr.InvalidConfig); refused != s.target.Ways.ChecksSettings || err != nil && !refused {
		t.Errorf("a setting that does not exist: %v", err)
	}
}

// emptied: where the end of an empty partition may be forgotten, what is written
// next gets offsets below the group's commit and is never read. So the product
// never deletes a partition's last record, on no broker.
func (s *suite) emptied(t *testing.T) {
	topic := s.layout.Notifications()
	base := s.append(t, topic, 0, values(10, 100)...)
	partition := kmsg.NewDeleteRecordsRequestTopicPartition()
	partition.Partition, partition.Offset = 0, -1 // up to the end
	all := kmsg.NewDeleteRecordsRequestTopic()
	all.Topic, all.Partitions = topic, append(all.Partitions, partition)
	request := kmsg.NewPtrDeleteRecordsRequest()
	request.TimeoutMillis, request.Topics = 10_000, append(request.Topics, all)
	answer, err := request.RequestWith(s.context(t), s.plain(t))
	if err == nil {
		err = kerr.ErrorForCode(answer.Topics[0].Partitions[0].ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.bounce(t)
	end := s.ends(t, topic, 0).Next
	if kept := end == base+10; kept != s.target.Ways.KeepsEmptyEnds {
		t.Errorf("the end is %d and was %d", end, base+10)
	}
}

// keepsMembers: where members are forgotten, a generation of before is over once
// the broker is back; where they are kept, it goes on, and what a commit may do
// depends on the generation alone. The fence holds in both cases.
func (s *suite) keepsMembers(t *testing.T) {
	topic := s.layout.Notifications()
	join := kafka.Join{
		Group: s.layout.Prefix + "survivors", Protocol: "one", Topics: []string{topic}, Session: 30 * time.Second, Rebalance: 3 * time.Second,
	}
	var joined kafka.Joined
	err := s.persist(t, func(ctx context.Context) (err error) {
		joined, err = s.client.JoinGroup(ctx, join)
		join.ID = joined.ID
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.SyncGroup(s.context(t), joined.Member, "one", map[string]kafka.Assignment{joined.ID: {}}); err != nil {
		t.Fatal(err)
	}
	commit := []kafka.Commit{{Topic: topic, Partition: 1, Offset: 1}}
	if err := s.client.CommitOffsets(s.context(t), joined.Member, commit); err != nil {
		t.Fatal(err)
	}
	s.bounce(t)
	for what, try := range map[string]func(context.Context) error{
		"heartbeat": func(ctx context.Context) error { return s.client.Heartbeat(ctx, joined.Member) },
		"commit":    func(ctx context.Context) error { return s.client.CommitOffsets(ctx, joined.Member, commit) },
	} {
		err := s.persist(t, try)
		if kept := err == nil; kept != s.target.Ways.KeepsMembers || !kept && !kafka.Fenced(err) {
			t.Errorf("%s of a member of before: %v", what, err)
		}
	}
	before := joined.Member
	before.Generation--
	if err := s.persist(t, func(ctx context.Context) error { return s.client.CommitOffsets(ctx, before, commit) }); !kafka.Fenced(err) {
		t.Errorf("commit of an older generation: %v", err)
	}
}

// bounce kills all brokers and starts them again.
func (s *suite) bounce(t *testing.T) {
	t.Helper()
	var all []int
	for i := range s.target.Brokers {
		all = append(all, i)
	}
	s.target.Kill(t, all...)
	s.target.Start(t, all...)
}

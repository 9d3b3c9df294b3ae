package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/spillway/spillway/pkg/kafka"
)

// rule is how much of a topic is kept. Retention is not left to kfake, which
// may empty a partition and so lose its offsets.
type rule struct {
	topic string
	bytes int64 // over all partitions
	age   time.Duration
}

func rules(topics kafka.Topics) []rule {
	return []rule{
		{topics.Outcomes(), 128 << 20, 7 * 24 * time.Hour},
		{topics.Status(), 64 << 20, time.Hour},
		{topics.Notifications(), 64 << 20, 24 * time.Hour},
	}
}

// trim deletes what the rules say, up to but not including the last record of
// a partition and never at or above a commit of the schedulers' group.
func trim(ctx context.Context, cluster *kfake.Cluster, client *kafka.Client, topics kafka.Topics, now time.Time) error {
	var errs []error
	commits := map[string]map[int32]kfake.GroupCommit{}
	if group := cluster.GroupInfo(topics.Group()); group != nil {
		commits = group.Commits
	}
	for _, r := range rules(topics) {
		partitions := cluster.PartitionInfos(r.topic)
		upTo := make(map[int]int64, len(partitions))
		for _, p := range partitions {
			at, err := r.cut(ctx, client, p, r.bytes/int64(len(partitions)), now)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if commit, ok := commits[r.topic][p.Partition]; ok {
				at = min(at, commit.Offset)
			}
			if at = min(at, p.HighWatermark-1); at > p.LogStartOffset {
				upTo[int(p.Partition)] = at
			}
		}
		errs = append(errs, client.DeleteRecords(ctx, r.topic, upTo))
	}
	return errors.Join(errs...)
}

// cut is the offset of the first record that the rule keeps. By size it is an
// estimate from the mean record, which the next trim corrects.
func (r rule) cut(ctx context.Context, client *kafka.Client, p *kfake.PartitionInfo, bytes int64, now time.Time) (int64, error) {
	records := p.HighWatermark - p.LogStartOffset
	if records <= 1 {
		return p.LogStartOffset, nil
	}
	at, err := client.OffsetAt(ctx, r.topic, int(p.Partition), now.Add(-r.age))
	if err != nil {
		return 0, fmt.Errorf("broker: trim %s/%d: %w", r.topic, p.Partition, err)
	}
	if excess := p.NumBytes - bytes; excess > 0 {
		at = max(at, p.LogStartOffset+int64(float64(records)*float64(excess)/float64(p.NumBytes)))
	}
	return at, nil
}

package broker

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/spillway/spillway/pkg/kafka"
)

// maxRebalance bounds how long a rebalance waits for members, in milliseconds.
// kfake begins that time anew with every join, so with 10 s a few members that
// are killed while joining hold a group up for ever; with 3 s they do not.
const maxRebalance = 3000

// shortenRebalance is a control function of kfake's that lets a join pass with
// a rebalance timeout that it can live with.
func shortenRebalance(r kmsg.Request) (kmsg.Response, error, bool) {
	req := r.(*kmsg.JoinGroupRequest)
	req.RebalanceTimeoutMillis = min(req.RebalanceTimeoutMillis, maxRebalance)
	return nil, nil, false
}

// checkCommits refuses to serve a store in which the schedulers' group has
// committed offsets above a partition's end: records written from now on would
// be below the commit, and no scheduler would ever see them.
func checkCommits(cluster *kfake.Cluster, topics kafka.Topics) error {
	group := cluster.GroupInfo(topics.Group())
	if group == nil {
		return nil
	}
	var lost []string
	for topic, commits := range group.Commits {
		for partition, commit := range commits {
			info := cluster.PartitionInfo(topic, partition)
			if info != nil && commit.Offset > info.HighWatermark {
				lost = append(lost, fmt.Sprintf("%s/%d (committed %d, ends at %d)", topic, partition, commit.Offset, info.HighWatermark))
			}
		}
	}
	if len(lost) == 0 {
		return nil
	}
	slices.Sort(lost)
	return fmt.Errorf("broker: the store has lost records that were worked on, in %d partitions: %s: it was damaged; move the data directory away to start empty", len(lost), lost[0])
}

// logger hands kfake's warnings and errors on; the rest is about every request.
type logger struct{ log *slog.Logger }

// Logf implements kfake.Logger.
func (l logger) Logf(at kfake.LogLevel, format string, args ...any) {
	switch at {
	case kfake.LogLevelError:
		l.log.LogAttrs(context.Background(), slog.LevelError, "kfake", slog.String("message", fmt.Sprintf(format, args...)))
	case kfake.LogLevelWarn:
		l.log.LogAttrs(context.Background(), slog.LevelWarn, "kfake", slog.String("message", fmt.Sprintf(format, args...)))
	}
}

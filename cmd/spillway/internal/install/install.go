// Package install is `spillway install`: it makes an installation in a log,
// topics first, then the control log's first record. It is idempotent and
// refuses to change what cannot be changed. No service does any of this.
package install

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// FormatVersion is the version of the six formats of ARCHITECTURE.md.
const FormatVersion = 1

// Defaults of an installation on a cluster, and on the embedded broker, which
// holds everything in one process and has no use for more.
const (
	Shards         = 24
	Lanes          = 32
	EmbeddedShards = 8
	EmbeddedLanes  = 16
)

// ErrOther is returned when the log holds another installation under the same
// prefix.
var ErrOther = errors.New("the log holds another installation")

// Existing returns the layout of the installation under a prefix, false if there
// is none that came to its end. It writes nothing. An installation that is
// sealed with another key is an error that wraps controllog.ErrOtherKey.
func Existing(ctx context.Context, client *kafka.Client, topics kafka.Topics, macKey []byte) (layout kafka.Layout, ok bool, err error) {
	_, copies, err := client.Survey(ctx, topics.Control())
	if err != nil || copies == 0 {
		return layout, false, err
	}
	follower, stop, err := fold(ctx, client, topics, macKey)
	if err != nil {
		return layout, false, err
	}
	defer stop()
	config := follower.State().Config()
	return kafka.Layout{
		Topics: topics, Shards: int(config.GetShards()), Lanes: int(config.GetLanes()), Durability: Durability(copies),
	}, config != nil, nil
}

// Durability is what topics can promise that have so many copies, or could on so
// many brokers.
func Durability(copies int) string {
	if copies >= 3 {
		return kafka.Replicated
	}
	return kafka.Single
}

// fold reads the control log to its end and follows it until stop is called.
func fold(ctx context.Context, client *kafka.Client, topics kafka.Topics, macKey []byte) (*controllog.Follower, func(), error) {
	ctx, cancel := context.WithCancel(ctx)
	// Foreign records are one error here, not a line for each.
	follower := controllog.NewFollower(client, topics.Control(), macKey, slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = follower.Run(ctx) // Ready says why it stopped
	}()
	stop := func() { cancel(); <-done }
	for {
		changed := follower.Changed()
		select {
		case <-follower.Folded():
			if err := follower.Ready(); errors.Is(err, controllog.ErrOtherKey) {
				stop()
				return nil, nil, fmt.Errorf("prefix %s: %w", topics.Prefix, err)
			}
			return follower, stop, nil
		case <-changed:
			if halted, ok := errors.AsType[*controllog.StopError](follower.Ready()); ok {
				stop()
				return nil, nil, fmt.Errorf("fold the control log: %w", halted)
			}
		case <-ctx.Done():
			stop()
			return nil, nil, fmt.Errorf("fold the control log: %w", errors.Join(ctx.Err(), follower.Ready()))
		}
	}
}

// Run installs layout and returns the cluster's id, which is the issuer of its
// tokens. client must see all topics. macKey seals the control log's records; a
// log that holds only records of another key is refused, with an error that
// wraps controllog.ErrOtherKey: ours among them would look like an attack to
// the services of the other.
func Run(ctx context.Context, client *kafka.Client, layout kafka.Layout, macKey []byte) (clusterID string, err error) {
	if err := kafka.Install(ctx, client, layout); err != nil {
		return "", err
	}
	follower, stop, err := fold(ctx, client, layout.Topics, macKey)
	if err != nil {
		return "", err
	}
	defer stop()
	config := follower.State().Config()
	if config == nil {
		config = &logv1.ClusterConfig{
			ClusterId: strings.ToLower(rand.Text()), FormatVersion: FormatVersion, Shards: int32(layout.Shards), Lanes: int32(layout.Lanes), Prefix: layout.Prefix,
		}
		writer := controllog.NewWriter(direct{client}, follower, layout.Control(), macKey)
		sequence, err := writer.Append(ctx, &logv1.Command{
			RequestId: "install-" + config.ClusterId, Actor: "spillway install", Reason: "first installation", At: timestamppb.New(time.Now()),
			Act: &logv1.Command_ClusterConfig{ClusterConfig: config},
		})
		switch {
		case err == nil && sequence > 0: // an install with another key was faster
			return "", fmt.Errorf("prefix %s: %w", layout.Prefix, controllog.ErrOtherKey)
		case err != nil && follower.State().Config() == nil:
			return "", fmt.Errorf("append the cluster's configuration: %w", err)
		}
		config = follower.State().Config() // of another install with our key, if that was faster
	}
	if config.GetShards() != int32(layout.Shards) || config.GetLanes() != int32(layout.Lanes) || config.GetPrefix() != layout.Prefix {
		return "", fmt.Errorf("%w: %d shards, %d lanes, prefix %q; asked for %d, %d, %q", ErrOther,
			config.GetShards(), config.GetLanes(), config.GetPrefix(), layout.Shards, layout.Lanes, layout.Prefix)
	}
	if config.GetFormatVersion() != FormatVersion {
		return "", fmt.Errorf("%w: format version %d, this program knows %d", ErrOther, config.GetFormatVersion(), FormatVersion)
	}
	return config.GetClusterId(), nil
}

// direct appends single records without a producer's queue.
type direct struct{ client *kafka.Client }

// Produce appends one record and returns its offset.
func (d direct) Produce(ctx context.Context, r kafka.Record) (int64, error) {
	return d.client.Append(ctx, r.Topic, r.Partition, []kafka.Record{r})
}

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

// Run installs layout and returns the cluster's id, which is the issuer of its
// tokens. client must see all topics. macKey seals the control log's records.
func Run(ctx context.Context, client *kafka.Client, layout kafka.Layout, macKey []byte, log *slog.Logger) (clusterID string, err error) {
	if err := kafka.Install(ctx, client, layout); err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	follower := controllog.NewFollower(client, layout.Control(), macKey, log)
	done := make(chan error, 1)
	go func() { done <- follower.Run(ctx) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-done)
	}()
	select {
	case <-follower.Folded():
	case <-ctx.Done():
		return "", fmt.Errorf("fold the control log: %w", errors.Join(ctx.Err(), follower.Ready()))
	}
	config := follower.State().Config()
	if config == nil {
		config = &logv1.ClusterConfig{
			ClusterId: strings.ToLower(rand.Text()), FormatVersion: FormatVersion, Shards: int32(layout.Shards), Lanes: int32(layout.Lanes), Prefix: layout.Prefix,
		}
		writer := controllog.NewWriter(direct{client}, follower, layout.Control(), macKey)
		_, err := writer.Append(ctx, &logv1.Command{
			RequestId: "install-" + config.ClusterId, Actor: "spillway install", Reason: "first installation", At: timestamppb.New(time.Now()),
			Act: &logv1.Command_ClusterConfig{ClusterConfig: config},
		})
		// Another install may have been faster: its record stands.
		if err != nil && follower.State().Config() == nil {
			return "", fmt.Errorf("append the cluster's configuration: %w", err)
		}
		config = follower.State().Config()
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

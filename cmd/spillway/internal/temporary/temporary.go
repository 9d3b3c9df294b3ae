// Package temporary is the `spillway dev` of commands that bring one of their own, in a directory that goes away with it.
package temporary

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/dev"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/process"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/kafka"
)

// removeTimeout bounds deleting the 250 partitions of a temporary installation.
const removeTimeout = 30 * time.Second

// Start starts a dev in a directory dev below dir, on free ports.
// stop ends it and deletes its topics; with keep its topics in a cluster stay, to be looked at.
func Start(ctx context.Context, dir string, own dev.Options, out *process.Output, log *slog.Logger) (target func() readyfile.File, stop func(keep bool) error, err error) {
	own.DataDir, own.PortBase, own.LogLevel = filepath.Join(dir, "dev"), 0, "WARN"
	if err := os.Mkdir(own.DataDir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("temporary directory: %w", err)
	}
	if own.Log.Kafka == "" {
		fmt.Fprintf(out, "starting a spillway dev in %s\n", own.DataDir)
	} else {
		fmt.Fprintf(out, "starting a spillway dev in %s on %s, with topics %s…\n", own.DataDir, own.Log.Kafka, own.Prefix)
	}
	d, err := dev.Start(ctx, own, out, log)
	if err != nil {
		if exit.Code(err) != exit.Unavailable { // the cluster was reached, and may hold topics
			err = errors.Join(err, remove(own))
		}
		return nil, nil, err
	}
	return d.File, func(keep bool) error {
		d.Stop()
		if keep {
			return nil
		}
		return remove(own)
	}, nil
}

// Prefix is that of a command's installation for one run, whose keys end with it.
func Prefix(command string) string {
	return "spillway-" + command + "-" + strings.ToLower(rand.Text()[:8]) + "."
}

// remove deletes the topics of a dev of our own in a cluster.
func remove(own dev.Options) error {
	if own.Log.Kafka == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	client, err := connect.Reach(ctx, own.Log, "load")
	if err != nil {
		return fmt.Errorf("topics %s… stay in the cluster: %w", own.Prefix, err)
	}
	defer client.Close()
	if err := kafka.Remove(ctx, client, kafka.Topics{Prefix: own.Prefix}); err != nil {
		return fmt.Errorf("topics %s… stay in the cluster: %w", own.Prefix, err)
	}
	return nil
}

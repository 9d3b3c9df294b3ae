package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/install"
	"github.com/spillway/spillway/cmd/spillway/internal/process"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
)

// socketPath is the longest path of a Unix socket that every system takes.
const socketPath = 100

// openLog starts the embedded broker or reaches the cluster, makes the
// installation there unless it is there, and returns the cluster's id.
func (d *Dev) openLog(ctx context.Context) (cluster string, err error) {
	var client *kafka.Client
	layout := kafka.Layout{
		Topics: kafka.Topics{Prefix: d.file.Prefix}, Shards: install.EmbeddedShards, Lanes: install.EmbeddedLanes, Durability: kafka.Single,
	}
	if d.opts.Log.Kafka == "" {
		client, err = d.embedded(ctx)
	} else {
		client, err = d.cluster(ctx, &layout)
	}
	if err != nil {
		return "", err
	}
	defer client.Close()
	d.durability = layout.Durability
	if cluster, err = install.Run(ctx, client, layout, d.keys.mac); err != nil {
		return "", d.explain(fmt.Errorf("install: %w", err))
	}
	return cluster, nil
}

// embedded starts the embedded broker.
func (d *Dev) embedded(ctx context.Context) (*kafka.Client, error) {
	socket, err := d.socket()
	if err != nil {
		return nil, err
	}
	settings := connect.Settings{Kafka: "unix:" + socket}
	d.file.Broker = settings.Broker(readyfile.Embedded)
	d.launch(process.Spec{
		Name: "broker", Args: []string{"serve", "broker", "--until-stdin-closes", "--data-dir", d.opts.DataDir, "--socket", socket, "--log-level", d.opts.LogLevel},
		Ceiling: brokerCeiling, MaxProcs: maxProcs(), Grace: brokerGrace,
	})
	opener, err := settings.Opener()
	if err != nil {
		return nil, err
	}
	client, err := opener.Client("dev")
	if err != nil {
		return nil, err
	}
	if err := client.Ready(ctx); err != nil { // it reads its whole store first
		client.Close()
		return nil, fmt.Errorf("the broker does not serve: %w", err)
	}
	return client, nil
}

// cluster reaches the cluster and makes layout that of the installation that is
// there, or what a new one should have.
func (d *Dev) cluster(ctx context.Context, layout *kafka.Layout) (*kafka.Client, error) {
	d.file.Broker = d.opts.Log.Broker(readyfile.Kafka)
	client, err := connect.Reach(ctx, d.opts.Log, "dev")
	if err != nil {
		return nil, err
	}
	found, ok, err := install.Existing(ctx, client, layout.Topics, d.keys.mac)
	if err == nil && ok {
		*layout = found
		return client, nil
	}
	brokers := 0
	if err == nil {
		brokers, _, err = client.Survey(ctx, layout.Control())
	}
	if err != nil {
		client.Close()
		return nil, d.explain(err)
	}
	layout.Durability = install.Durability(brokers)
	d.log.Info("installing", "brokers", brokers, "durability", layout.Durability, "prefix", layout.Prefix)
	return client, nil
}

// explain says what to do about an installation that cannot be used.
func (d *Dev) explain(err error) error {
	switch {
	case errors.Is(err, controllog.ErrOtherKey):
		return exit.With(exit.Precondition, fmt.Errorf("%w; use the data directory that it was installed from (--data-dir), or a prefix of your own (--prefix)", err))
	case errors.Is(err, install.ErrOther):
		return exit.With(exit.Precondition, err)
	}
	return err
}

// socket is where the broker listens: in the data directory unless the path is
// too long for a socket.
func (d *Dev) socket() (string, error) {
	path := filepath.Join(d.opts.DataDir, "broker.sock")
	if len(path) <= socketPath {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "spillway-") // mode 0700
	if err != nil {
		return "", fmt.Errorf("directory of the broker's socket: %w", err)
	}
	d.socketDir = dir
	return filepath.Join(dir, "broker.sock"), nil
}

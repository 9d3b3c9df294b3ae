package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/kafka"
)

// timeout bounds an install: a cluster that is asked for its 1,000 partitions
// for the first time takes seconds.
const timeout = 2 * time.Minute

// Command is `spillway install`.
func Command() *cobra.Command {
	layout := kafka.Layout{}
	var address, macKeyFile, output string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "make an installation in a Kafka cluster: topics, first commits, the control log's first record",
		Long: `install makes the topics that are missing, commits the first offsets and writes
the cluster's configuration into the control log. It may be repeated; it refuses
to change what cannot be changed: partitions, lanes and prefix.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if address == "" || macKeyFile == "" {
				return exit.Errorf(exit.Usage, "--kafka and --mac-key-file are required")
			}
			if output != "table" && output != "json" {
				return exit.Errorf(exit.Usage, "-o: want table or json")
			}
			if err := layout.Validate(); err != nil {
				return exit.With(exit.Usage, err)
			}
			key, err := config.ReadSecretFile(macKeyFile)
			if err != nil {
				return exit.With(exit.Usage, fmt.Errorf("MAC key: %w", err))
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			client, err := kafka.New(kafka.Config{Addresses: strings.Split(address, ","), ClientID: "install"})
			if err != nil {
				return exit.With(exit.Usage, err)
			}
			defer client.Close()
			if err := client.Ready(ctx); err != nil {
				return exit.With(exit.Unavailable, err)
			}
			cluster, err := Run(ctx, client, layout, key, slog.New(slog.NewTextHandler(os.Stderr, nil)))
			if errors.Is(err, ErrOther) {
				return exit.With(exit.Precondition, err)
			}
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{
					"cluster_id": cluster, "shards": layout.Shards, "lanes": layout.Lanes, "prefix": layout.Prefix,
				})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "cluster %s: %d shards, %d lanes each, prefix %s\n", cluster, layout.Shards, layout.Lanes, layout.Prefix)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&address, "kafka", os.Getenv("SPILLWAY_KAFKA"), "brokers, host:port separated by commas, or unix:PATH (SPILLWAY_KAFKA)")
	f.StringVar(&macKeyFile, "mac-key-file", os.Getenv("SPILLWAY_MAC_KEY_FILE"), "key that seals control and outcomes records (SPILLWAY_MAC_KEY_FILE)")
	f.IntVar(&layout.Shards, "partitions", Shards, "shards: partitions of each job topic; cannot be changed later")
	f.IntVar(&layout.Lanes, "lanes", Lanes, "lanes for each shard; cannot be changed later")
	f.StringVar(&layout.Durability, "durability", kafka.Replicated, "replicated (three copies, two acknowledged) or single")
	f.StringVar(&layout.Prefix, "prefix", kafka.DefaultPrefix, "prefix of the topics' names; cannot be changed later")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/rights"
)

// timeout bounds an install: a cluster that is asked for its 1,000 partitions
// for the first time takes seconds.
const timeout = 2 * time.Minute

// Command is `spillway install`.
func Command() *cobra.Command {
	layout := kafka.Layout{}
	var address, macKeyFile, output string
	var acls bool
	var principals []string
	cmd := &cobra.Command{
		Use:   "install",
		Short: "make an installation in a Kafka cluster: topics, first commits, the control log's first record",
		Long: `install makes the topics that are missing, commits the first offsets and writes
the cluster's configuration into the control log. It may be repeated; it refuses
to change what cannot be changed: partitions, lanes and prefix.

With --acls it also grants each service, and operators, the least rights that
they need, as the principals User:spillway-enqueue, -scheduler, -automation,
-notifier and -operator, or those of --principal. It takes no right away.

Whoever runs it has to be an administrator of the cluster: SPILLWAY_KAFKA_TLS,
_CA_FILE, _SASL, _USER and _PASSWORD_FILE say how to get in.`,
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
			who, err := parsePrincipals(principals)
			if err != nil {
				return exit.With(exit.Usage, err)
			}
			if len(principals) > 0 && !acls {
				return exit.Errorf(exit.Usage, "--principal says to whom to grant rights, and needs --acls")
			}
			key, err := config.ReadMACKey(macKeyFile)
			if err != nil {
				return exit.With(exit.Usage, fmt.Errorf("MAC key: %w", err))
			}
			settings, err := connect.Environment()
			if err != nil {
				return exit.With(exit.Usage, err)
			}
			settings.Kafka = address
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			client, err := connect.Reach(ctx, settings, "install")
			if err != nil {
				return err
			}
			defer client.Close()
			cluster, err := Run(ctx, client, layout, key)
			if errors.Is(err, ErrOther) || errors.Is(err, controllog.ErrOtherKey) {
				return exit.With(exit.Precondition, err)
			}
			if err != nil {
				return err
			}
			granted := 0
			if acls {
				if granted, err = rights.Grant(ctx, client, layout.Topics, who); err != nil {
					return err
				}
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]any{
					"cluster_id": cluster, "shards": layout.Shards, "lanes": layout.Lanes, "prefix": layout.Prefix, "acls": granted,
				})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "cluster %s: %d shards, %d lanes each, prefix %s\n", cluster, layout.Shards, layout.Lanes, layout.Prefix)
			for _, role := range rights.Roles() {
				if acls && err == nil {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "rights of %-11s %s\n", role, who[role])
				}
			}
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
	f.BoolVar(&acls, "acls", false, "also grant the services' and operators' principals their rights")
	f.StringArrayVar(&principals, "principal", nil, "whom to grant a role's rights, ROLE=User:NAME; may be given several times")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

// parsePrincipals reads ROLE=User:NAME over the defaults.
func parsePrincipals(specs []string) (rights.Principals, error) {
	p := rights.Defaults()
	for _, spec := range specs {
		role, name, ok := strings.Cut(spec, "=")
		if !ok {
			return nil, fmt.Errorf("--principal %q: want ROLE=User:NAME", spec)
		}
		p[rights.Role(role)] = name
	}
	return p, p.Validate()
}

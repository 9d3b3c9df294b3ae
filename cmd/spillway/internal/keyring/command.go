package keyring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/locate"
	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/lifecycle"
	"github.com/spillway/spillway/pkg/rpc"
)

const (
	// foldTimeout bounds the search for the cluster's id: a control log of
	// millions of records takes seconds.
	foldTimeout = time.Minute
	// tokenTTL is how long a token is good for unless told otherwise, as dev's.
	tokenTTL = 30 * 24 * time.Hour
	maxTTL   = 366 * 24 * time.Hour
)

// Command is `spillway keys`.
func Command() *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "make an installation's secrets and sign its tokens"}
	cmd.AddCommand(makeCommand(), tokensCommand())
	return cmd
}

func makeCommand() *cobra.Command {
	var signing, service string
	cmd := &cobra.Command{
		Use:   "make --signing-dir DIR --service-dir DIR",
		Short: "make the keys that are missing",
		Long: `make writes the key that signs tokens to the signing folder, and what every
service needs, the public keys and the MAC key, to the service folder. Keys that
are there stay as they are, so it may be repeated. Keep the signing folder from
the services.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if signing == "" || service == "" {
				return exit.Errorf(exit.Usage, "--signing-dir and --service-dir are required")
			}
			r, err := Open(signing, service)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "token keys  %s\nMAC key     %s\n", r.JWKS, r.MACFile)
			return err
		},
	}
	cmd.Flags().StringVar(&signing, "signing-dir", "", "folder of the key that signs tokens")
	cmd.Flags().StringVar(&service, "service-dir", "", "folder of the keys that services need")
	return cmd
}

func tokensCommand() *cobra.Command {
	var signing, address, prefix, macKeyFile string
	var specs, listeners, channels []string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "tokens --signing-dir DIR --token SUBJECT:ROLE[,ROLE…]:FILE … --subscriber USER@TENANT:FILE …",
		Short: "sign tokens of an installation, each into a file of its own",
		Long: `tokens signs one token for each --token and replaces its file in one step;
programs that were told the file take the new token by themselves. The cluster's
id, which every token names, is read from the control log.

Roles: enqueue and publish (callers), worker, read, operate and admin (operators).

A --subscriber is somebody who listens to notifications over a websocket; the
token is good for ten minutes and for nothing else. It opens the channels of
every --channel, where * stands for the whole last part; without any, those of
the tenant, of the user and all topics of the tenant. With - for FILE, the token
alone is printed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if signing == "" || address == "" || macKeyFile == "" || len(specs)+len(listeners) == 0 {
				return exit.Errorf(exit.Usage, "--signing-dir, --kafka, --mac-key-file and at least one --token or --subscriber are required")
			}
			if ttl <= 0 || ttl > maxTTL {
				return exit.Errorf(exit.Usage, "--ttl: want more than 0, up to a year")
			}
			tokens, err := parseTokens(specs)
			if err != nil {
				return exit.With(exit.Usage, err)
			}
			subscribers, err := parseSubscribers(listeners, channels)
			if err != nil {
				return exit.With(exit.Usage, err)
			}
			mac, err := config.ReadMACKey(macKeyFile)
			if err != nil {
				return exit.With(exit.Usage, fmt.Errorf("MAC key: %w", err))
			}
			// A key that is made now would sign what no service accepts.
			if _, err := os.Stat(filepath.Join(signing, rpc.JWKSFile)); err != nil {
				return exit.With(exit.Usage, fmt.Errorf("signing folder: %w; make its keys with: spillway keys make", err))
			}
			signer, err := rpc.OpenSigner(signing)
			if err != nil {
				return err
			}
			log, err := connect.Environment()
			if err != nil {
				return exit.With(exit.Usage, err)
			}
			log.Kafka = address
			ctx, cancel := context.WithTimeout(cmd.Context(), foldTimeout)
			defer cancel()
			client, err := connect.Reach(ctx, log, "keys", kafka.Topics{Prefix: prefix}.All()...)
			if err != nil {
				return err
			}
			defer client.Close()
			issuer, err := clusterID(ctx, client, kafka.Topics{Prefix: prefix}.Control(), mac)
			if err != nil {
				return err
			}
			now := time.Now()
			if err := sign(cmd.OutOrStdout(), signer, tokens, issuer, ttl, now); err != nil {
				return err
			}
			return signSubscribers(cmd.OutOrStdout(), signer, subscribers, issuer, now)
		},
	}
	f := cmd.Flags()
	f.StringVar(&signing, "signing-dir", "", "folder of the key that signs tokens")
	f.StringArrayVar(&specs, "token", nil, "a token to sign, SUBJECT:ROLE[,ROLE…]:FILE; may be given several times")
	f.StringArrayVar(&listeners, "subscriber", nil, "a subscriber's token to sign, USER@TENANT:FILE; may be given several times")
	f.StringArrayVar(&channels, "channel", nil, "a channel, or a pattern of channels, of the subscribers' tokens; may be given several times")
	f.DurationVar(&ttl, "ttl", tokenTTL, "how long the tokens are good for; a subscriber's always is for ten minutes")
	f.StringVar(&address, "kafka", os.Getenv(locate.KafkaVariable), "brokers, host:port separated by commas, or unix:PATH ("+locate.KafkaVariable+")")
	f.StringVar(&macKeyFile, "mac-key-file", os.Getenv(locate.MACKeyFileVariable), "key that seals the control log ("+locate.MACKeyFileVariable+")")
	f.StringVar(&prefix, "prefix", kafka.DefaultPrefix, "prefix of the topics' names")
	return cmd
}

// parseTokens reads SUBJECT:ROLE[,ROLE…]:FILE.
func parseTokens(specs []string) ([]Token, error) {
	var tokens []Token
	for _, spec := range specs {
		parts := strings.SplitN(spec, ":", 3)
		if len(parts) != 3 || parts[0] == "" || parts[1] == "" || parts[2] == "" {
			return nil, fmt.Errorf("--token %q: want SUBJECT:ROLE[,ROLE…]:FILE", spec)
		}
		t := Token{Subject: parts[0], File: parts[2]}
		for name := range strings.SplitSeq(parts[1], ",") {
			if !known(rpc.Role(name)) {
				return nil, fmt.Errorf("--token %q: role %q is none of %v", spec, name, roles)
			}
			t.Roles = append(t.Roles, rpc.Role(name))
		}
		tokens = append(tokens, t)
	}
	return tokens, nil
}

// sign signs all tokens and says where they are.
func sign(out io.Writer, signer *rpc.Signer, tokens []Token, issuer string, ttl time.Duration, now time.Time) error {
	for _, t := range tokens {
		if _, err := Sign(signer, t, issuer, ttl, now); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s until %s: %s\n", t.Subject, now.Add(ttl).UTC().Format(time.RFC3339), t.File); err != nil {
			return err
		}
	}
	return nil
}

// clusterID reads the cluster's id from the control log.
func clusterID(ctx context.Context, client *kafka.Client, topic string, mac []byte) (_ string, err error) {
	follower := controllog.NewFollower(client, topic, mac, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	group := lifecycle.NewGroup(ctx)
	group.Go("control", follower.Run)
	defer func() {
		group.Stop()
		err = errors.Join(err, group.Wait())
	}()
	select {
	case <-follower.Folded():
	case <-group.Context().Done():
		return "", exit.With(exit.Unavailable, fmt.Errorf("read the control log: %w", errors.Join(ctx.Err(), follower.Ready())))
	}
	if config := follower.State().Config(); config != nil {
		return config.GetClusterId(), nil
	}
	return "", exit.Errorf(exit.Precondition, "the control log names no cluster: run spillway install first")
}

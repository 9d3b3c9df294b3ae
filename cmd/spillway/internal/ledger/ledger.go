// Package ledger is `spillway ledger`: the conservation equation, read from the
// logs.
package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/spillway/spillway/cmd/spillway/internal/census"
	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/locate"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/kafka"
)

// timeout bounds one count: a full store of 1 GiB takes some seconds, a
// cluster's logs minutes.
const timeout = 10 * time.Minute

// Command is `spillway ledger`.
func Command() *cobra.Command {
	var dataDir, output string
	cmd := &cobra.Command{
		Use:   "ledger",
		Short: "count every job in the logs: what was accepted, and where it is",
		Long: `ledger reads the logs themselves, asks no service and puts every distinct job
id into exactly one place:

  accepted = succeeded + dead + expired + purged + cancelled + superseded
           + waiting + delayed + spilled + leased

Parked are records that this release cannot read, a later one's for instance:
they are kept among the dead letters, and nobody can tell what jobs they are.

It exits with 1 when the difference is not 0: jobs that are complete and have
neither an outcome nor another home.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "table" && output != "json" {
				return exit.Errorf(exit.Usage, "-o: want table or json")
			}
			target, err := locate.Find(dataDir)
			if err != nil {
				return err
			}
			return count(cmd.Context(), target, output, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", "", "data directory of the running dev (default <user cache dir>/spillway/dev)")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func count(ctx context.Context, target readyfile.File, output string, stdout, stderr io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	client, err := connect.Reach(ctx, connect.Of(target.Broker), "ledger")
	if err != nil {
		return err
	}
	defer client.Close()
	cfg := census.Config{Client: client, Topics: kafka.Topics{Prefix: target.Prefix}}
	if target.MACKeyFile != "" {
		if cfg.MACKey, err = config.ReadMACKey(target.MACKeyFile); err != nil {
			return fmt.Errorf("MAC key: %w", err)
		}
	}
	c := census.New(cfg)
	if err := c.Homes(ctx); err != nil {
		return err
	}
	if err := c.Outcomes(ctx); err != nil {
		return err
	}
	leased, err := census.Leased(ctx, client, cfg.Topics)
	if err != nil {
		return err
	}
	totals := c.Totals(leased)
	if c.Forged > 0 {
		fmt.Fprintf(stderr, "%d events carry no valid MAC and were not counted\n", c.Forged)
	}
	if c.Unreadable > 0 {
		fmt.Fprintf(stderr, "%d records are no jobs or events of this version; schedulers park them among the dead letters\n", c.Unreadable)
	}
	if err := write(totals, output, stdout); err != nil {
		return err
	}
	if totals.Difference != 0 {
		return exit.Errorf(exit.Failed, "%d jobs are complete and have neither an outcome nor another home", totals.Difference)
	}
	return nil
}

func write(t census.Totals, output string, w io.Writer) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", " ")
		return e.Encode(t)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range []struct {
		name string
		n    int64
	}{
		{"accepted", t.Accepted}, {"succeeded", t.Succeeded}, {"dead", t.Dead}, {"expired", t.Expired}, {"purged", t.Purged},
		{"cancelled", t.Cancelled}, {"superseded", t.Superseded}, {"waiting", t.Waiting}, {"delayed", t.Delayed}, {"spilled", t.Spilled},
		{"leased", t.Leased}, {"parked", t.Parked}, {"difference", t.Difference},
	} {
		fmt.Fprintf(tw, "%s\t%d\t\n", row.name, row.n)
	}
	return tw.Flush()
}

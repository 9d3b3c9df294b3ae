// Package job is `spillway job`: work with single jobs.
package job

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/locate"
	"github.com/spillway/spillway/pkg/client"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
)

// maxPayload is the hard limit of a payload: what is read from a file or from
// standard input is bounded by it.
const maxPayload = 900 << 10

// timeout bounds one enqueue: the SDK's own.
const timeout = client.DefaultTimeout

var priorities = map[string]client.Priority{
	"": 0, "critical": client.Critical, "high": client.High, "default": client.Default, "low": client.Low, "bulk": client.Bulk,
}

// Command is `spillway job`.
func Command() *cobra.Command {
	cmd := &cobra.Command{Use: "job", Short: "enqueue a job"}
	cmd.AddCommand(enqueueCommand())
	return cmd
}

func enqueueCommand() *cobra.Command {
	var (
		job                                client.Job
		dataDir, priority, payload, output string
		after                              time.Duration
	)
	cmd := &cobra.Command{
		Use:   "enqueue --source S --type T",
		Short: "enqueue a job; the answer comes when it is durable",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var known bool
			if job.Priority, known = priorities[priority]; !known {
				return exit.Errorf(exit.Usage, "--priority: want critical, high, default, low or bulk")
			}
			if output != "table" && output != "json" {
				return exit.Errorf(exit.Usage, "-o: want table or json")
			}
			var err error
			if job.Payload, err = readPayload(payload, cmd.InOrStdin()); err != nil {
				return err
			}
			if after > 0 {
				job.NotBefore = time.Now().Add(after)
			}
			return enqueue(cmd.Context(), job, dataDir, output, cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&job.Source, "source", "", "the registered source (required)")
	f.StringVar(&job.Type, "type", "", "what kind of work (required)")
	f.StringVar(&job.Tenant, "tenant", "", "whose work it is")
	f.StringVar(&priority, "priority", "", "critical, high, default, low or bulk (default: the source's)")
	f.StringVar(&payload, "payload", "", "the payload; @FILE reads a file, @- standard input")
	f.StringVar(&job.ContentType, "content-type", "", "what the payload is")
	f.StringVar(&job.Key, "key", "", "idempotency key: the same key makes one job")
	f.DurationVar(&after, "after", 0, "start no earlier than so long from now")
	f.DurationVar(&job.ExpiresIn, "expires-in", 0, "give the job up if it has not started by then")
	f.DurationVar(&job.RunTimeout, "run-timeout", 0, "how long one attempt may run (default: the source's)")
	f.IntVar(&job.MaxAttempts, "max-attempts", 0, "attempts in all (default: the source's)")
	f.StringVar(&dataDir, "data-dir", "", "data directory of the running dev (default <user cache dir>/spillway/dev)")
	f.StringVarP(&output, "output", "o", "table", "table or json")
	cmd.MarkFlagRequired("source")
	cmd.MarkFlagRequired("type")
	return cmd
}

func readPayload(arg string, stdin io.Reader) ([]byte, error) {
	name, isFile := strings.CutPrefix(arg, "@")
	if !isFile {
		return []byte(arg), nil
	}
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, exit.With(exit.Usage, fmt.Errorf("payload: %w", err))
		}
		defer f.Close()
		stdin = f
	}
	b, err := io.ReadAll(io.LimitReader(stdin, maxPayload+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("payload: %w", err)
	case len(b) > maxPayload:
		return nil, exit.Errorf(exit.Usage, "payload: more than %d bytes", maxPayload)
	}
	return b, nil
}

func enqueue(ctx context.Context, job client.Job, dataDir, output string, stdout io.Writer) error {
	target, err := locate.Find(dataDir)
	if err != nil {
		return err
	}
	c, err := client.Dial(target.Endpoints.Enqueue, client.WithToken(target.Tokens.Service))
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	r, err := c.Enqueue(ctx, job)
	if err != nil {
		return err
	}
	if output == "table" {
		_, err = fmt.Fprintf(stdout, "%s %s\n", r.JobID, r.Verdict)
		return err
	}
	answer := &enqueuev1.EnqueueResponse{JobId: r.JobID, Verdict: enqueuev1.Verdict(r.Verdict), Receipt: r.Receipt}
	if !r.EstimatedStart.IsZero() {
		answer.EstimatedStart = timestamppb.New(r.EstimatedStart)
	}
	b, err := protojson.MarshalOptions{Multiline: true, UseProtoNames: true, EmitUnpopulated: true}.Marshal(answer)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "%s\n", b)
	return err
}

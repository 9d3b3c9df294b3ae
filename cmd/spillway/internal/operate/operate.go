// Package operate is the operator's verbs `spillway source` and `spillway switch`. They speak to automation and print what it answers:
// with -o json the answer itself, as protojson with proto field names and unset fields.
package operate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/locate"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/rpc"
)

const (
	// callWithin bounds one call. A switch is proven within a second; the rest is for a broker that stumbles.
	callWithin = 10 * time.Second
	// pageSize is how much a list asks for at once.
	pageSize = 1000
)

// Forms of output.
const (
	table = "table"
	json  = "json"
	jsonl = "jsonl"
)

// options are the flags that all verbs have.
type options struct {
	dataDir, output string
}

func (o *options) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.dataDir, "data-dir", "", "data directory of the running dev (default <user cache dir>/spillway/dev)")
	f.StringVarP(&o.output, "output", "o", table, "table, json or jsonl")
}

// call finds automation, and calls f with a connection to it.
func (o *options) call(cmd *cobra.Command, f func(ctx context.Context, conn *grpc.ClientConn) error) error {
	target, err := o.find()
	if err != nil {
		return err
	}
	if target.Endpoints.Automation == "" {
		return exit.Errorf(exit.Unavailable, "no address of automation: set %s, or start one with: spillway dev", locate.AutomationVariable)
	}
	conn, err := rpc.Dial(target.Endpoints.Automation, rpc.DialConfig{Token: target.Tokens.Operator})
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(cmd.Context(), callWithin)
	defer cancel()
	return explain(f(ctx, conn))
}

// find checks the form of output and finds the installation.
func (o *options) find() (readyfile.File, error) {
	switch o.output {
	case table, json, jsonl:
		return locate.Find(o.dataDir)
	}
	return readyfile.File{}, exit.Errorf(exit.Usage, "-o: want table, json or jsonl")
}

// refused is a refusal in words for people, with the status for the exit code.
type refused struct {
	text string
	err  error
}

// Error is the text for people.
func (r *refused) Error() string { return r.text }

// Unwrap returns the status.
func (r *refused) Unwrap() error { return r.err }

// explain puts everything that an answer says into words: its reason, every field that is wrong, and who is meant.
func explain(err error) error {
	e := rpc.FromError(err)
	if own := (*exit.Error)(nil); e == nil || errors.As(err, &own) {
		return err
	}
	var b strings.Builder
	if len(e.Violations) == 0 {
		b.WriteString(e.Message)
	}
	for i, v := range e.Violations {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s: %s", v.Field, v.Description)
	}
	if silent := e.Metadata["replicas"]; silent != "" {
		fmt.Fprintf(&b, "; silent: %s", silent)
	}
	if e.Reason != "" {
		fmt.Fprintf(&b, " (%s)", e.Reason)
	}
	return &refused{text: visible(b.String()), err: err}
}

// print writes an answer in the form that was asked for. rows writes the table.
func (o *options) print(out io.Writer, answer proto.Message, rows func(w io.Writer)) error {
	if o.output == table {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		rows(w)
		return w.Flush()
	}
	b, err := protojson.MarshalOptions{Multiline: o.output == json, UseProtoNames: true, EmitUnpopulated: true}.Marshal(answer)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", visibleJSON(string(b)))
	return err
}

// printList is print for a list: jsonl writes its items, one a line.
func printList[M proto.Message](o *options, out io.Writer, answer proto.Message, items []M, rows func(w io.Writer)) error {
	if o.output != jsonl {
		return o.print(out, answer, rows)
	}
	for _, item := range items {
		if err := o.print(out, item, nil); err != nil {
			return err
		}
	}
	return nil
}

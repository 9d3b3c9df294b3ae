package operate

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/automation"
)

// Source is `spillway source`.
func Source() *cobra.Command {
	cmd := &cobra.Command{Use: "source", Short: "register sources of work and set what they may use"}
	cmd.AddCommand(registerSource(), getSource(), listSources(), updateSource(), deleteSource())
	return cmd
}

// settings are the flags that say what a source is. Each belongs to one path of an update mask.
type settings struct {
	owner, description, priority, maxPriority, overflow, runaway string
	types, principals                                            []string
	rate, acceptRate, publishRate                                float64
	burst, concurrency, weight                                   int32
	backlogJobs, backlogBytes                                    int64
	runTimeout, expiry                                           time.Duration
}

// pathOf says which field a flag sets.
var pathOf = map[string]string{
	"owner": "owner", "description": "description", "type": "types", "priority": "default_priority", "max-priority": "max_priority",
	"rate": "quota.rate", "burst": "quota.burst", "concurrency": "quota.concurrency", "accept-rate": "quota.accept_rate",
	"publish-rate": "quota.publish_rate",
	"backlog-jobs": "quota.backlog_jobs", "backlog-bytes": "quota.backlog_bytes", "weight": "weight", "overflow": "overflow",
	"runaway": "runaway.action", "principal": "principals", "run-timeout": "run_timeout", "expiry": "expiry",
}

func (s *settings) register(f *pflag.FlagSet) {
	f.StringSliceVar(&s.types, "type", nil, "a type of its jobs; repeat for up to 8")
	f.StringVar(&s.owner, "owner", "", "who is asked when it misbehaves")
	f.StringVar(&s.description, "description", "", "for people")
	f.StringVar(&s.priority, "priority", "", "priority of jobs that name none: critical, high, default, low or bulk")
	f.StringVar(&s.maxPriority, "max-priority", "", "ceiling of its jobs' priority")
	f.Float64Var(&s.rate, "rate", 0, "jobs started per second; 0: no limit")
	f.Int32Var(&s.burst, "burst", 0, "jobs that may start at once after a pause; 0: a second of --rate")
	f.Int32Var(&s.concurrency, "concurrency", 0, "jobs that run at the same time; 0: no limit but fairness")
	f.Float64Var(&s.acceptRate, "accept-rate", 0, "jobs accepted per second; 0: no limit (default 20000)")
	f.Float64Var(&s.publishRate, "publish-rate", 0, "notifications published per second; 0: no limit (default 20000)")
	f.Int64Var(&s.backlogJobs, "backlog-jobs", 0, "unsettled jobs; 0: no limit (default 1000000)")
	f.Int64Var(&s.backlogBytes, "backlog-bytes", 0, "bytes of unsettled jobs; 0: no limit (default 1 GiB)")
	f.Int32Var(&s.weight, "weight", 0, "share relative to others, 1 to 1000 (default 100)")
	f.StringVar(&s.overflow, "overflow", "", "what happens above the accept rate: spill or reject (default spill)")
	f.StringVar(&s.runaway, "runaway", "", "what happens when it runs away: alert, demote or hold (default demote)")
	f.StringSliceVar(&s.principals, "principal", []string{"*"}, "a subject that may enqueue as it; repeat for up to 64; *: everybody with the role")
	f.DurationVar(&s.runTimeout, "run-timeout", 0, "how long one attempt may run (default 5m)")
	f.DurationVar(&s.expiry, "expiry", 0, "how long its jobs may wait before they expire; 0: for ever")
}

// source builds the message. Limits that were not named are those of quota; a limit of 0 is taken away.
func (s *settings) source(name string, f *pflag.FlagSet, quota *automationv1.Quota) (*automationv1.Source, error) {
	m := &automationv1.Source{
		Name: name, Owner: s.owner, Description: s.description, Types: s.types, Weight: s.weight, Principals: s.principals, Quota: quota,
	}
	var wrong error
	m.DefaultPriority = jobv1.Priority(enum(&wrong, "priority", s.priority, "PRIORITY_", jobv1.Priority_value))
	m.MaxPriority = jobv1.Priority(enum(&wrong, "max-priority", s.maxPriority, "PRIORITY_", jobv1.Priority_value))
	m.Overflow = automationv1.Overflow(enum(&wrong, "overflow", s.overflow, "OVERFLOW_", automationv1.Overflow_value))
	if action := enum(&wrong, "runaway", s.runaway, "RUNAWAY_ACTION_", automationv1.RunawayAction_value); action != 0 {
		m.Runaway = &automationv1.Runaway{Action: automationv1.RunawayAction(action)}
	}
	limit(f, "rate", &quota.Rate, s.rate)
	limit(f, "burst", &quota.Burst, s.burst)
	limit(f, "concurrency", &quota.Concurrency, s.concurrency)
	limit(f, "accept-rate", &quota.AcceptRate, s.acceptRate)
	limit(f, "publish-rate", &quota.PublishRate, s.publishRate)
	limit(f, "backlog-jobs", &quota.BacklogJobs, s.backlogJobs)
	limit(f, "backlog-bytes", &quota.BacklogBytes, s.backlogBytes)
	if s.runTimeout != 0 {
		m.RunTimeout = durationpb.New(s.runTimeout)
	}
	if s.expiry != 0 {
		m.Expiry = durationpb.New(s.expiry)
	}
	return m, wrong
}

func limit[T comparable](f *pflag.FlagSet, flag string, to **T, v T) {
	if !f.Changed(flag) {
		return
	}
	var zero T
	if *to = &v; v == zero {
		*to = nil
	}
}

// enum reads the name of an enum's value without its prefix, in lower case; "" is 0.
func enum(wrong *error, flag, value, prefix string, values map[string]int32) int32 {
	if value == "" {
		return 0
	}
	n, ok := values[prefix+strings.ToUpper(value)]
	if !ok || n == 0 {
		*wrong = exit.Errorf(exit.Usage, "--%s: %q is not one of its values", flag, value)
	}
	return n
}

// change are the flags of verbs that change something.
type change struct {
	reason, requestID string
	validateOnly      bool
}

func (c *change) register(f *pflag.FlagSet) {
	f.StringVar(&c.reason, "reason", "", "why, for the audit")
	f.StringVar(&c.requestID, "request-id", "", "the same id makes the change once")
	f.BoolVar(&c.validateOnly, "validate-only", false, "judge, change nothing")
}

func registerSource() *cobra.Command {
	var o options
	var s settings
	var c change
	cmd := &cobra.Command{
		Use: "register NAME --type T", Short: "register a source; again with the same flags changes nothing", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			source, err := s.source(args[0], cmd.Flags(), automation.DefaultQuota())
			if err != nil {
				return err
			}
			return o.call(cmd, func(ctx context.Context, conn *grpc.ClientConn) error {
				res, err := automationv1.NewSourceAdminServiceClient(conn).RegisterSource(ctx, &automationv1.RegisterSourceRequest{
					Source: source, ValidateOnly: c.validateOnly, RequestId: c.requestID, Reason: c.reason,
				})
				if err != nil {
					return err
				}
				return o.print(cmd.OutOrStdout(), res, sourceRows(res.GetSource()))
			})
		},
	}
	o.register(cmd)
	s.register(cmd.Flags())
	c.register(cmd.Flags())
	cmd.MarkFlagRequired("type")
	return cmd
}

func updateSource() *cobra.Command {
	var o options
	var s settings
	var c change
	var etag string
	cmd := &cobra.Command{
		Use: "update NAME", Short: "change what the flags name, at once and everywhere", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			source, err := s.source(args[0], cmd.Flags(), &automationv1.Quota{})
			if err != nil {
				return err
			}
			mask := &fieldmaskpb.FieldMask{}
			cmd.Flags().Visit(func(f *pflag.Flag) {
				if path, ok := pathOf[f.Name]; ok {
					mask.Paths = append(mask.Paths, path)
				}
			})
			if len(mask.Paths) == 0 {
				return exit.Errorf(exit.Usage, "nothing to change: name a setting")
			}
			return o.call(cmd, func(ctx context.Context, conn *grpc.ClientConn) error {
				res, err := automationv1.NewSourceAdminServiceClient(conn).UpdateSource(ctx, &automationv1.UpdateSourceRequest{
					Source: source, UpdateMask: mask, Etag: etag, ValidateOnly: c.validateOnly, RequestId: c.requestID, Reason: c.reason,
				})
				if err != nil {
					return err
				}
				return o.print(cmd.OutOrStdout(), res, sourceRows(res.GetSource()))
			})
		},
	}
	o.register(cmd)
	s.register(cmd.Flags())
	c.register(cmd.Flags())
	cmd.Flags().StringVar(&etag, "etag", "", "refuse if the source is not the one that had this etag")
	return cmd
}

func deleteSource() *cobra.Command {
	var o options
	var c change
	var etag string
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "remove a source that has no work waiting", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.call(cmd, func(ctx context.Context, conn *grpc.ClientConn) error {
				res, err := automationv1.NewSourceAdminServiceClient(conn).DeleteSource(ctx, &automationv1.DeleteSourceRequest{
					Name: args[0], Etag: etag, ValidateOnly: c.validateOnly, RequestId: c.requestID, Reason: c.reason,
				})
				if err != nil {
					return err
				}
				return o.print(cmd.OutOrStdout(), res, func(w io.Writer) { rowf(w, "%s deleted\n", args[0]) })
			})
		},
	}
	o.register(cmd)
	c.register(cmd.Flags())
	cmd.Flags().StringVar(&etag, "etag", "", "refuse if the source is not the one that had this etag")
	return cmd
}

func getSource() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use: "get NAME", Short: "show a source", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.call(cmd, func(ctx context.Context, conn *grpc.ClientConn) error {
				res, err := automationv1.NewSourceServiceClient(conn).GetSource(ctx, &automationv1.GetSourceRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return o.print(cmd.OutOrStdout(), res, sourceRows(res.GetSource()))
			})
		},
	}
	o.register(cmd)
	return cmd
}

func listSources() *cobra.Command {
	var o options
	var filter string
	cmd := &cobra.Command{
		Use: "list", Short: "list the sources", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.call(cmd, func(ctx context.Context, conn *grpc.ClientConn) error {
				all := &automationv1.ListSourcesResponse{}
				for token := ""; ; {
					page, err := automationv1.NewSourceServiceClient(conn).ListSources(ctx, &automationv1.ListSourcesRequest{
						PageSize: pageSize, PageToken: token, Filter: filter,
					})
					if err != nil {
						return err
					}
					all.Sources = append(all.Sources, page.GetSources()...)
					if token = page.GetNextPageToken(); token == "" {
						break
					}
				}
				return printList(&o, cmd.OutOrStdout(), all, all.GetSources(), sourceRows(all.GetSources()...))
			})
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&filter, "filter", "", "only names that begin so")
	return cmd
}

// sourceRows is the table of sources.
func sourceRows(list ...*automationv1.Source) func(io.Writer) {
	return func(w io.Writer) {
		fmt.Fprintln(w, "NAME\tTYPES\tPRIORITY\tRATE\tCONCURRENCY\tWEIGHT\tSTATE\tETAG")
		for _, s := range list {
			q := s.GetQuota()
			rowf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", s.GetName(), strings.Join(s.GetTypes(), ","), plain(s.GetDefaultPriority().String()),
				orNone(q != nil && q.Rate != nil, strconv.FormatFloat(q.GetRate(), 'g', -1, 64)),
				orNone(q != nil && q.Concurrency != nil, strconv.Itoa(int(q.GetConcurrency()))), s.GetWeight(), plain(s.GetState().String()), s.GetEtag())
		}
	}
}

func orNone(given bool, text string) string {
	if !given {
		return "-"
	}
	return text
}

// plain is an enum's value as people write it: PRIORITY_HIGH is high.
func plain(value string) string {
	return strings.ToLower(value[strings.LastIndexByte(value, '_')+1:])
}

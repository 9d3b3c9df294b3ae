package operate

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
)

// Switch is `spillway switch`.
func Switch() *cobra.Command {
	cmd := &cobra.Command{
		Use: "switch", Short: "stop a source, tenant or flow, and let it go on",
		Long: `switch acts on a SCOPE: a source (crm-autotag), a tenant across all sources
(tenant:t1), or one tenant of a source (crm-autotag/t1). It returns when every
live replica has acknowledged, and names them: after that no job of the scope
starts anywhere.`,
	}
	cmd.AddCommand(hold(), resume(), listSwitches())
	return cmd
}

// scope reads SOURCE, tenant:T or SOURCE/T. The service judges the names.
func scope(text string) *automationv1.Scope {
	if tenant, ok := strings.CutPrefix(text, "tenant:"); ok {
		return &automationv1.Scope{Scope: &automationv1.Scope_Tenant{Tenant: tenant}}
	}
	if source, tenant, ok := strings.Cut(text, "/"); ok {
		return &automationv1.Scope{Scope: &automationv1.Scope_Flow{Flow: &automationv1.Flow{Source: source, Tenant: tenant}}}
	}
	return &automationv1.Scope{Scope: &automationv1.Scope_Source{Source: text}}
}

// scopeText is the reverse of scope.
func scopeText(s *automationv1.Scope) string {
	switch s := s.GetScope().(type) {
	case *automationv1.Scope_Tenant:
		return "tenant:" + s.Tenant
	case *automationv1.Scope_Flow:
		return s.Flow.GetSource() + "/" + s.Flow.GetTenant()
	}
	return s.GetSource()
}

func hold() *cobra.Command {
	var o options
	var spec automationv1.SwitchSpec
	var ttl time.Duration
	var breakGlass bool
	cmd := &cobra.Command{
		Use: "hold SCOPE --reason R", Short: "let nothing of it start: new jobs are accepted and wait", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec.Scope = scope(args[0])
			if cmd.Flags().Changed("ttl") {
				spec.Ttl = durationpb.New(ttl)
			}
			return o.throw(cmd, breakGlass, func(ctx context.Context, s switcher) error {
				res, err := s.Hold(ctx, &automationv1.HoldRequest{Spec: &spec})
				if err != nil {
					return err
				}
				return o.print(cmd.OutOrStdout(), res, thrownRows("held", res.GetSwitch(), res.GetProof(), res.GetPreview()))
			})
		},
	}
	o.register(cmd)
	f := cmd.Flags()
	f.StringVar(&spec.Reason, "reason", "", "why, for those who meet it later (required)")
	f.DurationVar(&ttl, "ttl", time.Hour, "how long it lasts, at most 30 days")
	f.BoolVar(&spec.UntilResumed, "until-resumed", false, "it lasts until somebody resumes")
	f.BoolVar(&spec.ValidateOnly, "preview", false, "tell what it would touch, change nothing")
	f.StringVar(&spec.RequestId, "request-id", "", "the same id throws the switch once")
	f.StringVar(&spec.PreviewEtag, "preview-etag", "", "refuse if what it touches has changed since the preview of this etag")
	registerThrow(cmd, &breakGlass)
	return cmd
}

func resume() *cobra.Command {
	var o options
	var req automationv1.ResumeRequest
	var breakGlass bool
	cmd := &cobra.Command{
		Use: "resume SCOPE --reason R", Short: "end the switch on exactly this scope", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Scope = scope(args[0])
			return o.throw(cmd, breakGlass, func(ctx context.Context, s switcher) error {
				res, err := s.Resume(ctx, &req)
				if err != nil {
					return err
				}
				return o.print(cmd.OutOrStdout(), res, thrownRows("resumed", res.GetSwitch(), res.GetProof(), res.GetPreview()))
			})
		},
	}
	o.register(cmd)
	f := cmd.Flags()
	f.StringVar(&req.Reason, "reason", "", "why (required)")
	f.StringVar(&req.RequestId, "request-id", "", "the same id resumes once")
	f.Float64Var(&req.RampRate, "rate", 0, "jobs per second to come back with, each flow of a tenant, doubled every 10s; 0: as the quota allows")
	registerThrow(cmd, &breakGlass)
	return cmd
}

// registerThrow adds what hold and resume have in common.
func registerThrow(cmd *cobra.Command, breakGlass *bool) {
	cmd.Flags().BoolVar(breakGlass, "break-glass", false, "write the control log directly: for when automation is dead")
	cmd.Flags().Bool("yes", false, "ask nothing; these verbs never ask, it is for scripts that use all of them alike")
	cmd.MarkFlagRequired("reason")
}

func listSwitches() *cobra.Command {
	var o options
	var filter string
	cmd := &cobra.Command{
		Use: "list", Short: "list the switches in force", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.call(cmd, func(ctx context.Context, conn *grpc.ClientConn) error {
				all := &automationv1.ListSwitchesResponse{}
				for token := ""; ; {
					page, err := automationv1.NewSwitchServiceClient(conn).ListSwitches(ctx, &automationv1.ListSwitchesRequest{
						PageSize: pageSize, PageToken: token, Filter: filter,
					})
					if err != nil {
						return err
					}
					all.Switches = append(all.Switches, page.GetSwitches()...)
					if token = page.GetNextPageToken(); token == "" {
						break
					}
				}
				return printList(&o, cmd.OutOrStdout(), all, all.GetSwitches(), switchRows(all.GetSwitches()))
			})
		},
	}
	o.register(cmd)
	cmd.Flags().StringVar(&filter, "filter", "", "only sources or tenants that begin so")
	return cmd
}

// switchRows is the table of switches.
func switchRows(list []*automationv1.Switch) func(io.Writer) {
	return func(w io.Writer) {
		fmt.Fprintln(w, "SCOPE\tVERB\tUNTIL\tACTOR\tSINCE\tREASON")
		for _, s := range list {
			rowf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", scopeText(s.GetScope()), plain(s.GetVerb().String()), until(s), s.GetActor(),
				s.GetAt().AsTime().Local().Format(time.DateTime), s.GetReason())
		}
	}
}

func until(s *automationv1.Switch) string {
	if s.GetUntil() == nil {
		return "resumed"
	}
	return s.GetUntil().AsTime().Local().Format(time.DateTime)
}

// thrownRows says what a switch did and proves it.
func thrownRows(done string, s *automationv1.Switch, p *automationv1.Proof, pre *automationv1.Preview) func(io.Writer) {
	return func(w io.Writer) {
		if s == nil {
			rowf(w, "would touch\t%d waiting jobs, %d bytes, of %s\n", pre.GetJobs(), pre.GetBytes(), strings.Join(pre.GetSources(), ", "))
			rowf(w, "etag\t%s\n", pre.GetEtag())
			return
		}
		rowf(w, "%s\t%s\n", done, scopeText(s.GetScope()))
		if done == "held" {
			rowf(w, "until\t%s\n", until(s))
		}
		if s.GetRampRate() > 0 {
			each := ""
			if s.GetScope().GetTenant() != "" {
				each = " for each of its flows"
			}
			rowf(w, "comes back\tat %g jobs/s%s, doubled every 10s\n", s.GetRampRate(), each)
		}
		rowf(w, "waiting\t%d jobs, %d bytes\n", pre.GetJobs(), pre.GetBytes())
		rowf(w, "running\t%d\n", p.GetRunning())
		rowf(w, "sequence\t%d\n", p.GetSequence())
		rowf(w, "took\t%s\n", p.GetTook().AsDuration().Round(time.Millisecond))
		for _, a := range p.GetAcks() {
			rowf(w, "acknowledged\t%s at %s\n", a.GetReplica(), a.GetAppliedAt().AsTime().Local().Format("15:04:05.000"))
		}
		for _, name := range p.GetSilent() {
			rowf(w, "silent\t%s\n", name)
		}
	}
}

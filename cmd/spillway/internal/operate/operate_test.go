package operate

import (
	"bytes"
	"context"
	stdjson "encoding/json"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/locate"
	"github.com/spillway/spillway/pkg/rpc"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

// desk is automation as these commands meet it: it remembers what was asked and answers by name.
type desk struct {
	automationv1.UnimplementedSourceServiceServer
	automationv1.UnimplementedSourceAdminServiceServer
	automationv1.UnimplementedSwitchServiceServer
	asked proto.Message
}

// refusals are what the desk answers for these names.
var refusals = map[string]*rpc.Error{
	"unknown": {Code: codes.NotFound, Reason: rpc.ReasonUnknownSource, Message: "source is not registered"},
	"invalid": {Code: codes.InvalidArgument, Reason: rpc.ReasonInvalid, Message: "the source is invalid",
		Violations: []rpc.Violation{{Field: "source.weight", Description: "must be 1 to 1,000"}, {Field: "source.types", Description: "must be 1 to 8 types"}}},
	"denied": {Code: codes.PermissionDenied, Reason: rpc.ReasonNotAllowed, Message: "not allowed"},
	"busy":   {Code: codes.FailedPrecondition, Reason: rpc.ReasonHasBacklog, Message: "the source has jobs that wait"},
	"stale":  {Code: codes.Aborted, Reason: rpc.ReasonStaleRevision, Message: "changed"},
	"away":   {Code: codes.Unavailable, Reason: rpc.ReasonNotConfirmed, Message: "not confirmed", Metadata: map[string]string{"replicas": "enqueue-0"}},
}

func (d *desk) RegisterSource(_ context.Context, r *automationv1.RegisterSourceRequest) (*automationv1.RegisterSourceResponse, error) {
	d.asked = r
	return &automationv1.RegisterSourceResponse{Source: r.GetSource()}, refusals[r.GetSource().GetName()].Err()
}

func (d *desk) UpdateSource(_ context.Context, r *automationv1.UpdateSourceRequest) (*automationv1.UpdateSourceResponse, error) {
	d.asked = r
	return &automationv1.UpdateSourceResponse{Source: r.GetSource()}, nil
}

func (d *desk) DeleteSource(_ context.Context, r *automationv1.DeleteSourceRequest) (*automationv1.DeleteSourceResponse, error) {
	d.asked = r
	return &automationv1.DeleteSourceResponse{}, refusals[r.GetName()].Err()
}

func (d *desk) ListSources(_ context.Context, r *automationv1.ListSourcesRequest) (*automationv1.ListSourcesResponse, error) {
	if r.GetPageToken() == "" {
		return &automationv1.ListSourcesResponse{Sources: []*automationv1.Source{{Name: "a"}, {Name: "b"}}, NextPageToken: "2"}, nil
	}
	return &automationv1.ListSourcesResponse{Sources: []*automationv1.Source{{Name: "c"}}}, nil
}

func (d *desk) Hold(_ context.Context, r *automationv1.HoldRequest) (*automationv1.HoldResponse, error) {
	d.asked = r
	return &automationv1.HoldResponse{
		Switch: &automationv1.Switch{Scope: r.GetSpec().GetScope(), Verb: automationv1.Verb_VERB_HOLD},
		Proof:  &automationv1.Proof{Sequence: 12, Acks: []*automationv1.Ack{{Replica: "scheduler-0"}}, Silent: []string{"scheduler-1"}},
	}, refusals[r.GetSpec().GetScope().GetSource()].Err()
}

func (d *desk) Resume(_ context.Context, r *automationv1.ResumeRequest) (*automationv1.ResumeResponse, error) {
	d.asked = r
	return &automationv1.ResumeResponse{Switch: &automationv1.Switch{Scope: r.GetScope()}}, nil
}

// open starts a desk and points the environment at it.
func open(t *testing.T) *desk {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d, server := &desk{}, grpc.NewServer()
	automationv1.RegisterSourceServiceServer(server, d)
	automationv1.RegisterSourceAdminServiceServer(server, d)
	automationv1.RegisterSwitchServiceServer(server, d)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(locate.AutomationVariable, listener.Addr().String())
	t.Setenv(locate.TokenFileVariable, token)
	return d
}

func run(t *testing.T, line string) (string, error) {
	t.Helper()
	root := &cobra.Command{SilenceErrors: true, SilenceUsage: true}
	root.AddCommand(Source(), Switch())
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetArgs(append(strings.Fields(line), "--data-dir", t.TempDir()))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestSourceFlags(t *testing.T) {
	d := open(t)
	if _, err := run(t, "source register crm --type a --type b --rate 5 --backlog-jobs 0 --priority low --max-priority critical --overflow reject --runaway hold --weight 7"); err != nil {
		t.Fatal(err)
	}
	s := d.asked.(*automationv1.RegisterSourceRequest).GetSource()
	if q := s.GetQuota(); q.GetRate() != 5 || q.BacklogJobs != nil || q.GetAcceptRate() != 20_000 || q.GetBacklogBytes() != 1<<30 || q.Concurrency != nil {
		t.Errorf("quota %v", q)
	}
	if !slices.Equal(s.GetTypes(), []string{"a", "b"}) || s.GetDefaultPriority() != jobv1.Priority_PRIORITY_LOW || s.GetMaxPriority() != jobv1.Priority_PRIORITY_CRITICAL ||
		s.GetOverflow() != automationv1.Overflow_OVERFLOW_REJECT || s.GetRunaway().GetAction() != automationv1.RunawayAction_RUNAWAY_ACTION_HOLD || s.GetWeight() != 7 ||
		!slices.Equal(s.GetPrincipals(), []string{"*"}) {
		t.Errorf("source %v", s)
	}
	if _, err := run(t, "source update crm --rate 0 --weight 5 --principal anna --etag 3 --reason why --request-id u1"); err != nil {
		t.Fatal(err)
	}
	u := d.asked.(*automationv1.UpdateSourceRequest)
	slices.Sort(u.GetUpdateMask().GetPaths())
	if !slices.Equal(u.GetUpdateMask().GetPaths(), []string{"principals", "quota.rate", "weight"}) || u.GetSource().GetQuota().Rate != nil || u.GetEtag() != "3" ||
		u.GetReason() != "why" || u.GetRequestId() != "u1" || !slices.Equal(u.GetSource().GetPrincipals(), []string{"anna"}) {
		t.Errorf("update %v", u)
	}
	if _, err := run(t, "source register crm --type a --publish-rate 5"); err != nil {
		t.Fatal(err)
	}
	if q := d.asked.(*automationv1.RegisterSourceRequest).GetSource().GetQuota(); q.GetPublishRate() != 5 || q.GetAcceptRate() != 20_000 {
		t.Errorf("quota %v", q)
	}
	if _, err := run(t, "source update crm --publish-rate 0.5"); err != nil { // what stops a source that floods notifications
		t.Fatal(err)
	}
	u = d.asked.(*automationv1.UpdateSourceRequest)
	if !slices.Equal(u.GetUpdateMask().GetPaths(), []string{"quota.publish_rate"}) || u.GetSource().GetQuota().GetPublishRate() != 0.5 {
		t.Errorf("update %v", u)
	}
	for path := range pathOf { // every setting has its path
		if updateSource().Flags().Lookup(path) == nil {
			t.Errorf("no flag --%s", path)
		}
	}
}

func TestSwitchFlags(t *testing.T) {
	d := open(t)
	for text, want := range map[string]*automationv1.Scope{
		"crm":       {Scope: &automationv1.Scope_Source{Source: "crm"}},
		"tenant:t1": {Scope: &automationv1.Scope_Tenant{Tenant: "t1"}},
		"crm/t1":    {Scope: &automationv1.Scope_Flow{Flow: &automationv1.Flow{Source: "crm", Tenant: "t1"}}},
		"crm/":      {Scope: &automationv1.Scope_Flow{Flow: &automationv1.Flow{Source: "crm"}}},
	} {
		if _, err := run(t, "switch hold "+text+" --reason r"); err != nil {
			t.Fatal(err)
		}
		spec := d.asked.(*automationv1.HoldRequest).GetSpec()
		if !proto.Equal(spec.GetScope(), want) || scopeText(want) != text || spec.GetTtl() != nil || spec.GetReason() != "r" {
			t.Errorf("%s: %v", text, spec)
		}
	}
	if _, err := run(t, "switch hold crm --reason r --ttl 5m --preview --preview-etag e --request-id h1 --yes"); err != nil {
		t.Fatal(err)
	}
	spec := d.asked.(*automationv1.HoldRequest).GetSpec()
	if spec.GetTtl().AsDuration() != 5*time.Minute || !spec.GetValidateOnly() || spec.GetPreviewEtag() != "e" || spec.GetRequestId() != "h1" {
		t.Errorf("spec %v", spec)
	}
	if _, err := run(t, "switch resume crm --reason r --rate 10"); err != nil || d.asked.(*automationv1.ResumeRequest).GetRampRate() != 10 {
		t.Errorf("resume %v, %v", d.asked, err)
	}
}

// TestOutput: json is the answer with proto field names and unset fields, lists are one object; jsonl is one item a line.
func TestOutput(t *testing.T) {
	open(t)
	out, err := run(t, "switch hold crm --reason r -o json")
	var answer struct {
		Switch struct {
			RampRate *float64 `json:"ramp_rate"`
		}
		Proof struct {
			Sequence string
			Silent   []string
			Running  string
		}
		Preview *struct{}
	}
	if err != nil || stdjson.Unmarshal([]byte(out), &answer) != nil || answer.Proof.Sequence != "12" || answer.Proof.Running != "0" || answer.Switch.RampRate == nil ||
		!slices.Equal(answer.Proof.Silent, []string{"scheduler-1"}) {
		t.Errorf("%v: %s", err, out)
	}
	out, err = run(t, "source list -o json")
	var list struct {
		Sources []struct{ Name string }
		Next    *string `json:"next_page_token"`
	}
	if err != nil || stdjson.Unmarshal([]byte(out), &list) != nil || len(list.Sources) != 3 || list.Next == nil || *list.Next != "" {
		t.Errorf("%v: %s", err, out)
	}
	out, err = run(t, "source list -o jsonl")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); err != nil || len(lines) != 3 || !stdjson.Valid([]byte(lines[2])) {
		t.Errorf("%v: %s", err, out)
	}
	out, err = run(t, "source list")
	if err != nil || strings.Count(out, "\n") != 4 || !strings.HasPrefix(out, "NAME") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestTextFromTheLogIsVisible: what an older version let into the control log neither draws rows nor drives the terminal.
func TestTextFromTheLogIsVisible(t *testing.T) {
	const reason = "a\nb\x1b[31mred\tc\u009bd\u202ee\U000e0001 Überlauf"
	list := []*automationv1.Switch{{Scope: scope("crm/t\x1b"), Actor: "x\ny", Reason: reason}}
	clean := func(name, out string, lines int) {
		t.Helper()
		if strings.Count(out, "\n") != lines || strings.ContainsFunc(out, func(r rune) bool { return r != '\n' && hidden(r) }) || !strings.Contains(out, "Überlauf") {
			t.Errorf("%s: %q", name, out)
		}
	}
	var out bytes.Buffer
	o := options{output: table}
	if err := printList(&o, &out, &automationv1.ListSwitchesResponse{Switches: list}, list, switchRows(list)); err != nil {
		t.Fatal(err)
	}
	clean(table, out.String(), 2)
	out.Reset()
	o.output = jsonl
	if err := printList(&o, &out, &automationv1.ListSwitchesResponse{Switches: list}, list, nil); err != nil {
		t.Fatal(err)
	}
	clean(jsonl, out.String(), 1)
	var back struct{ Reason string }
	if err := stdjson.Unmarshal(out.Bytes(), &back); err != nil || back.Reason != reason {
		t.Errorf("%v: %q", err, back.Reason)
	}
	clean("refusal", explain((&rpc.Error{Code: codes.Aborted, Message: reason}).Err()).Error(), 0)
}

func TestExitCodes(t *testing.T) {
	open(t)
	for line, want := range map[string]int{
		"source register unknown --type t":                 exit.NotFound,
		"source register invalid --type t":                 exit.Usage,
		"source register denied --type t":                  exit.Refused,
		"source delete busy":                               exit.Precondition,
		"source delete stale":                              exit.Precondition,
		"switch hold away --reason r":                      exit.Unavailable,
		"source register crm --type t --priority urgent":   exit.Usage,
		"source register crm --type t --overflow overflow": exit.Usage,
		"source update crm":                                exit.Usage,
		"source list -o yaml":                              exit.Usage,
		"switch hold crm --reason r --break-glass":         exit.Unavailable, // no broker is known
		"source register crm --type t --validate-only":     exit.OK,
	} {
		if _, err := run(t, line); exit.Code(err) != want {
			t.Errorf("%s: exit %d (%v), want %d", line, exit.Code(err), err, want)
		}
	}
	if _, err := run(t, "source register invalid --type t"); err == nil || err.Error() != "source.weight: must be 1 to 1,000; source.types: must be 1 to 8 types (INVALID)" {
		t.Errorf("got %v", err)
	}
	if _, err := run(t, "switch hold away --reason r"); err == nil || err.Error() != "not confirmed; silent: enqueue-0 (NOT_CONFIRMED)" {
		t.Errorf("got %v", err)
	}
	t.Setenv(locate.AutomationVariable, "")
	if _, err := run(t, "source list"); exit.Code(err) != exit.Unavailable || !strings.Contains(err.Error(), "spillway dev") {
		t.Errorf("without anything: %v", err)
	}
}

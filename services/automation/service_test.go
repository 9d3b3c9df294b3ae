package automation_test

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/rpc"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/automation"
)

const (
	scheduler = logv1.ReplicaKind_REPLICA_KIND_SCHEDULER
	enqueue   = logv1.ReplicaKind_REPLICA_KIND_ENQUEUE
)

func TestLifeOfASource(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		s := w.register("crm")
		if q := s.GetQuota(); q.GetAcceptRate() != 20_000 || q.GetBacklogJobs() != 1_000_000 || q.GetBacklogBytes() != 1<<30 || q.Rate != nil || q.Concurrency != nil {
			t.Errorf("default quota: %v", q)
		}
		if s.GetState() != automationv1.State_STATE_ACTIVE || s.GetEtag() == "" || s.GetWeight() != 100 || s.GetCreateTime() == nil ||
			s.GetRunTimeout().AsDuration() != 5*time.Minute || s.GetRetry().GetMaxAttempts() != 10 {
			t.Errorf("registered: %v", s)
		}
		if again := w.register("crm"); !proto.Equal(again, s) {
			t.Errorf("registered again: %v", again)
		}
		_, err := w.admin.RegisterSource(w.ctx, &automationv1.RegisterSourceRequest{Source: &automationv1.Source{Name: "crm", Types: []string{"other"}}})
		refused(t, "another crm", err, rpc.ReasonStaleRevision)

		rate := 5.0
		update := &automationv1.UpdateSourceRequest{
			Source:     &automationv1.Source{Name: "crm", Quota: &automationv1.Quota{Rate: &rate}, Weight: 7},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"quota.rate", "quota.backlog_jobs"}}, Etag: s.GetEtag(), RequestId: "u1",
		}
		up, err := w.admin.UpdateSource(w.ctx, update)
		if err != nil {
			t.Fatal(err)
		}
		if u := up.GetSource(); u.GetQuota().GetRate() != 5 || u.GetQuota().BacklogJobs != nil || u.GetQuota().GetAcceptRate() != 20_000 || u.GetWeight() != 100 ||
			u.GetEtag() == s.GetEtag() || u.GetCreateTime().AsTime() != s.GetCreateTime().AsTime() {
			t.Errorf("updated: %v", u)
		}
		if again, err := w.admin.UpdateSource(w.ctx, update); err != nil || !proto.Equal(again, up) {
			t.Errorf("the same request again: %v, %v", again, err)
		}
		update.RequestId = "u2"
		_, err = w.admin.UpdateSource(w.ctx, update)
		refused(t, "an old etag", err, rpc.ReasonStaleRevision)

		got, err := w.sources.GetSource(w.ctx, &automationv1.GetSourceRequest{Name: "crm"})
		if err != nil || !proto.Equal(got.GetSource(), up.GetSource()) {
			t.Errorf("got %v, %v", got, err)
		}
		if _, err := w.admin.DeleteSource(w.ctx, &automationv1.DeleteSourceRequest{Name: "crm", RequestId: "d1"}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.admin.DeleteSource(w.ctx, &automationv1.DeleteSourceRequest{Name: "crm", RequestId: "d1"}); err != nil {
			t.Errorf("the same delete again: %v", err)
		}
		_, err = w.sources.GetSource(w.ctx, &automationv1.GetSourceRequest{Name: "crm"})
		refused(t, "deleted", err, rpc.ReasonUnknownSource)
		_, err = w.admin.UpdateSource(w.ctx, update)
		refused(t, "update of what is deleted", err, rpc.ReasonUnknownSource)
	})
}

func TestSourceIsJudgedWhole(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		nan, burst := math.NaN(), int32(-1)
		w.register("crm")
		_, err := w.admin.UpdateSource(w.ctx, &automationv1.UpdateSourceRequest{
			Source: &automationv1.Source{
				Name: "crm", Quota: &automationv1.Quota{Rate: &nan, Burst: &burst}, Weight: 2000, RunTimeout: durationpb.New(-time.Second),
			},
		})
		e := refused(t, "update", err, rpc.ReasonInvalid)
		var fields []string
		for _, v := range e.Violations {
			fields = append(fields, v.Field)
		}
		if want := []string{"source.quota.rate", "source.quota.burst", "source.weight", "source.run_timeout"}; !slices.Equal(fields, want) {
			t.Errorf("violations of %v, want %v", fields, want)
		}
		_, err = w.admin.RegisterSource(w.ctx, &automationv1.RegisterSourceRequest{Source: &automationv1.Source{
			Name: "bad*", Types: []string{"a", "a"}, Quota: &automationv1.Quota{Rate: &nan},
		}})
		if e := refused(t, "register", err, rpc.ReasonInvalid); len(e.Violations) < 3 {
			t.Errorf("violations %v", e.Violations)
		}
		for _, path := range []string{"name", "revision", "quota.nothing", "types.0", "", "run_timeout.seconds", "etag"} {
			_, err := w.admin.UpdateSource(w.ctx, &automationv1.UpdateSourceRequest{
				Source: &automationv1.Source{Name: "crm"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}},
			})
			refused(t, "mask "+path, err, rpc.ReasonInvalid)
		}
		before := w.state.State().Sequence()
		if _, err := w.admin.RegisterSource(w.ctx, &automationv1.RegisterSourceRequest{ValidateOnly: true, Source: &automationv1.Source{Name: "new", Types: []string{"a"}}}); err != nil {
			t.Error(err)
		}
		if _, err := w.admin.DeleteSource(w.ctx, &automationv1.DeleteSourceRequest{ValidateOnly: true, Name: "crm"}); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if got := w.state.State().Sequence(); got != before {
			t.Errorf("judging wrote %d records", got-before)
		}
	})
}

func TestListSources(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		for i := range 5 {
			w.register(fmt.Sprintf("crm-%d", i))
		}
		w.register("billing")
		var names []string
		req := &automationv1.ListSourcesRequest{PageSize: 2, Filter: "crm-"}
		for pages := 1; ; pages++ {
			res, err := w.sources.ListSources(w.ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range res.GetSources() {
				names = append(names, s.GetName())
			}
			if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
				if pages != 3 {
					t.Errorf("%d pages", pages)
				}
				break
			}
		}
		if strings.Join(names, " ") != "crm-0 crm-1 crm-2 crm-3 crm-4" {
			t.Errorf("got %v", names)
		}
		_, err := w.sources.ListSources(w.ctx, &automationv1.ListSourcesRequest{PageToken: "?"})
		refused(t, "a bad token", err, rpc.ReasonInvalid)
	})
}

func TestHoldIsProven(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("crm")
		s0, s1 := w.peer(scheduler, "scheduler-0", 30*time.Millisecond), w.peer(scheduler, "scheduler-1", 0)
		w.peer(enqueue, "enqueue-0", 0)
		s0.running.Store(2)
		s1.running.Store(3)
		began := time.Now()
		res, err := w.switches.Hold(w.ctx, holdOf("crm"))
		if err != nil {
			t.Fatal(err)
		}
		if got := acked(res.GetProof()); got != "[enqueue-0 scheduler-1 scheduler-0] silent " && got != "[scheduler-1 enqueue-0 scheduler-0] silent " {
			t.Errorf("acknowledged: %s", got)
		}
		if took := time.Since(began); took < 30*time.Millisecond || took > 60*time.Millisecond || res.GetProof().GetTook().AsDuration() > took {
			t.Errorf("took %v, says %v", took, res.GetProof().GetTook().AsDuration())
		}
		if res.GetProof().GetRunning() != 5 || res.GetPreview().GetRunning() != 5 {
			t.Errorf("running %d", res.GetProof().GetRunning())
		}
		sw := res.GetSwitch()
		if sw.GetSequence() != res.GetProof().GetSequence() || sw.GetActor() != "anna" || sw.GetUntil().AsTime().Sub(sw.GetAt().AsTime()) != time.Hour {
			t.Errorf("switch %v", sw)
		}
		for _, p := range []*peer{s0, s1} { // what the answer promises
			if e := p.follow.State().Effective("crm", "", time.Now()); !e.Held || p.applied.Load() < sw.GetSequence() {
				t.Errorf("%s does not hold", p.name)
			}
		}
		got, _ := w.sources.GetSource(w.ctx, &automationv1.GetSourceRequest{Name: "crm"})
		if got.GetSource().GetState() != automationv1.State_STATE_HELD {
			t.Errorf("state %v", got.GetSource().GetState())
		}
		list, err := w.switches.ListSwitches(w.ctx, &automationv1.ListSwitchesRequest{})
		if err != nil || len(list.GetSwitches()) != 1 || !proto.Equal(list.GetSwitches()[0], sw) {
			t.Errorf("listed %v, %v", list, err)
		}
		up, err := w.switches.Resume(w.ctx, &automationv1.ResumeRequest{Scope: onSource("crm"), Reason: "mended", RampRate: 10})
		if err != nil || up.GetSwitch().GetVerb() != automationv1.Verb_VERB_RESUME || len(up.GetProof().GetAcks()) != 3 {
			t.Errorf("resume %v, %v", up, err)
		}
		state := s0.follow.State()
		if e, ramps := state.Effective("crm", "", time.Now()), state.Ramps(); e.Held || len(ramps) != 1 || ramps[0].GetRampRate() != 10 || ramps[0].GetAt() == nil {
			t.Errorf("after the resume: %+v, ramps %v", e, ramps)
		}
		if _, err := w.switches.Resume(w.ctx, &automationv1.ResumeRequest{Scope: onSource("crm"), Reason: "again"}); err != nil {
			t.Errorf("resume of what runs: %v", err)
		}
	})
}

// TestSilentReplicas: who is live and does not answer is waited for 500 ms, named, and does not make the answer wrong.
func TestSilentReplicas(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("crm")
		s0, s1, e0 := w.peer(scheduler, "scheduler-0", 0), w.peer(scheduler, "scheduler-1", 0), w.peer(enqueue, "enqueue-0", 0)
		s1.mute.Store(true)
		res, err := w.switches.Hold(w.ctx, holdOf("crm"))
		if err != nil {
			t.Fatal(err)
		}
		if got := acked(res.GetProof()); !strings.HasSuffix(got, "silent scheduler-1") || len(res.GetProof().GetAcks()) != 2 {
			t.Errorf("acknowledged: %s", got)
		}
		if took := res.GetProof().GetTook().AsDuration(); took < 500*time.Millisecond || took > 520*time.Millisecond {
			t.Errorf("took %v", took)
		}
		e0.mute.Store(true)
		if res, err = w.switches.Hold(w.ctx, holdOf("crm")); err != nil || !slices.Equal(res.GetProof().GetSilent(), []string{"enqueue-0", "scheduler-1"}) {
			t.Errorf("silent %v, %v", res.GetProof().GetSilent(), err)
		}
		s1.dead.Store(true)
		e0.dead.Store(true)
		time.Sleep(1500 * time.Millisecond) // a beat makes live for a second
		if res, err = w.switches.Hold(w.ctx, holdOf("crm")); err != nil || len(res.GetProof().GetSilent()) > 0 || res.GetProof().GetTook().AsDuration() > 50*time.Millisecond {
			t.Errorf("after their end: %v, %v", res, err)
		}
		_ = s0
	})
}

func TestHoldOrders(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("crm")
		hold := func(change func(*automationv1.HoldRequest)) (*automationv1.HoldResponse, error) {
			req := holdOf("crm")
			change(req)
			return w.switches.Hold(w.ctx, req)
		}
		for name, c := range map[string]struct {
			change func(*automationv1.HoldRequest)
			reason string
		}{
			"no reason":         {func(r *automationv1.HoldRequest) { r.Spec.Reason = "" }, rpc.ReasonInvalid},
			"no scope":          {func(r *automationv1.HoldRequest) { r.Spec.Scope = nil }, rpc.ReasonInvalid},
			"everything":        {func(r *automationv1.HoldRequest) { r.Spec.Scope = onSource("*") }, rpc.ReasonInvalid},
			"look-alike":        {func(r *automationv1.HoldRequest) { r.Spec.Scope = onSource("сrm") }, rpc.ReasonInvalid},
			"a path":            {func(r *automationv1.HoldRequest) { r.Spec.Scope = onSource("../crm") }, rpc.ReasonInvalid},
			"ttl and no end":    {func(r *automationv1.HoldRequest) { r.Spec.Ttl, r.Spec.UntilResumed = durationpb.New(1), true }, rpc.ReasonInvalid},
			"31 days":           {func(r *automationv1.HoldRequest) { r.Spec.Ttl = durationpb.New(31 * 24 * time.Hour) }, rpc.ReasonInvalid},
			"negative ttl":      {func(r *automationv1.HoldRequest) { r.Spec.Ttl = durationpb.New(-time.Second) }, rpc.ReasonInvalid},
			"cancelling":        {func(r *automationv1.HoldRequest) { r.CancelRunning = true }, rpc.ReasonInvalid},
			"an unknown source": {func(r *automationv1.HoldRequest) { r.Spec.Scope = onSource("nobody") }, rpc.ReasonUnknownSource},
			"a stale preview":   {func(r *automationv1.HoldRequest) { r.Spec.PreviewEtag = "1-x" }, rpc.ReasonStalePreview},
		} {
			_, err := hold(c.change)
			refused(t, name, err, c.reason)
		}
		before := w.state.State().Sequence()
		preview, err := hold(func(r *automationv1.HoldRequest) { r.Spec.ValidateOnly = true })
		if err != nil || preview.GetSwitch() != nil || preview.GetProof() != nil || !slices.Equal(preview.GetPreview().GetSources(), []string{"crm"}) {
			t.Errorf("preview %v, %v", preview, err)
		}
		if got := w.state.State().Sequence(); got != before {
			t.Errorf("refusals and previews wrote %d records", got-before)
		}
		forever, err := hold(func(r *automationv1.HoldRequest) {
			r.Spec.UntilResumed, r.Spec.PreviewEtag = true, preview.GetPreview().GetEtag()
		})
		if err != nil || forever.GetSwitch().GetUntil() != nil {
			t.Errorf("until resumed: %v, %v", forever, err)
		}
		minute, err := hold(func(r *automationv1.HoldRequest) { r.Spec.Ttl = durationpb.New(time.Minute) })
		if err != nil || time.Until(minute.GetSwitch().GetUntil().AsTime()) > time.Minute {
			t.Errorf("a minute: %v, %v", minute, err)
		}
		time.Sleep(61 * time.Second)
		list, _ := w.switches.ListSwitches(w.ctx, &automationv1.ListSwitchesRequest{})
		got, _ := w.sources.GetSource(w.ctx, &automationv1.GetSourceRequest{Name: "crm"})
		if len(list.GetSwitches()) > 0 || got.GetSource().GetState() != automationv1.State_STATE_ACTIVE {
			t.Errorf("after its time: %v, %v", list, got.GetSource().GetState())
		}
		after := w.state.State()
		if after.Sequence() != minute.GetSwitch().GetSequence()+1 {
			t.Errorf("%d records of an expired switch, want one note", after.Sequence()-minute.GetSwitch().GetSequence())
		}
	})
}

// TestRequestActsOnce: a repeated request is the first one; a replay after the switch has changed does not bring it back (S21).
func TestRequestActsOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("crm")
		w.register("billing")
		w.peer(scheduler, "scheduler-0", 0)
		req := holdOf("crm")
		req.Spec.RequestId = "h1"
		first, err := w.switches.Hold(w.ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		again, err := w.switches.Hold(w.ctx, req)
		if err != nil || !proto.Equal(again.GetSwitch(), first.GetSwitch()) || again.GetProof().GetSequence() != first.GetProof().GetSequence() {
			t.Errorf("again: %v, %v", again, err)
		}
		other := holdOf("billing")
		other.Spec.RequestId = "h1"
		_, err = w.switches.Hold(w.ctx, other)
		refused(t, "the id for another source", err, rpc.ReasonIdempotencyConflict)
		if _, err := w.switches.Resume(w.ctx, &automationv1.ResumeRequest{Scope: onSource("crm"), Reason: "mended"}); err != nil {
			t.Fatal(err)
		}
		_, err = w.switches.Hold(w.ctx, req)
		refused(t, "a replay", err, rpc.ReasonStaleRevision)
		if w.state.State().Effective("crm", "", time.Now()).Held {
			t.Error("the replay held the source again")
		}
	})
}

// TestTwoReplicas: the log decides between automation replicas, and both see the same.
func TestTwoReplicas(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.replica("automation-1")
		conn := w.dial("automation-1", rpc.RoleRead, rpc.RoleOperate, rpc.RoleAdmin)
		admins := []automationv1.SourceAdminServiceClient{w.admin, automationv1.NewSourceAdminServiceClient(conn)}
		s := w.register("crm")
		var running sync.WaitGroup
		var mu sync.Mutex
		reasons := map[string]int{}
		for i := range 8 {
			running.Go(func() {
				_, err := admins[i%2].UpdateSource(w.ctx, &automationv1.UpdateSourceRequest{
					Source: &automationv1.Source{Name: "crm", Weight: int32(i + 1)}, Etag: s.GetEtag(),
				})
				mu.Lock()
				defer mu.Unlock()
				reasons[rpc.ReasonOf(err)]++
			})
		}
		running.Wait()
		if reasons[""] != 1 || reasons[rpc.ReasonStaleRevision] != 7 {
			t.Errorf("with one etag: %v", reasons)
		}
		for i := range 8 { // without one every change is made, on what is there then
			running.Go(func() {
				if _, err := admins[i%2].RegisterSource(w.ctx, &automationv1.RegisterSourceRequest{Source: &automationv1.Source{Name: "new", Types: []string{"a"}}}); err != nil {
					t.Error(err)
				}
			})
		}
		running.Wait()
		time.Sleep(time.Second) // the test reads the log by itself
		if s, ok := w.state.State().Source("new"); !ok || s.GetCreateTime().AsTime() != s.GetUpdateTime().AsTime() {
			t.Errorf("registered more than once: %v", s)
		}
	})
}

func TestDeleteNeedsAnEmptySource(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("crm")
		s0 := w.peer(scheduler, "scheduler-0", 0)
		s0.marks.Store(&[]*logv1.SpillMark{{Source: "crm", Type: "tag", Tenant: "*", Lane: 1, BacklogJobs: 12, BacklogBytes: 3456}})
		time.Sleep(time.Second)
		_, err := w.admin.DeleteSource(w.ctx, &automationv1.DeleteSourceRequest{Name: "crm"})
		if e := refused(t, "delete", err, rpc.ReasonHasBacklog); e.Metadata["jobs"] != "12" {
			t.Errorf("metadata %v", e.Metadata)
		}
		res, err := w.switches.Hold(w.ctx, holdOf("crm"))
		if err != nil || res.GetPreview().GetJobs() != 12 || res.GetPreview().GetBytes() != 3456 {
			t.Errorf("preview %v, %v", res.GetPreview(), err)
		}
		s0.marks.Store(nil)
		time.Sleep(time.Second)
		if _, err := w.admin.DeleteSource(w.ctx, &automationv1.DeleteSourceRequest{Name: "crm"}); err != nil {
			t.Error(err)
		}
		if w.register("crm"); !w.state.State().Effective("crm", "", time.Now()).Held {
			t.Error("deleting and registering anew has shaken off the hold")
		}
	})
}

// TestRoles: read changes nothing, operate throws switches, admin changes sources (S20).
func TestRoles(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("crm")
		for _, role := range []rpc.Role{rpc.RoleRead, rpc.RoleOperate, rpc.RoleAdmin, rpc.RoleEnqueue, rpc.RoleWorker, rpc.RolePublish} {
			conn := w.dial("automation-0", role)
			_, get := automationv1.NewSourceServiceClient(conn).GetSource(w.ctx, &automationv1.GetSourceRequest{Name: "crm"})
			_, list := automationv1.NewSwitchServiceClient(conn).ListSwitches(w.ctx, &automationv1.ListSwitchesRequest{})
			_, hold := automationv1.NewSwitchServiceClient(conn).Hold(w.ctx, holdOf("crm"))
			_, change := automationv1.NewSourceAdminServiceClient(conn).UpdateSource(w.ctx, &automationv1.UpdateSourceRequest{Source: &automationv1.Source{Name: "crm", Weight: 5}})
			for _, c := range []struct {
				what string
				err  error
				may  bool
			}{{"get", get, role == rpc.RoleRead}, {"list", list, role == rpc.RoleRead}, {"hold", hold, role == rpc.RoleOperate}, {"update", change, role == rpc.RoleAdmin}} {
				if may := status.Code(c.err) != codes.PermissionDenied; may != c.may {
					t.Errorf("%s may %s: %v", role, c.what, c.err)
				}
			}
		}
	})
}

// TestBrokerAway: no answer says OK while the log cannot be written, and what may have been written says so.
func TestBrokerAway(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("crm")
		w.peer(scheduler, "scheduler-0", 0)
		w.broker.Stop()
		began := time.Now()
		_, err := w.switches.Hold(w.ctx, holdOf("crm"))
		if status.Code(err) != codes.Unavailable || rpc.RetryAfter(err) == 0 || time.Since(began) > 4*time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		w.broker.Resume()
		time.Sleep(3 * time.Second)
		req := holdOf("crm")
		req.Spec.RequestId = "h1"
		// The broker writes the record and loses the answer: the producer writes again, the fold takes one.
		w.broker.Fault(kafkatest.Produce, topics.Control(), 7, 1)
		res, err := w.switches.Hold(w.ctx, req)
		if err != nil || len(res.GetProof().GetAcks()) != 1 {
			t.Fatalf("got %v, %v", res, err)
		}
		if again, err := w.switches.Hold(w.ctx, req); err != nil || !proto.Equal(again.GetSwitch(), res.GetSwitch()) {
			t.Errorf("again: %v, %v", again, err)
		}
	})
}

// TestFreshStart: a replica that has not watched status for a second does not call a switch proven before no scheduler can grant any more.
func TestFreshStart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("crm")
		w.broker.Stop() // its view breaks
		time.Sleep(3 * time.Second)
		w.broker.Resume()
		ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
		defer cancel()
		for {
			res, err := w.switches.Hold(ctx, holdOf("crm"))
			if status.Code(err) == codes.Unavailable {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if took := res.GetProof().GetTook().AsDuration(); took < 500*time.Millisecond {
				t.Errorf("proven after %v by nobody's acknowledgement", took)
			}
			return
		}
	})
}

// TestBreakGlass: with every automation replica dead a switch is thrown, proven and named in the audit; what automation had thrown stays.
func TestBreakGlass(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("crm")
		w.register("billing")
		s0 := w.peer(scheduler, "scheduler-0", 0)
		if _, err := w.switches.Hold(w.ctx, holdOf("billing")); err != nil {
			t.Fatal(err)
		}
		w.kill()
		time.Sleep(5 * time.Second)
		if _, err := w.switches.Hold(w.ctx, holdOf("crm")); status.Code(err) != codes.Unavailable {
			t.Errorf("automation is dead, and answers %v", err)
		}
		access := automation.Access{
			Log: slog.New(slog.DiscardHandler), MACKey: macKey, Prefix: topics.Prefix, Actor: "break-glass:root",
			Kafka: func(id string) (*kafka.Client, error) { return kafka.New(w.broker.Config(id, topics.All()...)) },
		}
		began := time.Now()
		err := automation.BreakGlass(w.ctx, access, func(ctx context.Context, s automationv1.SwitchServiceServer) error {
			res, err := s.Hold(ctx, holdOf("crm"))
			if err != nil {
				return err
			}
			if acked(res.GetProof()) != "[scheduler-0] silent " || res.GetSwitch().GetActor() != "break-glass:root" {
				t.Errorf("got %v", res)
			}
			_, err = s.Hold(ctx, holdOf("*"))
			refused(t, "everything", err, rpc.ReasonInvalid)
			return nil
		})
		if err != nil || time.Since(began) > time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		for _, name := range []string{"crm", "billing"} {
			if !s0.follow.State().Effective(name, "", time.Now()).Held {
				t.Errorf("%s is not held", name)
			}
		}
		access.MACKey = []byte("somebody else's key, as long as ours")
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
		defer cancel()
		err = automation.BreakGlass(ctx, access, func(ctx context.Context, s automationv1.SwitchServiceServer) error {
			_, err := s.Resume(ctx, &automationv1.ResumeRequest{Scope: onSource("crm"), Reason: "stolen"})
			return err
		})
		if time.Sleep(time.Second); err == nil || !s0.follow.State().Effective("crm", "", time.Now()).Held {
			t.Errorf("a stranger resumed it: %v", err)
		}
	})
}

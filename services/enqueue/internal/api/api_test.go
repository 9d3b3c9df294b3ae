package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/rpc"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/enqueue/internal/core"
)

// Every reason of the core has a code, and only the codes that the contract calls definite refuse for certain.
func TestEveryReasonHasACode(t *testing.T) {
	open := []core.Reason{core.KeyExpired, core.FateUnknown, core.BrokerUnavailable}
	for _, reason := range core.Reasons() {
		code, ok := codeOf[reason]
		if !ok {
			t.Errorf("%s has no code", reason)
		}
		if isOpen := code == codes.Aborted || code == codes.Unavailable; isOpen != slices.Contains(open, reason) {
			t.Errorf("%s is answered with %s", reason, code)
		}
	}
	if len(codeOf) != len(core.Reasons()) {
		t.Error("a code for a reason that is not listed")
	}
}

// taker accepts everything and keeps it.
type taker struct {
	caller core.Caller
	jobs   []core.Job
	refuse map[string]*core.Refusal // by source
}

func (p *taker) Publish(_ context.Context, caller core.Caller, jobs []core.Job, judged func()) []core.Result {
	judged()
	p.caller, p.jobs = caller, append(p.jobs, jobs...)
	results := make([]core.Result, len(jobs))
	for i, j := range jobs {
		results[i] = core.Result{Refusal: p.refuse[j.Source], ID: "id-" + j.Source, Verdict: core.Spilled, Home: core.Home{Topic: "jobs.critical", Partition: 4095, Offset: 1 << 62}}
	}
	return results
}

func spec(source string) *jobv1.JobSpec { return &jobv1.JobSpec{Source: source, Type: "tag"} }

func TestBatchIsJudgedItemByItem(t *testing.T) {
	p := &taker{refuse: map[string]*core.Refusal{
		"full": {Reason: core.BacklogFull, Message: "full", Retry: time.Second, Quota: "backlog_jobs"},
	}}
	h := &Handler{publisher: p}
	ctx := rpc.WithCaller(context.Background(), rpc.Caller{Subject: "crm", Types: []string{"t*"}})
	resp, err := h.EnqueueBatch(ctx, &enqueuev1.EnqueueBatchRequest{Jobs: []*jobv1.JobSpec{spec("a"), spec("B A D"), spec("full"), spec("c")}})
	if err != nil {
		t.Fatal(err)
	}
	if p.caller.Subject != "crm" || !slices.Equal(p.caller.Types, []string{"t*"}) || p.caller.Sources != nil {
		t.Errorf("caller %+v", p.caller)
	}
	var got []string
	for _, item := range resp.GetItems() {
		if item.GetOk() != nil {
			got = append(got, item.GetOk().GetJobId())
			continue
		}
		got = append(got, rpc.FromStatus(item.GetError()).Reason)
	}
	if want := []string{"id-a", "INVALID", "BACKLOG_FULL", "id-c"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	refusal := rpc.FromStatus(resp.GetItems()[2].GetError())
	if refusal.Retry != time.Second || len(refusal.Quota) != 1 || refusal.Quota[0].Subject != "source:full" {
		t.Errorf("refusal %+v", refusal)
	}
	if r := resp.GetItems()[0].GetOk().GetReceipt(); len(r) == 0 || len(r) > 64 {
		t.Errorf("receipt %q has %d bytes", r, len(r))
	}
}

func TestBatchTooLarge(t *testing.T) {
	big := spec("a")
	big.Payload = make([]byte, maxBatchBytes)
	_, err := (&Handler{publisher: &taker{}}).EnqueueBatch(context.Background(), &enqueuev1.EnqueueBatchRequest{Jobs: []*jobv1.JobSpec{big}})
	if status.Code(err) != codes.InvalidArgument || rpc.ReasonOf(err) != "INVALID" {
		t.Error(err)
	}
}

// The record is what the caller wrote, with what acceptance adds, and the scanner of the schedulers reads it.
func TestRecord(t *testing.T) {
	in := &jobv1.JobSpec{
		Source: "crm-autotag", Tenant: "t1", Type: "tag", Payload: []byte("payload"), IdempotencyKey: "k", Depth: 3, MaxAttempts: 4,
		RunTimeout: durationpb.New(time.Minute), NotBefore: timestamppb.New(time.Unix(1_800_000_000, 5)), Labels: map[string]string{"a": "b"},
	}
	in.ProtoReflect().SetUnknown([]byte{0xa0, 0x06, 0x01}) // field 100: a later release's
	job, refusal := fromSpec(proto.CloneOf(in))
	if refusal != nil {
		t.Fatal(refusal)
	}
	id := envelope.KeyedJobID("crm-autotag", "k", 3)
	stamp := core.Stamp{ID: id.String(), Priority: core.Low, AcceptedAt: time.Unix(1_700_000_000, 7).UTC(), ExpiresAt: time.Unix(1_900_000_000, 0).UTC(), Replica: "enqueue-0"}
	value, err := job.Record.Encode(stamp)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(value)) > job.Bytes {
		t.Errorf("the record has %d bytes, %d were reckoned", len(value), job.Bytes)
	}
	out := &jobv1.Job{}
	if err := proto.Unmarshal(value, out); err != nil {
		t.Fatal(err)
	}
	in.Priority = jobv1.Priority_PRIORITY_LOW
	sum := sha256.Sum256([]byte("payload"))
	want := &jobv1.Job{Id: id.String(), Spec: in, AcceptedAt: timestamppb.New(stamp.AcceptedAt), ExpiresAt: timestamppb.New(stamp.ExpiresAt), Depth: 3, PayloadSha256: sum[:], AcceptedBy: "enqueue-0"}
	if !proto.Equal(out, want) {
		t.Errorf("got  %v\nwant %v", out, want)
	}
	f, err := envelope.Scan(value)
	if err != nil || f.ID != id || f.Source != "crm-autotag" || f.Priority != int32(jobv1.Priority_PRIORITY_LOW) || !f.AcceptedAt.Equal(stamp.AcceptedAt) || !f.Keyed {
		t.Errorf("scanned %+v, %v", f, err)
	}
}

// The check of a batch's items accepts what the rules in job.proto accept, less ids of parents that are none.
func FuzzCheckAgreesWithProto(f *testing.F) {
	validator, err := protovalidate.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("crm", "t1", "tag", int32(30), "text/plain", "key", int64(5), int32(0), int64(5), int32(5), int64(60), int32(0), int32(3), int32(2), "label", "value", 1)
	f.Add("Crm", "t\x00", "", int32(31), "ü", strings.Repeat("k", 129), int64(-1), int32(-1), int64(-1), int32(0), int64(0), int32(0), int32(-1), int32(101), "A", "\n", 9)
	f.Add("a", "", "b", int32(0), "", "", int64(253402300800), int32(0), int64(7776000), int32(1), int64(86400), int32(1), int32(100), int32(100), strings.Repeat("l", 65), "", 8)
	f.Add("a", "", "b", int32(0), "", "", int64(0), int32(1e9), int64(315576000001), int32(0), int64(1), int32(-1), int32(101), int32(-1), "", strings.Repeat("v", 129), 2)
	f.Fuzz(func(t *testing.T, source, tenant, typ string, priority int32, content, key string, notBefore int64, nanos int32, expires int64, expiresNanos int32,
		run int64, runNanos, attempts, depth int32, label, value string, labels int) {
		s := &jobv1.JobSpec{
			Source: source, Tenant: tenant, Type: typ, Priority: jobv1.Priority(priority), ContentType: content, IdempotencyKey: key,
			NotBefore: &timestamppb.Timestamp{Seconds: notBefore, Nanos: nanos}, ExpiresIn: &durationpb.Duration{Seconds: expires, Nanos: expiresNanos},
			RunTimeout: &durationpb.Duration{Seconds: run, Nanos: runNanos}, MaxAttempts: attempts, Depth: depth, Labels: map[string]string{},
		}
		for i := range min(labels, 10) {
			s.Labels[fmt.Sprint(label, []string{"", "1", "2", "3", "4", "5", "6", "7", "8", "9"}[i])] = value
		}
		if b, err := proto.Marshal(s); err != nil || proto.Unmarshal(b, &jobv1.JobSpec{}) != nil {
			return // text that is no UTF-8 never comes through the wire
		}
		_, refusal := fromSpec(s)
		err := validator.Validate(s)
		var invalid *protovalidate.ValidationError
		if err != nil && !errors.As(err, &invalid) {
			// The runtime cannot judge a duration that it cannot hold; the check refuses it.
			if refusal == nil {
				t.Fatalf("accepted what cannot be judged: %v", err)
			}
			return
		}
		if (refusal == nil) != (err == nil) && !onlyTime(s) {
			t.Fatalf("check says %+v, the rules say %v", refusal, err)
		}
		if refusal != nil && invalid != nil {
			fields := map[string]bool{}
			for _, v := range refusal.Violations {
				field, _, _ := strings.Cut(strings.TrimPrefix(v.Field, "job."), "[")
				fields[field] = true
			}
			for _, v := range invalid.Violations {
				name, _, _ := strings.Cut(protovalidate.FieldPathString(v.Proto.GetField()), "[")
				if !fields[name] {
					t.Fatalf("the rules name %s, the check names %v", name, slices.Sorted(maps.Keys(fields)))
				}
			}
		}
	})
}

// onlyTime says that the only fault is a time or duration that is malformed: the rules of job.proto do not look at that, the check does.
func onlyTime(s *jobv1.JobSpec) bool {
	return !s.GetNotBefore().IsValid() || !s.GetExpiresIn().IsValid() || !s.GetRunTimeout().IsValid()
}

func TestCheckNamesEveryField(t *testing.T) {
	_, refusal := fromSpec(&jobv1.JobSpec{
		Source: "A", Tenant: "\n", Type: "", Priority: 31, ContentType: "\x7f", IdempotencyKey: "\t", NotBefore: &timestamppb.Timestamp{Nanos: -1},
		ExpiresIn: durationpb.New(0), RunTimeout: durationpb.New(25 * time.Hour), MaxAttempts: -1, Labels: map[string]string{"X": ""}, ParentJobId: "me",
		RedriveOf: "00000000-0000-7000-8000-00000000000G", Depth: 101,
	})
	var got []string
	for _, v := range refusal.Violations {
		got = append(got, strings.TrimPrefix(v.Field, "job."))
	}
	want := []string{"source", "tenant", "type", "priority", "content_type", "not_before", "expires_in", "idempotency_key", "run_timeout", "max_attempts", `labels["X"]`, "parent_job_id", "redrive_of", "depth"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if _, refusal := fromSpec(nil); refusal == nil {
		t.Error("a job that is not there was accepted")
	}
}

func BenchmarkFromSpec(b *testing.B) {
	s := &jobv1.JobSpec{Source: "crm-autotag", Tenant: "t1", Type: "tag", Payload: make([]byte, 256), IdempotencyKey: "0199c0de-0000-7000-8000-000000000000"}
	for b.Loop() {
		job, refusal := fromSpec(s)
		if refusal != nil {
			b.Fatal(refusal)
		}
		if _, err := job.Record.Encode(core.Stamp{ID: s.GetIdempotencyKey(), Priority: core.Default, AcceptedAt: time.Now(), Replica: "enqueue-0"}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkProtovalidate is what the check saves for each item of a batch.
func BenchmarkProtovalidate(b *testing.B) {
	validator, err := protovalidate.New()
	if err != nil {
		b.Fatal(err)
	}
	s := &jobv1.JobSpec{Source: "crm-autotag", Tenant: "t1", Type: "tag", Payload: make([]byte, 256), IdempotencyKey: "0199c0de-0000-7000-8000-000000000000"}
	for b.Loop() {
		if err := validator.Validate(s); err != nil {
			b.Fatal(err)
		}
	}
}

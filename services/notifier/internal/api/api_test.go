package api

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/spillway/spillway/pkg/rpc"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

// Every reason of the core has a code, and only the codes that the contract calls definite refuse for certain.
func TestEveryReasonHasACode(t *testing.T) {
	open := []core.Reason{core.FateUnknown, core.BrokerUnavailable}
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
	drafts []*core.Draft
	held   int64
	refuse map[string]*core.Refusal // by source
}

func (p *taker) Publish(_ context.Context, caller core.Caller, drafts []*core.Draft, judged func()) []core.Result {
	judged()
	p.caller, p.drafts = caller, append(p.drafts, drafts...)
	results := make([]core.Result, len(drafts))
	for i, d := range drafts {
		p.held += d.Held
		results[i] = core.Result{Refusal: p.refuse[d.Source], ID: "id-" + d.Source, Home: core.Home{Partition: 4095, Offset: 1 << 62}}
	}
	return results
}

func TestBatchIsJudgedItemByItem(t *testing.T) {
	p := &taker{refuse: map[string]*core.Refusal{
		"full": {Reason: core.QuotaExceeded, Message: "full", Retry: time.Second, Quota: "publish_rate"},
	}}
	h := &Handler{publisher: p}
	ctx := rpc.WithCaller(context.Background(), rpc.Caller{Subject: "crm", Sources: []string{"c*"}})
	resp, err := h.PublishBatch(ctx, &notifierv1.PublishBatchRequest{Notifications: []*notifierv1.PublishRequest{{Source: "a"}, {Source: "full"}, {Source: "c", Ttl: &durationpb.Duration{Seconds: -1, Nanos: 5}}}})
	if err != nil {
		t.Fatal(err)
	}
	if p.caller.Subject != "crm" || !slices.Equal(p.caller.Sources, []string{"c*"}) || p.caller.Job {
		t.Errorf("caller %+v", p.caller)
	}
	if p.drafts[0].TTL != nil || *p.drafts[2].TTL >= 0 || p.held < callBytes-3 || p.held > callBytes {
		t.Errorf("drafts %+v, %d bytes held", p.drafts, p.held)
	}
	var got []string
	for _, item := range resp.GetItems() {
		if item.GetOk() != nil {
			got = append(got, item.GetOk().GetId())
			continue
		}
		got = append(got, rpc.FromStatus(item.GetError()).Reason)
	}
	if want := []string{"id-a", "QUOTA_EXCEEDED", "id-c"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	refusal := rpc.FromStatus(resp.GetItems()[1].GetError())
	if refusal.Retry != time.Second || len(refusal.Quota) != 1 || refusal.Quota[0].Subject != "source:full" {
		t.Errorf("refusal %+v", refusal)
	}
	if r := resp.GetItems()[0].GetOk().GetReceipt(); len(r) == 0 || len(r) > 64 {
		t.Errorf("receipt %q has %d bytes", r, len(r))
	}
}

// A server without authorisation in front speaks for nobody.
func TestNobody(t *testing.T) {
	p := &taker{}
	if _, err := (&Handler{publisher: p}).Publish(context.Background(), &notifierv1.PublishRequest{Source: "a"}); err != nil {
		t.Fatal(err)
	}
	if p.caller.Sources == nil || len(p.caller.Sources) != 0 || p.caller.Subject != "" || p.caller.Job {
		t.Errorf("caller %+v", p.caller)
	}
}

func TestBatchTooLarge(t *testing.T) {
	big := &notifierv1.PublishRequest{Data: make([]byte, maxBatchBytes)}
	_, err := (&Handler{publisher: &taker{}}).PublishBatch(context.Background(), &notifierv1.PublishBatchRequest{Notifications: []*notifierv1.PublishRequest{big}})
	if status.Code(err) != codes.InvalidArgument || rpc.ReasonOf(err) != "INVALID" {
		t.Error(err)
	}
}

// What the check of a batch's items accepts the rules in notifier.proto accept, and the check names each field that they name.
func FuzzCheckAgreesWithProto(f *testing.F) {
	validator, err := protovalidate.New()
	if err != nil {
		f.Fatal(err)
	}
	f.Add("user:t1:anna", int32(1), "k", []byte("1"), int64(60), int32(0), "crm", "t1", "key")
	f.Add("x", int32(9), strings.Repeat("k", 129), []byte(""), int64(0), int32(999), "CRM", "", "\n")
	f.Add("tenant:"+strings.Repeat("%2F", 128), int32(0), "é", []byte("{"), int64(86400), int32(1), "", strings.Repeat("/", 128), strings.Repeat("a", 128))
	f.Add("topic:t1:"+strings.Repeat("%2F", 128), int32(2), "~", []byte("null"), int64(86400), int32(0), strings.Repeat("a", 65), "t1", "")
	f.Fuzz(func(t *testing.T, channel string, class int32, key string, data []byte, seconds int64, nanos int32, source, tenant, idempotency string) {
		r := &notifierv1.PublishRequest{
			Channel: channel, Class: notifierv1.DeliveryClass(class), Key: key, Data: data, Ttl: &durationpb.Duration{Seconds: seconds, Nanos: nanos},
			Source: source, Tenant: tenant, IdempotencyKey: idempotency,
		}
		if b, err := proto.Marshal(r); err != nil || proto.Unmarshal(b, &notifierv1.PublishRequest{}) != nil {
			return // text that is no UTF-8 never comes through the wire
		}
		refusal := core.Check(fromRequest(r), len(data) > 0)
		err := validator.Validate(r)
		var invalid *protovalidate.ValidationError
		if err != nil && !errors.As(err, &invalid) {
			if refusal == nil { // the runtime cannot judge a duration that it cannot hold
				t.Fatalf("accepted what cannot be judged: %v", err)
			}
			return
		}
		if err != nil && refusal == nil {
			t.Fatalf("the check accepts %v, the rules say %v", r, err)
		}
		if invalid == nil {
			return
		}
		for _, v := range invalid.Violations {
			name := protovalidate.FieldPathString(v.Proto.GetField())
			if !slices.ContainsFunc(refusal.Violations, func(v core.Violation) bool { return v.Field == name }) {
				t.Fatalf("the rules name %s, the check says %v", name, refusal)
			}
		}
	})
}

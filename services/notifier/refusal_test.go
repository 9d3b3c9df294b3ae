package notifier_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

func rate(perSecond float64) func(*automationv1.Source) {
	return func(s *automationv1.Source) { s.Quota = &automationv1.Quota{PublishRate: &perSecond} }
}

// Every refusal, alone and in a batch: code, reason, fields, and nothing in the log.
func TestRefusals(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		w.register("others", func(s *automationv1.Source) { s.Principals = []string{"somebody"} })
		w.register("nobodys", func(s *automationv1.Source) { s.Principals = nil })
		w.register("blocked")
		w.switchOn("blocked", automationv1.Verb_VERB_BLOCK)
		w.register("slow", rate(0.001))
		if _, err := w.publish(request("slow")); err != nil { // its one token
			t.Fatal(err)
		}
		bound := w.dial("service", rpc.RolePublish, "never-was", "oth*")
		defer bound.Close()
		before := w.written()
		type R = notifierv1.PublishRequest
		for _, c := range []struct {
			name    string
			source  string
			change  func(*R)
			conn    *grpc.ClientConn
			code    codes.Code
			reason  string
			fields  []string
			retry   bool
			message string
		}{
			{name: "nothing", source: "crm", change: func(r *R) { *r = R{Source: "crm"} }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"channel", "class", "data", "tenant"}},
			{name: "source", source: "CRM", code: codes.InvalidArgument, reason: "INVALID", fields: []string{"source"}},
			{name: "channel", source: "crm", change: func(r *R) { r.Channel = "room:t1:a" }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"channel"}},
			{name: "another tenant's channel", source: "crm", change: func(r *R) { r.Channel = "user:t2:anna" }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"channel"}},
			{name: "system", source: "crm", change: func(r *R) { r.Channel = "system" }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"channel"}},
			{name: "state", source: "crm", change: func(r *R) { r.Class = notifierv1.DeliveryClass_DELIVERY_CLASS_STATE }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"class"}},
			{name: "ephemeral", source: "crm", change: func(r *R) { r.Class = notifierv1.DeliveryClass_DELIVERY_CLASS_EPHEMERAL }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"class"}},
			{name: "unknown class", source: "crm", change: func(r *R) { r.Class = 99 }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"class"}},
			{name: "no JSON", source: "crm", change: func(r *R) { r.Data = []byte("{") }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"data"}},
			{name: "two values", source: "crm", change: func(r *R) { r.Data = []byte("1 2") }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"data"}},
			{name: "no UTF-8", source: "crm", change: func(r *R) { r.Data = []byte("\"\xff\"") }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"data"}},
			{name: "too large", source: "crm", change: func(r *R) { r.Data = []byte(`"` + strings.Repeat("a", 16<<10) + `"`) }, code: codes.InvalidArgument, reason: "PAYLOAD_TOO_LARGE", fields: []string{"data"}},
			{name: "ttl short", source: "crm", change: func(r *R) { r.Ttl = durationpb.New(time.Millisecond) }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"ttl"}},
			{name: "ttl long", source: "crm", change: func(r *R) { r.Ttl = durationpb.New(25 * time.Hour) }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"ttl"}},
			{name: "key", source: "crm", change: func(r *R) { r.Key = "\n" }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"key"}},
			{name: "idempotency key", source: "crm", change: func(r *R) { r.IdempotencyKey = strings.Repeat("a", 129) }, code: codes.InvalidArgument, reason: "INVALID", fields: []string{"idempotency_key"}},
			{name: "unknown source", source: "never-was", conn: bound, code: codes.NotFound, reason: "UNKNOWN_SOURCE"},
			{name: "S8 other's source", source: "others", code: codes.PermissionDenied, reason: "NOT_ALLOWED", message: stranger},
			{name: "S10 nobody's source", source: "never-was", code: codes.PermissionDenied, reason: "NOT_ALLOWED", message: stranger},
			{name: "S10 source without principals", source: "nobodys", code: codes.PermissionDenied, reason: "NOT_ALLOWED", message: stranger},
			{name: "S10 other's source by a credential that names it", source: "others", conn: bound, code: codes.PermissionDenied, reason: "NOT_ALLOWED", message: stranger},
			{name: "credential of another source", source: "crm", conn: bound, code: codes.PermissionDenied, reason: "NOT_ALLOWED", message: stranger},
			{name: "blocked", source: "blocked", code: codes.FailedPrecondition, reason: "SOURCE_BLOCKED"},
			{name: "publish rate", source: "slow", code: codes.ResourceExhausted, reason: "QUOTA_EXCEEDED", retry: true},
		} {
			r := request(c.source)
			if c.change != nil {
				c.change(r)
			}
			client := w.notifier
			if c.conn != nil {
				client = notifierv1.NewNotifierServiceClient(c.conn)
			}
			check := func(how string, e *rpc.Error) {
				if e == nil || e.Code != c.code || e.Reason != c.reason || (e.Retry > 0) != c.retry || (len(e.Quota) > 0) != c.retry || c.message != "" && e.Message != c.message {
					t.Errorf("%s %s: got %+v", c.name, how, e)
					return
				}
				var fields []string
				for _, v := range e.Violations {
					fields = append(fields, v.Field)
				}
				if slices.Sort(fields); !slices.Equal(fields, c.fields) {
					t.Errorf("%s %s: names %v, want %v", c.name, how, fields, c.fields)
				}
			}
			_, err := client.Publish(w.ctx, r)
			check("alone", rpc.FromError(err))
			resp, err := client.PublishBatch(w.ctx, &notifierv1.PublishBatchRequest{Notifications: []*notifierv1.PublishRequest{r}})
			if err != nil {
				t.Errorf("%s in a batch: %v", c.name, err)
				continue
			}
			check("in a batch", rpc.FromStatus(resp.GetItems()[0].GetError()))
		}
		if now := w.written(); now != before {
			t.Errorf("refusals left %d records", now-before)
		}
	})
}

// stranger is what whoever may not publish as a source is told of any source.
const stranger = "the source does not exist or the caller may not publish as it"

// S3: without a token, or with one of another role, nobody gets in.
func TestS3NoCredentials(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm", func(s *automationv1.Source) { s.Principals = []string{"*"} })
		bare, err := rpc.Dial(rpctest.Target("notifier:7420"), rpc.DialConfig{Dialer: w.network.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer bare.Close()
		enqueue := w.dial("service", rpc.RoleEnqueue)
		defer enqueue.Close()
		for conn, want := range map[*grpc.ClientConn]codes.Code{bare: codes.Unauthenticated, enqueue: codes.PermissionDenied} {
			if _, err := notifierv1.NewNotifierServiceClient(conn).Publish(w.ctx, request("crm")); rpc.FromError(err).Code != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
		// A subscriber may read, not write.
		token, err := w.signer.SignSubscriber(rpc.SubscriberClaims{Issuer: cluster, Subject: "anna", Tenant: "t1", Channels: []string{"user:t1:anna"}, TTL: time.Minute}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		conn, err := rpc.Dial(rpctest.Target("notifier:7420"), rpc.DialConfig{Token: token, Dialer: w.network.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := notifierv1.NewNotifierServiceClient(conn).Publish(w.ctx, request("crm")); rpc.FromError(err).Code != codes.Unauthenticated {
			t.Errorf("a subscriber: %v", err)
		}
		if n := w.written(); n != 0 {
			t.Errorf("%d records", n)
		}
	})
}

// The publish rate is divided by the replicas that are alive: in sum it is never exceeded. A batch counts each of its notifications.
func TestPublishRateIsDivided(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm", rate(10))
		accepted := func() (n int) {
			req := &notifierv1.PublishBatchRequest{}
			for range 20 {
				req.Notifications = append(req.Notifications, request("crm"))
			}
			resp, err := w.notifier.PublishBatch(w.ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range resp.GetItems() {
				if item.GetOk() != nil {
					n++
				} else if e := rpc.FromStatus(item.GetError()); e.Reason != "QUOTA_EXCEEDED" || e.Retry <= 0 || e.Retry > time.Second {
					t.Errorf("refused with %+v", e)
				}
			}
			return n
		}
		for _, other := range []string{"notifier-other", "notifier-third"} {
			w.beat(&logv1.Status{Replica: other, Kind: logv1.ReplicaKind_REPLICA_KIND_NOTIFIER})
		}
		time.Sleep(300 * time.Millisecond) // it looks four times a second
		if n := accepted(); n != 3 {
			t.Errorf("one of three replicas accepted %d of 10 at once", n)
		}
		time.Sleep(10 * time.Second) // the others are gone, and the burst is full again
		if n := accepted(); n != 10 {
			t.Errorf("the only replica accepted %d of 10 at once", n)
		}
		time.Sleep(500 * time.Millisecond)
		if n := accepted(); n != 5 {
			t.Errorf("accepted %d half a second after the burst", n)
		}
	})
}

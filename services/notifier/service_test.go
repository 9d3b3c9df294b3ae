package notifier_test

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/rpc"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/services/notifier"
)

func decode(t *testing.T, m kafka.Message) *logv1.Notification {
	t.Helper()
	n := &logv1.Notification{}
	if err := proto.Unmarshal(m.Value, n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A notification goes into the partition of its channel, on one line, with an id that a retry makes again.
func TestPublish(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		in := request("crm", func(r *notifierv1.PublishRequest) {
			r.IdempotencyKey, r.Key, r.Ttl, r.Data = "k1", "conversation-7", durationpb.New(time.Minute), []byte("{\n  \"text\": \"a\\nb\"\n}")
		})
		before := time.Now()
		first, err := w.publish(in)
		if err != nil {
			t.Fatal(err)
		}
		again, err := w.publish(in)
		if err != nil {
			t.Fatal(err)
		}
		shard := envelope.Shard("user:t1:anna", shards)
		id := envelope.KeyedJobID("crm", "k1", shard).String()
		if first.GetId() != id || again.GetId() != id || first.GetReceipt() == again.GetReceipt() || len(first.GetReceipt()) > 64 {
			t.Errorf("answers %v and %v, want id %s", first, again, id)
		}
		found := w.log()[shard]
		if len(found) != 2 || string(found[0].Key) != "user:t1:anna" || envelope.CheckVersion(found[0].Headers) != nil || len(found[0].Headers) != 1 {
			t.Fatalf("records %v", w.log())
		}
		n := decode(t, found[0])
		at, expires := n.GetAt(), n.GetExpiresAt()
		if at.AsTime().Before(before) || at.AsTime().After(time.Now()) || expires.AsTime().Sub(at.AsTime()) != time.Minute {
			t.Errorf("accepted at %v, expires at %v", at.AsTime(), expires.AsTime())
		}
		want := &logv1.Notification{
			Id: id, Channel: "user:t1:anna", Class: notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT, Key: "conversation-7", Data: []byte(`{"text":"a\nb"}`),
			At: at, ExpiresAt: expires, Source: "crm", Tenant: "t1",
		}
		if !proto.Equal(n, want) {
			t.Errorf("record %v", n)
		}
	})
}

// Without a key every call is a notification of its own, and worth a day.
func TestPublishWithoutKey(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		for _, channel := range []string{"tenant:t1", "user:t1:a%2Fb", "topic:t1:news"} {
			ids := map[string]bool{}
			for range 2 {
				resp, err := w.publish(request("crm", func(r *notifierv1.PublishRequest) { r.Channel = channel }))
				if err != nil {
					t.Fatal(channel, err)
				}
				ids[resp.GetId()] = true
			}
			if len(ids) != 2 {
				t.Errorf("%s: ids %v", channel, ids)
			}
			list := w.log()[envelope.Shard(channel, shards)]
			if n := decode(t, list[len(list)-1]); n.GetChannel() != channel || n.GetExpiresAt().AsTime().Sub(n.GetAt().AsTime()) != 24*time.Hour {
				t.Errorf("record %v", n)
			}
		}
	})
}

// Each of a batch is judged on its own, in order.
func TestBatch(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("a")
		w.register("b")
		req := &notifierv1.PublishBatchRequest{}
		for i := range 1000 {
			req.Notifications = append(req.Notifications, request([]string{"a", "b", "unknown", "bad name"}[i%4], func(r *notifierv1.PublishRequest) {
				r.Channel = fmt.Sprint("user:t1:", i)
			}))
		}
		resp, err := w.notifier.PublishBatch(w.ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		ids := map[string]bool{}
		for i, item := range resp.GetItems() {
			want := []string{"", "", "NOT_ALLOWED", "INVALID"}[i%4]
			if got := rpc.FromStatus(item.GetError()); want == "" && item.GetOk() == nil || want != "" && (got == nil || got.Reason != want) {
				t.Fatalf("item %d: %v", i, item)
			}
			if item.GetOk() != nil {
				ids[item.GetOk().GetId()] = true
			}
		}
		if len(resp.GetItems()) != 1000 || len(ids) != 500 || w.written() != 500 {
			t.Errorf("%d items, %d ids, %d records", len(resp.GetItems()), len(ids), w.written())
		}
		req.Notifications = append(req.Notifications, request("a"))
		if _, err := w.notifier.PublishBatch(w.ctx, req); rpc.ReasonOf(err) != "INVALID" {
			t.Errorf("1,001 notifications: %v", err)
		}
		req.Notifications = req.Notifications[:250]
		for _, n := range req.Notifications {
			n.Data = append(append([]byte{'"'}, make([]byte, 13<<10)...), '"')
		}
		if _, err := w.notifier.PublishBatch(w.ctx, req); rpc.ReasonOf(err) != "INVALID" {
			t.Errorf("more than 3 MiB: %v", err)
		}
	})
}

// Records of one channel are in the order of a batch.
func TestOrderOfAChannel(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		req := &notifierv1.PublishBatchRequest{}
		for i := range 200 {
			req.Notifications = append(req.Notifications, request("crm", func(r *notifierv1.PublishRequest) { r.Data = fmt.Append(nil, i) }))
		}
		if _, err := w.notifier.PublishBatch(w.ctx, req); err != nil {
			t.Fatal(err)
		}
		list := w.log()[envelope.Shard("user:t1:anna", shards)]
		for i, m := range list {
			if n := decode(t, m); string(n.GetData()) != fmt.Sprint(i) {
				t.Fatalf("record %d is %s", i, n.GetData())
			}
		}
		if len(list) != 200 {
			t.Errorf("%d records", len(list))
		}
	})
}

// A hold stops jobs, not notifications; a block stops both.
func TestHeldPublishes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		w.switchOn("crm", automationv1.Verb_VERB_HOLD)
		if _, err := w.publish(request("crm")); err != nil {
			t.Error("held:", err)
		}
		w.switchOn("crm", automationv1.Verb_VERB_BLOCK)
		if _, err := w.publish(request("crm")); rpc.ReasonOf(err) != "SOURCE_BLOCKED" {
			t.Error("blocked:", err)
		}
	})
}

// The listener of websockets answers, and nothing but websockets is there.
func TestWebListener(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		for path, want := range map[string]bool{"/": false, "/v1/sse": false, "/metrics": false} {
			resp, err := w.web.Client().Get("http://notifier" + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if ok := resp.StatusCode < 400; ok != want {
				t.Errorf("%s: %s", path, resp.Status)
			}
		}
	})
}

func TestConfig(t *testing.T) {
	good := notifier.Config{Replica: "n", Durability: kafka.Single, Concurrency: 1, Ring: 1 << 20, Sessions: 1, Inflight: 16 << 20}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*notifier.Config){
		"no replica": func(c *notifier.Config) { c.Replica = "" }, "durability": func(c *notifier.Config) { c.Durability = "some" },
		"ring": func(c *notifier.Config) { c.Ring = 1 }, "sessions": func(c *notifier.Config) { c.Sessions = 0 }, "per address": func(c *notifier.Config) { c.PerAddress = -1 },
		"in flight":   func(c *notifier.Config) { c.Inflight = 1 << 20 },
		"concurrency": func(c *notifier.Config) { c.Concurrency = 0 }, "token for nobody": func(c *notifier.Config) { c.WorkerTokenFile = "x" },
		"any origin": func(c *notifier.Config) { c.Origins = "*" }, "pattern": func(c *notifier.Config) { c.Origins = "https://*.example.com" },
		"no scheme": func(c *notifier.Config) { c.Origins = "app.example.com" }, "path": func(c *notifier.Config) { c.Origins = "https://app.example.com/" },
		"null": func(c *notifier.Config) { c.Origins = "null" }, "capitals": func(c *notifier.Config) { c.Origins = "https://App.example.com" },
		"one bad of two": func(c *notifier.Config) { c.Origins = "https://a.example,ftp://b.example" },
	} {
		c := good
		change(&c)
		if c.Validate() == nil {
			t.Errorf("%s: not refused", name)
		}
	}
	good.Origins = "https://app.example.com, http://127.0.0.1:7480"
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
}

// What is missing is said at once, not found out later.
func TestDepsAreRequired(t *testing.T) {
	c := notifier.Config{Replica: "n", Durability: kafka.Single, Concurrency: 1, Ring: 1 << 20, Sessions: 1, Inflight: 16 << 20}
	if _, err := notifier.New(c, notifier.Deps{}); err == nil {
		t.Error("made of nothing")
	}
}

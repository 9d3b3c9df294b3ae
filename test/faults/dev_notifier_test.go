package faults

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/subscriber"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/test/product"
)

// TestDevNotifies: two notifiers, each with a websocket that dev.json names; the token that it holds opens both, from the pages' origin and no other;
// what is published at one arrives at both, through a kill of one.
func TestDevNotifies(t *testing.T) {
	d := product.StartDev(t, t.TempDir(), "--notifiers", "2")
	f := d.File()
	var sockets []string
	for _, r := range f.Replicas {
		if r.Websocket != "" {
			sockets = append(sockets, r.Websocket)
		}
	}
	if len(sockets) != 2 || sockets[0] != f.Endpoints.Websocket || sockets[0] == sockets[1] || f.Endpoints.Notifier != d.Address("notifier-0") {
		t.Fatalf("websockets %v, endpoints %+v", sockets, f.Endpoints)
	}
	page := get(t, f.Endpoints.Pages+"/")
	if len(page) == 0 {
		t.Error("the pages are empty")
	}

	const channel = "topic:demo:news"
	config := subscriber.Config{Token: f.Tokens.Subscriber, Origin: f.Endpoints.Pages, Channels: []string{channel}}
	listeners := []*product.Listener{product.Listen(t, sockets[0], config), product.Listen(t, sockets[1], config)}
	foreign := config
	foreign.Origin = "https://evil.example"
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := subscriber.Dial(ctx, sockets[0], foreign); err == nil {
		t.Error("a page of another origin was let in")
	} else if refused, ok := errors.AsType[*subscriber.Refused](err); !ok || refused.Status != http.StatusForbidden {
		t.Errorf("a page of another origin: %v", err)
	}
	service := config
	service.Token = f.Tokens.Operator
	if _, err := subscriber.Dial(ctx, sockets[0], service); err == nil {
		t.Error("an operator's token was taken for a subscriber's")
	}

	if out, talk, code := product.Run(t, 20*time.Second, "source", "register", "newsroom", "--type", "notify", "--data-dir", d.Dir); code != 0 {
		t.Fatalf("register: %s%s", out, talk)
	}
	publish := func(replica, data string) {
		t.Helper()
		conn, err := rpc.Dial(d.Address(replica), rpc.DialConfig{Token: d.File().Tokens.Service})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		product.Until(t, 20*time.Second, "published", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err = notifierv1.NewNotifierServiceClient(conn).Publish(ctx, &notifierv1.PublishRequest{
				Channel: channel, Class: notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT, Data: []byte(data), Source: "newsroom", Tenant: "demo", IdempotencyKey: data,
			})
			return err == nil || rpc.ReasonOf(err) != "UNKNOWN_SOURCE"
		})
		if err != nil {
			t.Fatalf("publish: %v", err)
		}
	}
	arrives := func(l *product.Listener, data string) {
		t.Helper()
		l.Await(20*time.Second, data, func(e subscriber.Event) bool { return e.T == subscriber.Msg && string(e.Data) == data })
	}
	for i, replica := range []string{"notifier-0", "notifier-1"} {
		data, err := json.Marshal(replica)
		if err != nil {
			t.Fatal(err)
		}
		publish(replica, string(data))
		arrives(listeners[i], string(data))
		arrives(listeners[1-i], string(data))
	}

	// One is killed: its subscriber comes back with its cursor and misses nothing.
	cursor := listeners[0].Cursor()
	before := d.Signal("notifier-0", syscall.SIGKILL)
	publish("notifier-1", `"meanwhile"`)
	arrives(listeners[1], `"meanwhile"`)
	d.AwaitRestart("notifier-0", before, 30*time.Second)
	config.Cursor = cursor
	back := product.Listen(t, sockets[0], config)
	back.Await(20*time.Second, "what was published meanwhile, or that something is missing", func(e subscriber.Event) bool {
		return e.T == subscriber.Msg && string(e.Data) == `"meanwhile"` || e.T == subscriber.Gap
	})
}

// TestDevWithoutANotifier: --notifiers 0 has none, and says so by what is not in dev.json.
func TestDevWithoutANotifier(t *testing.T) {
	d := product.StartDev(t, t.TempDir(), "--notifiers", "0")
	if f := d.File(); f.Endpoints.Notifier != "" || f.Endpoints.Websocket != "" || f.Process("notifier") != 0 || len(f.Processes) != 4 {
		t.Errorf("%+v", f)
	}
}

func get(t *testing.T, url string) []byte {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return b
}

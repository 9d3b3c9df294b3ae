package product

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/subscriber"
)

// Cluster is the id of the dev's installation, which its tokens name.
func (d *Dev) Cluster() string {
	d.t.Helper()
	parts := strings.Split(d.File().Tokens.Operator, ".")
	var claims struct {
		Issuer string `json:"iss"`
	}
	if len(parts) == 3 {
		if b, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			json.Unmarshal(b, &claims)
		}
	}
	if claims.Issuer == "" {
		d.t.Fatal("the operator's token names no cluster")
	}
	return claims.Issuer
}

// SubscriberToken signs a token that lets a user of a tenant listen to channels,
// which may be patterns, for ten minutes.
func (d *Dev) SubscriberToken(user, tenant string, channels ...string) string {
	d.t.Helper()
	signer, err := rpc.OpenSigner(filepath.Dir(d.File().TokenKeys))
	if err != nil {
		d.t.Fatal(err)
	}
	token, err := signer.SignSubscriber(rpc.SubscriberClaims{
		Issuer: d.Cluster(), Subject: user, Tenant: tenant, Channels: channels, TTL: rpc.MaxSubscriberTTL,
	}, time.Now())
	if err != nil {
		d.t.Fatal(err)
	}
	return token
}

// Listener is a subscriber at a notifier's websocket. It belongs to one goroutine.
type Listener struct {
	*subscriber.Session
	t testing.TB
}

// dialLimit bounds a handshake with its hello.
const dialLimit = 15 * time.Second

// Listen connects a user of a tenant to a websocket, "" for the dev's first, and
// waits until all channels are subscribed. It is closed when the test ends.
func (d *Dev) Listen(url, user, tenant string, channels ...string) *Listener {
	d.t.Helper()
	if url == "" {
		url = d.File().Endpoints.Websocket
	}
	return Listen(d.t, url, subscriber.Config{Token: d.SubscriberToken(user, tenant, channels...), Channels: channels})
}

// Listen connects a subscriber and waits until all channels of cfg are subscribed.
func Listen(t testing.TB, url string, cfg subscriber.Config) *Listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), dialLimit)
	defer cancel()
	s, err := subscriber.Dial(ctx, url, cfg)
	if err != nil {
		t.Fatalf("websocket %s: %v", url, err)
	}
	t.Cleanup(func() { s.Close() })
	l := &Listener{Session: s, t: t}
	for range cfg.Channels {
		if e := l.Await(dialLimit, "the answer to a subscription", func(e subscriber.Event) bool { return e.T == subscriber.Sub }); !e.OK {
			t.Fatalf("subscribe to %s: %s", e.Channel, e.Error)
		}
	}
	return l
}

// Await reads events until one is right, and returns it.
func (l *Listener) Await(limit time.Duration, what string, right func(subscriber.Event) bool) subscriber.Event {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		e, err := l.Next(ctx)
		if err != nil {
			l.t.Fatalf("not within %v: %s: %v", limit, what, err)
		}
		if right(e) {
			return e
		}
	}
}

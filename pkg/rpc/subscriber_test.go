package rpc_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/rpc"
)

func subscriberClaims() object {
	return object{
		"iss": cluster, "aud": "spillway", "sub": "anna", "tid": "t1", "ch": []string{"user:t1:anna", "topic:t1:*"},
		"iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix(),
	}
}

func TestSubscriberTokens(t *testing.T) {
	i := newIssuer(t)
	v := verifierAt(t, i.JWKS(), now)
	for name, c := range map[string]object{
		"plain":           subscriberClaims(),
		"expired by 59 s": with(with(subscriberClaims(), "exp", now.Add(-59*time.Second).Unix()), "iat", now.Add(-10*time.Minute).Unix()),
		"issued in 59 s":  with(with(subscriberClaims(), "iat", now.Add(59*time.Second).Unix()), "nbf", now.Add(59*time.Second).Unix()),
		"unknown claim":   with(subscriberClaims(), "wizard", true),
	} {
		s, err := v.Subscriber(forge(i.header(), c, i.sign), now)
		if err != nil || s.Subject != "anna" || s.Tenant != "t1" || !slices.Equal(s.Channels, []string{"user:t1:anna", "topic:t1:*"}) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	token, err := i.SignSubscriber(rpc.SubscriberClaims{Issuer: cluster, Subject: "b", Tenant: "t2", TTL: rpc.MaxSubscriberTTL}, now.Add(999*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	s, err := v.Subscriber(token, now)
	if err != nil || len(s.Channels) != 0 || s.Channels == nil || !s.Expires.Equal(now.Add(10*time.Minute)) {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err = v.Subscriber(token, now.Add(10*time.Minute+59*time.Second)); err != nil {
		t.Errorf("a minute of grace: %+v, %v", s, err)
	}
	if s, err = v.Subscriber(token, now.Add(11*time.Minute)); !errors.Is(err, rpc.ErrToken) || s.Subject != "" {
		t.Errorf("a good token that has expired: %+v, %v", s, err)
	}
}

// TestATokenHasOneSpelling: Go's base64 passes over line breaks, which once made
// any number of good tokens of one, each with a signature to check.
func TestATokenHasOneSpelling(t *testing.T) {
	i := newIssuer(t)
	v := verifierAt(t, i.JWKS(), now)
	user, service := forge(i.header(), subscriberClaims(), i.sign), forge(i.header(), claims(), i.sign)
	if _, err := v.Subscriber(user, now); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(service, now); err != nil {
		t.Fatal(err)
	}
	for _, odd := range []string{"\n", "\r", "\r\n", " ", "\t", "\x00", "=", "+", "/", "é"} {
		for _, at := range []int{0, 10, len(user) - 3, len(user)} {
			if _, err := v.Subscriber(user[:at]+odd+user[at:], now); !errors.Is(err, rpc.ErrToken) {
				t.Errorf("%q at %d: %v", odd, at, err)
			}
		}
		at := len(service) - 3
		if _, err := v.Verify(service[:at]+odd+service[at:], now); !errors.Is(err, rpc.ErrToken) {
			t.Errorf("%q in a service token: %v", odd, err)
		}
	}
}

// TestS27SubscriberTokensRefused: what must never open a session.
func TestS27SubscriberTokensRefused(t *testing.T) {
	i, other := newIssuer(t), newIssuer(t)
	v := verifierAt(t, i.JWKS(), now)
	c := subscriberClaims()
	good := forge(i.header(), c, i.sign)
	parts := strings.Split(good, ".")
	wider := strings.Split(forge(i.header(), with(c, "ch", []string{"topic:t2:*"}), i.sign), ".")
	tenant := strings.Split(forge(i.header(), with(c, "tid", "t2"), i.sign), ".")
	many := make([]string, 65)
	for n := range many {
		many[n] = fmt.Sprintf("topic:t1:%d", n)
	}
	signed := func(c object) string { return forge(i.header(), c, i.sign) }
	for name, token := range map[string]string{
		"none":                        "",
		"expired by 61 s":             signed(with(with(c, "exp", now.Add(-61*time.Second).Unix()), "iat", now.Add(-10*time.Minute).Unix())),
		"valid in 61 s":               signed(with(c, "nbf", now.Add(61*time.Second).Unix())),
		"issued in 61 s":              signed(with(c, "iat", now.Add(61*time.Second).Unix())),
		"good for 10 min and 1 s":     signed(with(c, "exp", now.Add(10*time.Minute+time.Second).Unix())),
		"good for an hour":            signed(with(c, "exp", now.Add(time.Hour).Unix())),
		"no iat":                      signed(with(c, "iat", nil)),
		"no exp":                      signed(with(c, "exp", nil)),
		"no user":                     signed(with(c, "sub", nil)),
		"user of 129 bytes":           signed(with(c, "sub", strings.Repeat("x", 129))),
		"no tenant":                   signed(with(c, "tid", nil)),
		"empty tenant":                signed(with(c, "tid", "")),
		"tenant of 129 bytes":         signed(with(c, "tid", strings.Repeat("x", 129))),
		"tenant is no string":         signed(with(c, "tid", []string{"t1", "t2"})),
		"65 channels":                 signed(with(c, "ch", many)),
		"empty channel":               signed(with(c, "ch", []string{""})),
		"long channel":                signed(with(c, "ch", []string{strings.Repeat("x", 1025)})),
		"channel with a newline":      signed(with(c, "ch", []string{"topic:t1:a\nb"})),
		"channel not ASCII":           signed(with(c, "ch", []string{"topic:t1:é"})),
		"channels are no list":        signed(with(c, "ch", "*")),
		"roles beside":                signed(with(c, "roles", []string{"read"})),
		"empty roles":                 signed(with(c, "roles", []string{})),
		"types beside":                signed(with(c, "types", []string{"*"})),
		"service token":               signed(claims()),
		"other cluster":               signed(with(c, "iss", "other")),
		"other audience":              signed(with(c, "aud", "x")),
		"another's key":               forge(other.header(), c, other.sign),
		"another's key under our kid": forge(i.header(), c, other.sign),
		"unsigned":                    forge(with(i.header(), "alg", "none"), c, func(string) []byte { return nil }),
		"wider ch by edit":            parts[0] + "." + wider[1] + "." + parts[2],
		"other tenant by edit":        parts[0] + "." + tenant[1] + "." + parts[2],
		"cut":                         good[:len(good)-1],
		"1 MB":                        strings.Repeat("x", 1<<20),
		"1 MB of parts":               strings.Repeat(".", 1<<20),
		"good and 1 MB":               good + strings.Repeat("A", 1<<20),
	} {
		for range 2 { // the second may come from memory
			if s, err := v.Subscriber(token, now); !errors.Is(err, rpc.ErrToken) || s.Subject != "" || s.Tenant != "" || s.Channels != nil {
				t.Errorf("%s: %+v, %v", name, s, err)
			}
		}
	}
}

// TestS27KindsOfTokenNeverMix: also when the other kind was judged, and remembered, first.
func TestS27KindsOfTokenNeverMix(t *testing.T) {
	i := newIssuer(t)
	service, err := i.Sign(rpc.Claims{Issuer: cluster, Subject: "op", Roles: []rpc.Role{rpc.RoleAdmin}, TTL: time.Minute}, now)
	if err != nil {
		t.Fatal(err)
	}
	subscriber, err := i.SignSubscriber(rpc.SubscriberClaims{Issuer: cluster, Subject: "op", Tenant: "t", Channels: []string{"topic:t:*"}, TTL: time.Minute}, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, remembered := range []bool{false, true} {
		v := verifierAt(t, i.JWKS(), now)
		if remembered {
			if _, err := v.Verify(service, now); err != nil {
				t.Fatal(err)
			}
			if _, err := v.Subscriber(subscriber, now); err != nil {
				t.Fatal(err)
			}
		}
		if c, err := v.Verify(subscriber, now); !errors.Is(err, rpc.ErrToken) || c.Subject != "" {
			t.Errorf("a subscriber token at gRPC: %+v, %v", c, err)
		}
		if s, err := v.Subscriber(service, now); !errors.Is(err, rpc.ErrToken) || s.Subject != "" {
			t.Errorf("a service token at the socket: %+v, %v", s, err)
		}
	}
}

func TestSignSubscriberRefuses(t *testing.T) {
	i := newIssuer(t)
	good := rpc.SubscriberClaims{Issuer: cluster, Subject: "u", Tenant: "t", Channels: []string{"user:t:u"}, TTL: time.Minute}
	for name, change := range map[string]func(*rpc.SubscriberClaims){
		"issuer":   func(c *rpc.SubscriberClaims) { c.Issuer = "" },
		"subject":  func(c *rpc.SubscriberClaims) { c.Subject = "" },
		"tenant":   func(c *rpc.SubscriberClaims) { c.Tenant = "" },
		"no ttl":   func(c *rpc.SubscriberClaims) { c.TTL = 0 },
		"long ttl": func(c *rpc.SubscriberClaims) { c.TTL = rpc.MaxSubscriberTTL + 1 },
		"channel":  func(c *rpc.SubscriberClaims) { c.Channels = []string{"topic:t:a b"} },
		"too long": func(c *rpc.SubscriberClaims) { c.Channels = slices.Repeat([]string{strings.Repeat("x", 1000)}, 10) },
	} {
		c := good
		change(&c)
		if token, err := i.SignSubscriber(c, now); err == nil || token != "" {
			t.Errorf("%s: %q, %v", name, token, err)
		}
	}
}

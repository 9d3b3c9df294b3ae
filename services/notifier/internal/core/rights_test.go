package core

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAStarStandsForTheWholeLastPartOnly(t *testing.T) {
	for _, c := range []struct {
		pattern string
		channel Channel
		allowed bool
	}{
		{"tenant:acme", "tenant:acme", true},
		{"user:acme:ann", "user:acme:ann", true},
		{"user:acme:ann", "user:acme:anna", false},
		{"user:acme:*", "user:acme:ann", true},
		{"topic:acme:*", "user:acme:ann", false},
		{"topic:acme:*", "topic:acme:orders.eu", true},
		{"topic:acme:orders.*", "topic:acme:orders.eu", false},
		{"topic:acme:*", "topic:acme:a%3Ab", true},
		{"topic:acme:*s", "topic:acme:orders", false},
		{"topic:*", "topic:acme:orders", false},
		{"topic:*:orders", "topic:acme:orders", false},
		{"*", "tenant:acme", false},
		{"", "tenant:acme", false},
		{":*", "tenant:acme", false},
		{"tenant:*", "tenant:acme", true},
		{"tenant:*", "tenant:other", false},
		{"tenant:other", "tenant:other", false},
		{"topic:other:*", "topic:other:orders", false},
		{"user:acme%3Aann", "user:acme:ann", false},
		{"nothing", System, true},
	} {
		if got := (Rights{Tenant: "acme", Patterns: []string{c.pattern}}).Allows(c.channel); got != c.allowed {
			t.Errorf("%q for %q: %v", c.pattern, c.channel, got)
		}
	}
	if (Rights{Patterns: []string{"tenant:*"}}).Allows("tenant:acme") {
		t.Error("no tenant hears a tenant")
	}
}

// Whatever a token's patterns are, nothing of another tenant is heard.
func TestRightsNeverCrossTenants(t *testing.T) {
	part := rapid.OneOf(rapid.SampledFrom([]string{"a", "b", "*", "a:b", "a%", ":", ""}), rapid.StringN(0, 8, 32))
	rapid.Check(t, func(t *rapid.T) {
		own, other, name := "t"+part.Draw(t, "own"), "t"+part.Draw(t, "other"), "n"+part.Draw(t, "name")
		var patterns []string
		for _, p := range rapid.SliceOfN(part, 0, 6).Draw(t, "patterns") {
			patterns = append(patterns, p, "topic:"+p, "topic:"+p+":*", "user:"+Escape(other)+":"+p, "tenant:"+p)
		}
		patterns = append(patterns, "*", "tenant:*", "topic:*", "user:*", "topic:"+Escape(other)+":*", string(TenantChannel(other)))
		r := Rights{Tenant: own, Patterns: patterns}
		for _, c := range []Channel{TenantChannel(other), UserChannel(other, name), TopicChannel(other, name)} {
			if r.Allows(c) && own != other {
				t.Fatalf("tenant %q hears %q by one of %q", own, c, strings.Join(patterns, " "))
			}
		}
		if !r.Allows(TenantChannel(own)) {
			t.Fatalf("tenant %q does not hear itself by tenant:*", own)
		}
	})
}

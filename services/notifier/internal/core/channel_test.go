package core

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestChannelsThatAreRefused(t *testing.T) {
	for _, text := range []string{
		"", "tenant", "tenant:", "tenant:a:b", "user:a", "user:a:", "user::b", "user:a:b:c", "topic:a", "Tenant:a", "system:", "jobs:a", "tenant:a b",
		"tenant:%", "tenant:%4", "tenant:%41", "tenant:%2f", "tenant:é", "tenant:*", "user:a:*", "tenant:" + strings.Repeat("a", 129),
		"tenant:" + strings.Repeat("%2F", 129), "tenant:a\n", " tenant:a",
	} {
		if c, err := ParseChannel(text); err == nil {
			t.Errorf("%q is taken for channel %q", text, c)
		}
	}
}

// Every raw name has one spelling, which is parsed and gives the tenant back; no two have the same.
func TestChannelsOfAnyName(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringOfN(rapid.Rune(), 1, 32, maxPart)
		tenant, user, other := part.Draw(t, "tenant"), part.Draw(t, "user"), part.Draw(t, "other")
		c := UserChannel(tenant, user)
		if parsed, err := ParseChannel(string(c)); err != nil || parsed != c || c.Tenant() != tenant {
			t.Fatalf("%q: %q, %v, tenant %q", c, parsed, err, c.Tenant())
		}
		if other != user && UserChannel(tenant, other) == c {
			t.Fatalf("%q and %q share %q", user, other, c)
		}
		for _, c := range []Channel{TenantChannel(tenant), TopicChannel(tenant, user)} {
			if _, err := ParseChannel(string(c)); err != nil || c.Tenant() != tenant {
				t.Fatalf("%q: %v, tenant %q", c, err, c.Tenant())
			}
		}
	})
}

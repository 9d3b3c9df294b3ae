package core

import (
	"strings"
	"time"
)

// Rights are what a token lets a subscriber hear: the claims tid and ch.
type Rights struct {
	// Tenant is the only tenant whose channels can be heard, whatever the patterns say. Empty: none.
	Tenant string
	// Patterns are channels, spelled as ParseChannel wants them, whose whole last part may be *. Others match nothing.
	Patterns []string
}

// Allows tells whether a channel, as ParseChannel returns it, may be subscribed to. System may be by everybody.
func (r Rights) Allows(c Channel) bool {
	if c == System {
		return true
	}
	if r.Tenant == "" || c.Tenant() != r.Tenant {
		return false
	}
	for _, p := range r.Patterns {
		if p == string(c) {
			return true
		}
		if prefix, star := strings.CutSuffix(p, "*"); star && strings.HasSuffix(prefix, ":") {
			// The separator never occurs inside a part, so what is left is the last part, or more than one.
			if last, below := strings.CutPrefix(string(c), prefix); below && !strings.Contains(last, ":") {
				return true
			}
		}
	}
	return false
}

// Subscriber is who a verified token speaks for.
type Subscriber struct {
	// User is who it is, in the tenant of Rights: sub. A session's cursors are bound to both.
	User string
	// Rights are what it may hear.
	Rights Rights
	// Expires is when the token does. The session may go on for a grace time after it, in which it is to be refreshed.
	Expires time.Time
}

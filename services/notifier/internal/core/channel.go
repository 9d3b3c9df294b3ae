package core

import (
	"fmt"
	"strings"
)

// System is the channel of every session. Nobody subscribes to it and nobody but the notifier writes to it.
const System Channel = "system"

// maxPart bounds a part of a channel's name, in bytes before escaping.
const maxPart = 128

// Channel is what a notification is addressed to, in its one canonical spelling: tenant:{t}, user:{t}:{u}, topic:{t}:{name} or system. Each part
// is 1 to 128 bytes of [A-Za-z0-9._-], every other byte percent-encoded with upper-case digits, so that the separator never occurs inside a part.
type Channel string

// kinds are the kinds of channels with the number of parts after the kind; the first of them is the tenant.
var kinds = map[string]int{"tenant": 1, "user": 2, "topic": 2}

// ParseChannel returns the channel that text names. Other spellings of the same name are refused, because a channel is compared byte by byte.
func ParseChannel(text string) (Channel, error) {
	if text == string(System) {
		return System, nil
	}
	kind, rest, _ := strings.Cut(text, ":")
	parts, known := kinds[kind]
	if !known {
		return "", fmt.Errorf("starts with %.16q, want tenant:{t}, user:{t}:{u} or topic:{t}:{name}", kind)
	}
	found := strings.Split(rest, ":")
	if len(found) != parts {
		return "", fmt.Errorf("has %d parts after %q, want %d", len(found), kind+":", parts)
	}
	for i, part := range found {
		if raw, ok := unescape(part); !ok || raw == "" || len(raw) > maxPart {
			return "", fmt.Errorf("part %d is not 1 to %d bytes of [A-Za-z0-9._-], others percent-encoded with upper-case digits", i+1, maxPart)
		}
	}
	return Channel(text), nil
}

// Tenant returns the raw tenant of the channel, "" for System.
func (c Channel) Tenant() string {
	_, rest, _ := strings.Cut(string(c), ":")
	part, _, _ := strings.Cut(rest, ":")
	raw, _ := unescape(part)
	return raw
}

// TenantChannel, UserChannel and TopicChannel name channels by their raw parts, each 1 to 128 bytes.
func TenantChannel(tenant string) Channel { return Channel("tenant:" + Escape(tenant)) }

// UserChannel is that of one user of a tenant.
func UserChannel(tenant, user string) Channel {
	return Channel("user:" + Escape(tenant) + ":" + Escape(user))
}

// TopicChannel is one that a tenant's applications have named.
func TopicChannel(tenant, name string) Channel {
	return Channel("topic:" + Escape(tenant) + ":" + Escape(name))
}

const upperHex = "0123456789ABCDEF"

// Escape spells a raw part.
func Escape(raw string) string {
	var b strings.Builder
	for i := range len(raw) {
		if c := raw[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
		}
	}
	return b.String()
}

// unescape returns the raw part, and false unless part is its canonical spelling.
func unescape(part string) (string, bool) {
	if len(part) > 3*maxPart {
		return "", false
	}
	var b strings.Builder
	for i := 0; i < len(part); i++ {
		c := part[i]
		switch {
		case plain(c):
		case c == '%' && i+2 < len(part):
			high, low := strings.IndexByte(upperHex, part[i+1]), strings.IndexByte(upperHex, part[i+2])
			if high < 0 || low < 0 {
				return "", false
			}
			if c = byte(high<<4 | low); plain(c) {
				return "", false // it needs no escape
			}
			i += 2
		default:
			return "", false
		}
		b.WriteByte(c)
	}
	return b.String(), true
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-'
}

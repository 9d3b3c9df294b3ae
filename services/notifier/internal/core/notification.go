package core

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Bounds of a notification: the contract's.
const (
	// MaxData bounds the data, in bytes.
	MaxData = 16 << 10
	// MinTTL and MaxTTL bound how long a notification is worth delivering; the log keeps it for a day. An absent one is MaxTTL.
	MinTTL = time.Second
	MaxTTL = 24 * time.Hour
	// maxName bounds a source's name, maxText every other text that callers write.
	maxName = 64
	maxText = 128
)

// Class is what becomes of a notification that a client cannot take at once; the zero value means that none was named.
type Class uint8

// The classes. This release accepts Event only.
const (
	NoClass Class = iota
	// Event: every one is delivered, in the order of its channel, or a gap says that some are missing.
	Event
	// State: only the newest of each key matters.
	State
	// Ephemeral: it may be dropped without a word.
	Ephemeral
)

// ParseClass reads the word of a class as jobs of type notify write it: EVENT, STATE or EPHEMERAL. Any other is NoClass.
func ParseClass(word string) Class {
	switch word {
	case "EVENT":
		return Event
	case "STATE":
		return State
	case "EPHEMERAL":
		return Ephemeral
	default:
		return NoClass
	}
}

// Draft is a notification that somebody asks for.
type Draft struct {
	// Source, Tenant, Channel and Key as the caller wrote them.
	Source, Tenant, Channel, Key string
	Class                        Class
	// Data is the JSON that clients get; the room takes the white space out of it.
	Data []byte
	// TTL is nil when absent and negative when it is no valid duration.
	TTL *time.Duration
	// IdempotencyKey makes the id, so that every try makes the same; empty: the id is random.
	IdempotencyKey string
	// JobID is the job that the notification comes from, which lends it its id; empty: a call of Publish.
	JobID string
	// Held is what the call holds in memory beside the draft until its produce has ended, in bytes.
	Held int64
}

// recordBytes is what a record has beside the texts of its draft, at most: id and job id 76, times 30, trace and version headers 200.
const recordBytes = 400

// Bytes is what the draft holds in memory until its produce has ended.
func (d *Draft) Bytes() int64 {
	return d.Held + int64(len(d.Source)+len(d.Tenant)+2*len(d.Channel)+len(d.Key)+len(d.Data)+recordBytes)
}

// Life is how long the notification is worth delivering.
func (d *Draft) Life() time.Duration {
	if d.TTL == nil {
		return MaxTTL
	}
	return *d.TTL
}

// Check judges the form of a draft: nil, or a refusal that names every bad field at once. json says whether the data is JSON, which is not for
// this package to read. The rules are those of notifier.proto, written out because a batch is judged item by item
// (FuzzCheckAgreesWithProto).
func Check(d *Draft, json bool) *Refusal {
	var bad []Violation
	fail := func(ok bool, field, description string) {
		if !ok {
			bad = append(bad, Violation{field, description})
		}
	}
	if channel, err := ParseChannel(d.Channel); err != nil {
		fail(false, "channel", err.Error())
	} else if channel == System {
		fail(false, "channel", "is the notifier's own")
	} else {
		fail(channel.Tenant() == d.Tenant, "channel", fmt.Sprintf("is one of tenant %.128q, the notification is %.128q's", channel.Tenant(), d.Tenant))
	}
	switch d.Class {
	case Event:
	case State, Ephemeral:
		fail(false, "class", "must be EVENT: STATE and EPHEMERAL come with a later release")
	default:
		fail(false, "class", "must be EVENT")
	}
	fail(isText(d.Key), "key", "must be printable ASCII of at most 128 bytes")
	if len(d.Data) <= MaxData { // else the size is what is wrong with it
		fail(json && utf8.Valid(d.Data), "data", "must be JSON in UTF-8")
	}
	fail(d.TTL == nil || *d.TTL >= MinTTL && *d.TTL <= MaxTTL, "ttl", "must be 1 s to 24 h")
	fail(isName(d.Source), "source", "must be 1 to 64 of a-z 0-9 . _ -")
	fail(isText(d.Tenant) && d.Tenant != "", "tenant", "must be 1 to 128 printable ASCII bytes")
	fail(isText(d.IdempotencyKey), "idempotency_key", "must be printable ASCII of at most 128 bytes")
	switch {
	case bad != nil:
		return &Refusal{Reason: Invalid, Message: fmt.Sprintf("%d fields are invalid", len(bad)), Violations: bad}
	case len(d.Data) > MaxData:
		return &Refusal{
			Reason: PayloadTooLarge, Message: fmt.Sprintf("the data is larger than %d bytes", MaxData), Metadata: map[string]string{"limit": fmt.Sprint(MaxData)},
			Violations: []Violation{{"data", fmt.Sprintf("has %d bytes, at most %d are allowed", len(d.Data), MaxData)}},
		}
	}
	return nil
}

// isName holds for names of sources: [a-z0-9._-]{1,64}, which no log line, metric or path can be bent with (S36).
func isName(s string) bool {
	return len(s) > 0 && len(s) <= maxName && strings.IndexFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-'
	}) < 0
}

// isText holds for printable ASCII of at most 128 bytes.
func isText(s string) bool {
	if len(s) > maxText {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Home is where a notification is durable.
type Home struct {
	Partition int32
	Offset    int64
}

// Result is what becomes of one draft.
type Result struct {
	// Refusal is nil for a notification that is durable; then the rest is set.
	Refusal *Refusal
	// ID in canonical text.
	ID   string
	Home Home
}

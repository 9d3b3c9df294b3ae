package core

import (
	"slices"
	"testing"
	"time"
)

func TestPreview(t *testing.T) {
	backlogs := []Backlog{
		{Source: "a", Tenant: "*", Type: "x", Jobs: 1, Bytes: 10}, {Source: "a", Tenant: "t", Type: "y", Jobs: 2, Bytes: 20},
		{Source: "b", Tenant: "t", Type: "x", Jobs: 4, Bytes: 40},
	}
	for _, c := range []struct {
		scope       Scope
		jobs, bytes int64
		sources     int
	}{
		{Scope{Kind: OfSource, Source: "a"}, 3, 30, 1},
		{Scope{Kind: OfTenant, Tenant: "t"}, 6, 60, 2},
		{Scope{Kind: OfFlow, Source: "a", Tenant: "t"}, 2, 20, 1},
		{Scope{Kind: OfSource, Source: "idle"}, 0, 0, 1},
		{Scope{Kind: OfTenant, Tenant: "idle"}, 0, 0, 0},
	} {
		p := PreviewOf(c.scope, backlogs, 5)
		if p.Jobs != c.jobs || p.Bytes != c.bytes || len(p.Sources) != c.sources {
			t.Errorf("%+v: got %+v", c.scope, p)
		}
		if same, other := PreviewOf(c.scope, backlogs, 5), PreviewOf(c.scope, backlogs, 6); same.Etag != p.Etag || other.Etag == p.Etag {
			t.Errorf("%+v: etags %q, %q, %q", c.scope, p.Etag, same.Etag, other.Etag)
		}
	}
}

// TestPreviewCountsALaneOnce: tenants that spill into one lane each report all of it. A resume once told of 28 waiting jobs where there were 11.
func TestPreviewCountsALaneOnce(t *testing.T) {
	backlogs := []Backlog{
		{Source: "a", Tenant: "t1", Type: "x", Jobs: 9, Bytes: 90}, {Source: "a", Tenant: "t2", Type: "x", Jobs: 9, Bytes: 90},
		{Source: "a", Tenant: "t3", Type: "x", Jobs: 8, Bytes: 91}, {Source: "a", Tenant: "t1", Type: "y", Jobs: 2, Bytes: 20},
	}
	for scope, want := range map[Scope]int64{
		{Kind: OfSource, Source: "a"}: 11, {Kind: OfTenant, Tenant: "t1"}: 11, {Kind: OfFlow, Source: "a", Tenant: "t2"}: 9,
	} {
		if p := PreviewOf(scope, backlogs, 0); p.Jobs != want || len(p.Sources) != 1 {
			t.Errorf("%+v: %+v", scope, p)
		}
	}
	if p := PreviewOf(Scope{Kind: OfSource, Source: "a"}, backlogs, 0); p.Bytes != 111 {
		t.Errorf("%d bytes", p.Bytes)
	}
}

func TestStateOf(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for want, s := range map[State]Switch{
		Held: {Verb: Hold}, Blocked: {Verb: Block, Until: now.Add(1)}, Demoted: {Verb: Demote}, Active: {Verb: Hold, Until: now},
	} {
		if got := StateOf(s, now); got != want {
			t.Errorf("%+v: got %v, want %v", s, got, want)
		}
	}
}

// TestTextForPeopleHasNoControlCharacters: a reason could once draw rows into a list, and drive the terminal that shows it.
func TestTextForPeopleHasNoControlCharacters(t *testing.T) {
	for text, ok := range map[string]bool{
		"runaway import, see #12": true, "Überlauf – 停止": true, "a\u200db": true, "a\nb": false, "a\tb": false, "\x1b[31mred": false, "\x7f": false,
		"\u009b31m": false, "\u2028": false, "\u202egpj.exe": false, "\u2066x": false, "\xff": false,
	} {
		if r := (Order{Verb: Hold, Scope: Scope{Kind: OfSource, Source: "a"}, Reason: text}).Validate(); (r == nil) != ok {
			t.Errorf("reason %q: %v", text, r)
		}
		r := Source{Name: "a", Types: []string{"t"}, Description: text}.Validate()
		named := r != nil && slices.ContainsFunc(r.Violations, func(v Violation) bool { return v.Field == "source.description" })
		if named == ok {
			t.Errorf("description %q: %v", text, r)
		}
	}
}

func TestOrderTimes(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		order Order
		until time.Time
	}{
		{Order{Verb: Hold}, now.Add(time.Hour)},
		{Order{Verb: Hold, TTL: time.Minute}, now.Add(time.Minute)},
		{Order{Verb: Hold, UntilResumed: true}, time.Time{}},
		{Order{Verb: Resume}, time.Time{}},
	} {
		if s := c.order.Switch(now); !s.Until.Equal(c.until) || !s.At.Equal(now) {
			t.Errorf("%+v: until %v", c.order, s.Until)
		}
	}
}

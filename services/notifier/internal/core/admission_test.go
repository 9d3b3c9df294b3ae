package core

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// registry is a View of what a test says.
type registry struct {
	sources  map[string]*Source
	blocked  map[string]Effect
	replicas int
}

func (r *registry) Source(name string) *Source                  { return r.sources[name] }
func (r *registry) Effect(source, _ string, _ time.Time) Effect { return r.blocked[source] }
func (r *registry) Replicas() int                               { return r.replicas }

var (
	start  = time.Unix(1_000_000, 0)
	anyone = []string{"*"}
	svc    = Caller{Subject: "service"}
)

func draftOf(source string, bytes int) *Draft {
	return &Draft{Source: source, Tenant: "t1", Channel: "tenant:t1", Class: Event, Data: []byte(`"` + strings.Repeat("a", bytes) + `"`)}
}

func reason(r *Refusal) Reason {
	if r == nil {
		return ""
	}
	return r.Reason
}

// S10: whoever is not bound to a source is told the same, whether it exists, is blocked or never was.
func TestS10OneTextForStrangers(t *testing.T) {
	view := &registry{
		sources: map[string]*Source{"theirs": {Principals: []string{"other"}}, "blocked": {Principals: []string{"other"}}, "nobodys": {}, "two": {Principals: []string{"*", "x"}}},
		blocked: map[string]Effect{"blocked": {Blocked: true, Actor: "anna"}},
	}
	a := NewAdmission(start, 1<<20)
	texts := map[string]bool{}
	for _, source := range []string{"theirs", "blocked", "nobodys", "never-was", "two"} {
		for _, caller := range []Caller{svc, {Subject: "service", Sources: []string{}}, {Subject: "service", Sources: []string{"crm-*"}}, {}} {
			r := a.Admit(start, caller, draftOf(source, 1), view)
			if reason(r) != NotAllowed {
				t.Errorf("%s as %+v: %v", source, caller, r)
				continue
			}
			texts[fmt.Sprintf("%+v", *r)] = true
		}
	}
	if len(texts) != 1 {
		t.Errorf("told apart: %v", texts)
	}
}

func TestWhoMayPublish(t *testing.T) {
	view := &registry{sources: map[string]*Source{"open": {Principals: anyone}, "crm": {Principals: []string{"service"}}, "closed": {}}}
	for _, c := range []struct {
		source string
		caller Caller
		want   Reason
	}{
		{"open", Caller{Subject: "x"}, ""}, {"open", Caller{Subject: "x", Sources: []string{"o*"}}, ""}, {"open", Caller{Subject: "x", Sources: []string{"crm"}}, NotAllowed},
		{"crm", svc, ""}, {"crm", Caller{Subject: "x"}, NotAllowed}, {"crm", Caller{Subject: "x", Sources: []string{"crm"}}, NotAllowed},
		{"closed", Caller{Job: true}, ""}, {"unknown", Caller{Job: true}, UnknownSource}, {"unknown", Caller{Subject: "x", Sources: []string{"unknown"}}, UnknownSource},
	} {
		if got := reason(NewAdmission(start, 1<<20).Admit(start, c.caller, draftOf(c.source, 1), view)); got != c.want {
			t.Errorf("%s as %+v: %q, want %q", c.source, c.caller, got, c.want)
		}
	}
}

// One source holds a quarter, all together the whole, and what is released is there again. One that holds nothing may always hold one.
func TestBytesInFlight(t *testing.T) {
	view := &registry{sources: map[string]*Source{}, replicas: 1}
	for i := range 8 {
		view.sources[fmt.Sprint("s", i)] = &Source{Principals: anyone}
	}
	a := NewAdmission(start, 1<<20)
	held := map[string]int64{}
	for range 100 {
		for source := range view.sources {
			d := draftOf(source, 10<<10)
			if r := a.Admit(start, svc, d, view); r == nil {
				held[source] += d.Bytes()
			} else if r.Reason != Overloaded || r.Retry <= 0 || r.Quota == "" {
				t.Fatal(r)
			}
		}
	}
	sum := int64(0)
	for source, n := range held {
		if sum += n; n > 1<<20/sourceShare {
			t.Errorf("%s holds %d", source, n)
		}
	}
	if used, limit := a.Inflight(); used != sum || used > limit || used < limit*9/10 {
		t.Errorf("%d of %d used, %d held", used, limit, sum)
	}
	for source, n := range held {
		a.Release(source, n)
	}
	if used, _ := a.Inflight(); used != 0 {
		t.Errorf("%d used after all was released", used)
	}
	tiny := NewAdmission(start, 16<<10)
	if r := tiny.Admit(start, svc, draftOf("s0", 10<<10), view); r != nil {
		t.Error("a first one above the share:", r)
	}
}

// A refusal spends no token and holds no byte.
func TestRefusalChangesNothing(t *testing.T) {
	view := &registry{sources: map[string]*Source{"crm": {Principals: anyone, PublishRate: 2}}, blocked: map[string]Effect{}, replicas: 1}
	a := NewAdmission(start, 64<<10)
	full := draftOf("crm", 63<<10)
	if r := a.Admit(start, svc, full, view); r != nil {
		t.Fatal(r)
	}
	for range 10 {
		if r := a.Admit(start, svc, draftOf("crm", 10<<10), view); reason(r) != Overloaded {
			t.Fatal(r)
		}
	}
	view.blocked["crm"] = Effect{Blocked: true, Actor: "anna", Why: "loop", Until: start.Add(time.Hour)}
	if r := a.Admit(start, svc, draftOf("crm", 1), view); reason(r) != SourceBlocked || r.Metadata["actor"] != "anna" || !strings.Contains(r.Message, "loop") {
		t.Fatal(r)
	}
	view.blocked["crm"] = Effect{}
	a.Release("crm", full.Bytes())
	if r := a.Admit(start, svc, draftOf("crm", 1), view); r != nil {
		t.Error("its second token is gone:", r)
	}
	if r := a.Admit(start, svc, draftOf("crm", 1), view); reason(r) != QuotaExceeded || r.Retry != time.Second/2 || r.Quota != "publish_rate" {
		t.Errorf("a third at once: %+v", r)
	}
}

// The quota is divided by the live replicas.
func TestQuotaIsDivided(t *testing.T) {
	view := &registry{sources: map[string]*Source{"crm": {Principals: anyone, PublishRate: 12}}, replicas: 3}
	a := NewAdmission(start, 1<<20)
	n := 0
	for a.Admit(start, svc, draftOf("crm", 1), view) == nil {
		n++
	}
	if n != 4 {
		t.Errorf("%d of 12 at once at one of three", n)
	}
	view.sources["crm"].PublishRate = 0
	if r := a.Admit(start, svc, draftOf("crm", 1), view); r != nil {
		t.Error("without a quota:", r)
	}
}

func BenchmarkAdmit(b *testing.B) {
	view := &registry{sources: map[string]*Source{"crm": {Principals: []string{"service"}, PublishRate: 1e6}}, replicas: 1}
	a, d := NewAdmission(start, 1<<30), draftOf("crm", 256)
	b.ReportAllocs()
	for i := range b.N {
		if r := a.Admit(start.Add(time.Duration(i)*time.Microsecond), svc, d, view); r == nil {
			a.Release("crm", d.Bytes())
		}
	}
}

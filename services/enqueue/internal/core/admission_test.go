package core

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a View over plain maps.
type world struct {
	sources  map[string]*Source
	effects  map[string]Effect
	marks    map[string]*Marks
	replicas int
}

func (w *world) Source(name string) *Source { return w.sources[name] }
func (w *world) Effect(source, tenant string, _ time.Time) Effect {
	return w.effects[source+"/"+tenant]
}
func (w *world) Marks(source string) *Marks { return w.marks[source] }
func (w *world) Replicas() int              { return w.replicas }

func limits() Limits {
	return Limits{InflightBytes: 32 << 20, RecallBytes: 8 << 20, PayloadBytes: 256 << 10}
}

func source(change ...func(*Source)) *Source {
	s := &Source{
		Types: []string{"tag"}, Priority: Default, Ceiling: High, AcceptRate: 20_000, BacklogJobs: 1_000_000, BacklogBytes: 1 << 30,
		Principals: []string{"crm"}, MaxDepth: 100, KeyWindow: 10 * time.Minute,
	}
	for _, c := range change {
		c(s)
	}
	return s
}

func ordinary() *Job { return &Job{Source: "crm-autotag", Tenant: "t1", Type: "tag", Bytes: 500} }

func TestAdmit(t *testing.T) {
	lane := func(marks ...Mark) map[string]*Marks { return map[string]*Marks{"crm-autotag": NewMarks(marks)} }
	for _, c := range []struct {
		name   string
		source *Source
		caller Caller
		job    func(*Job)
		marks  map[string]*Marks
		effect Effect
		want   Placement
		reason Reason
		field  string
	}{
		{name: "plain", want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Default, Own: Default}},
		{name: "named priority", job: func(j *Job) { j.Priority = Low }, want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Low, Own: Low}},
		{name: "above the ceiling", job: func(j *Job) { j.Priority = Critical }, want: Placement{Verdict: Accepted, Lane: NoLane, Topic: High, Own: High}},
		{name: "demoted: the record keeps its own priority", effect: Effect{Demote: Bulk}, want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Bulk, Own: Default}},
		{name: "a demotion never raises", job: func(j *Job) { j.Priority = Bulk }, effect: Effect{Demote: Low}, want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Bulk, Own: Bulk}},
		{name: "soon", job: func(j *Job) { j.NotBefore = start.Add(15 * time.Second) }, want: Placement{Verdict: Delayed, Lane: NoLane, Topic: Default, Own: Default, ReadyAt: start.Add(15 * time.Second)}},
		{name: "in the past is now", job: func(j *Job) { j.NotBefore = start.Add(-time.Hour) }, want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Default, Own: Default}},
		{name: "too far ahead", job: func(j *Job) { j.NotBefore = start.Add(15*time.Second + 1) }, reason: Invalid, field: "job.not_before"},
		{name: "own expiry", job: func(j *Job) { j.ExpiresIn = time.Minute }, want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Default, Own: Default, ExpiresAt: start.Add(time.Minute)}},
		{name: "expiry of the source", source: source(func(s *Source) { s.Expiry = time.Hour }), want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Default, Own: Default, ExpiresAt: start.Add(time.Hour)}},
		{name: "expires before it may start", job: func(j *Job) { j.NotBefore = start.Add(5 * time.Second); j.ExpiresIn = 5 * time.Second }, reason: Invalid, field: "job.expires_in"},
		{name: "too deep", source: source(func(s *Source) { s.MaxDepth = 3 }), job: func(j *Job) { j.Depth = 4 }, reason: Invalid, field: "job.depth"},
		{name: "key of an SDK", job: func(j *Job) { j.Key = "k"; j.KeyTime = start.Add(-KeyLife) }, want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Default, Own: Default}},
		{name: "old key of an SDK", job: func(j *Job) { j.Key = "k"; j.KeyTime = start.Add(-KeyLife - 1) }, reason: KeyExpired},
		{name: "key from the future", job: func(j *Job) { j.Key = "k"; j.KeyTime = start.Add(KeySkew + 1) }, reason: Invalid, field: "job.idempotency_key"},
		{name: "large", job: func(j *Job) { j.PayloadBytes, j.Bytes = 256<<10, 257<<10 }, want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Default, Own: Default}},
		{name: "too large", job: func(j *Job) { j.PayloadBytes = 256<<10 + 1 }, reason: PayloadTooLarge, field: "job.payload"},
		{name: "too much beside the payload", job: func(j *Job) { j.Bytes = 300 << 10 }, reason: PayloadTooLarge, field: "job.payload"},
		{name: "unknown type", job: func(j *Job) { j.Type = "other" }, reason: UnknownType, field: "job.type"},
		{name: "blocked", effect: Effect{Blocked: true, Actor: "anna", Why: "runs away"}, reason: SourceBlocked},
		{name: "held without a lane yet", effect: Effect{Held: true}, want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Default, Own: Default}},
		{name: "held with its lane", effect: Effect{Held: true}, marks: lane(Mark{Tenant: Every, Type: "tag", Lane: 9}), want: Placement{Verdict: Spilled, Lane: 9, Held: true, Topic: Default, Own: Default}},
		{name: "all of the type spills", marks: lane(Mark{Tenant: Every, Type: "tag", Lane: 9}), want: Placement{Verdict: Spilled, Lane: 9, Topic: Default, Own: Default}},
		{name: "its tenant spills", marks: lane(Mark{Tenant: "t1", Type: "tag", Lane: 9}), want: Placement{Verdict: Spilled, Lane: 9, Topic: Default, Own: Default}},
		{name: "another tenant spills", marks: lane(Mark{Tenant: "t2", Type: "tag", Lane: 9}), want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Default, Own: Default}},
		{name: "another type spills", marks: lane(Mark{Tenant: Every, Type: "other", Lane: 9}), want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Default, Own: Default}},
		{name: "soon and spilling", job: func(j *Job) { j.NotBefore = start.Add(time.Second) }, marks: lane(Mark{Tenant: Every, Type: "tag", Lane: 9}), want: Placement{Verdict: Delayed, Lane: 9, Topic: Default, Own: Default, ReadyAt: start.Add(time.Second)}},
		{name: "common lane", marks: lane(Mark{Tenant: Every, Type: "other", Lane: 1, Common: true}), reason: LanesExhausted},
		{name: "backlog of jobs", source: source(func(s *Source) { s.BacklogJobs = 10 }), marks: lane(Mark{Tenant: Every, Type: "tag", Lane: 9, Jobs: 6}, Mark{Tenant: Every, Type: "b", Lane: 17, Jobs: 4}), reason: BacklogFull},
		{name: "tenants of one lane report one backlog", source: source(func(s *Source) { s.BacklogJobs = 10 }), marks: lane(Mark{Tenant: "t1", Type: "tag", Lane: 9, Jobs: 6}, Mark{Tenant: "t2", Type: "tag", Lane: 9, Jobs: 6}), want: Placement{Verdict: Spilled, Lane: 9, Topic: Default, Own: Default}},
		{name: "backlog of bytes", source: source(func(s *Source) { s.BacklogBytes = 1000 }), marks: lane(Mark{Tenant: Every, Type: "tag", Lane: 9, Bytes: 501}), reason: BacklogFull},
		{name: "a full backlog does not ask what was asked of others", source: source(func(s *Source) { s.BacklogJobs, s.BacklogBytes = 0, 0 }), marks: lane(Mark{Tenant: Every, Type: "tag", Lane: 9, Jobs: 1 << 40, Bytes: 1 << 50}), want: Placement{Verdict: Spilled, Lane: 9, Topic: Default, Own: Default}},
		{name: "another source by pattern", caller: Caller{Subject: "crm", Sources: []string{"crm-*"}}, want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Default, Own: Default}},
		{name: "credential of other sources", caller: Caller{Subject: "crm", Sources: []string{"billing"}}, reason: NotAllowed},
		{name: "credential of other types", caller: Caller{Subject: "crm", Types: []string{"mail"}}, reason: NotAllowed},
		{name: "no principal", caller: Caller{Subject: "billing"}, reason: NotAllowed},
		{name: "empty list of principals", source: source(func(s *Source) { s.Principals = nil }), reason: NotAllowed},
		{name: "everybody", source: source(func(s *Source) { s.Principals = []string{"*"} }), caller: Caller{Subject: "billing"}, want: Placement{Verdict: Accepted, Lane: NoLane, Topic: Default, Own: Default}},
		{name: "a star among others is a name", source: source(func(s *Source) { s.Principals = []string{"anna", "*"} }), caller: Caller{Subject: "billing"}, reason: NotAllowed},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.source == nil {
				c.source = source()
			}
			if c.caller.Subject == "" {
				c.caller.Subject = "crm"
			}
			j := ordinary()
			if c.job != nil {
				c.job(j)
			}
			w := &world{sources: map[string]*Source{"crm-autotag": c.source}, effects: map[string]Effect{"crm-autotag/t1": c.effect}, marks: c.marks}
			got, refusal := New(start, limits()).Admit(start, c.caller, j, w)
			if c.reason != "" {
				if refusal == nil || refusal.Reason != c.reason {
					t.Fatalf("got %+v, %v; want %s", got, refusal, c.reason)
				}
				if c.field != "" && (len(refusal.Violations) != 1 || refusal.Violations[0].Field != c.field) {
					t.Fatalf("violations %v, want one of %s", refusal.Violations, c.field)
				}
				return
			}
			if refusal != nil || got != c.want {
				t.Fatalf("got %+v, %v\nwant %+v", got, refusal, c.want)
			}
		})
	}
}

// S10: whoever is not bound to a source cannot tell whether it exists.
func TestS10OneTextForStrangers(t *testing.T) {
	w := &world{
		sources: map[string]*Source{
			"registered": source(), "blocked": source(),
			"own": source(func(s *Source) { s.Principals = []string{"stranger"} }),
		},
		effects: map[string]Effect{"blocked/": {Blocked: true, Actor: "anna"}},
	}
	texts := map[string]bool{}
	for _, name := range []string{"registered", "blocked", "never-was"} {
		for _, typ := range []string{"tag", "unknown"} {
			_, refusal := New(start, limits()).Admit(start, Caller{Subject: "stranger"}, &Job{Source: name, Type: typ}, w)
			if refusal == nil {
				t.Fatal("a stranger was admitted to", name)
			}
			texts[fmt.Sprintf("%+v", *refusal)] = true
		}
	}
	if len(texts) != 1 {
		t.Errorf("a stranger can tell sources apart: %v", texts)
	}
	named := Caller{Subject: "stranger", Sources: []string{"never-*"}}
	if _, refusal := New(start, limits()).Admit(start, named, &Job{Source: "never-was", Type: "tag"}, w); refusal.Reason != UnknownSource || !refusal.Unregistered {
		t.Errorf("a caller whose credential names the source got %+v", refusal)
	}
}

func TestAcceptRate(t *testing.T) {
	w := &world{sources: map[string]*Source{"crm-autotag": source(func(s *Source) { s.AcceptRate, s.Reject = 10, true })}, replicas: 2}
	a := New(start, limits())
	admit := func(now time.Time) *Refusal {
		_, r := a.Admit(now, Caller{Subject: "crm"}, ordinary(), w)
		return r
	}
	for i := range 5 {
		if r := admit(start); r != nil {
			t.Fatalf("job %d of a second's worth for this replica: %v", i, r)
		}
	}
	r := admit(start)
	if r == nil || r.Reason != QuotaExceeded || r.Retry != 200*time.Millisecond || r.Quota != "accept_rate" {
		t.Fatalf("above the rate: %+v", r)
	}
	if r := admit(start.Add(r.Retry - 1)); r == nil {
		t.Error("admitted earlier than promised")
	}
	if r := admit(start.Add(r.Retry)); r != nil {
		t.Error("not admitted when promised:", r)
	}
	// Of a source that spills instead, what is above goes to the lane, even to that of another tenant, and to its topic while there is none.
	w.sources["crm-autotag"].Reject = false
	place, refusal := a.Admit(start.Add(r.Retry), Caller{Subject: "crm"}, ordinary(), w)
	if refusal != nil || place.Lane != NoLane {
		t.Errorf("over the rate without a lane: %+v, %v", place, refusal)
	}
	w.marks = map[string]*Marks{"crm-autotag": NewMarks([]Mark{{Tenant: "t2", Type: "tag", Lane: 9}})}
	place, refusal = a.Admit(start.Add(r.Retry), Caller{Subject: "crm"}, ordinary(), w)
	if refusal != nil || place.Lane != 9 || place.Verdict != Spilled {
		t.Errorf("over the rate with a lane: %+v, %v", place, refusal)
	}
}

func TestIdempotencyConflict(t *testing.T) {
	w := &world{sources: map[string]*Source{"crm-autotag": source(func(s *Source) { s.KeyWindow = time.Minute })}}
	a := New(start, limits())
	admit := func(now time.Time, id, digest byte) *Refusal {
		j := ordinary()
		j.ID[0], j.Digest[0], j.Key = id, digest, "k"
		_, r := a.Admit(now, Caller{Subject: "crm"}, j, w)
		return r
	}
	for _, job := range [][2]byte{{1, 1}, {1, 1}, {2, 2}} { // the second is the first once more
		if admit(start, job[0], job[1]) != nil {
			t.Fatal("refused without a conflict")
		}
	}
	if r := admit(start.Add(59*time.Second), 1, 2); r == nil || r.Reason != IdempotencyConflict {
		t.Fatal("another payload under the key:", r)
	}
	if r := admit(start.Add(time.Minute), 1, 2); r != nil {
		t.Fatal("after the window of the key:", r)
	}
}

func TestRecallIsBounded(t *testing.T) {
	r := NewRecall(recallEntryBytes * 100)
	for i := range 1000 {
		r.remember([16]byte{byte(i), byte(i >> 8)}, [16]byte{1}, 0, time.Hour)
		if r.Len() > 100 {
			t.Fatalf("%d keys after %d, want at most 100", r.Len(), i)
		}
	}
	if !r.conflicts([16]byte{231, 3}, [16]byte{2}, 1) {
		t.Error("forgot the latest key")
	}
}

func TestO1LowestPriorityIsRefusedFirst(t *testing.T) {
	w := &world{sources: map[string]*Source{}}
	a := New(start, Limits{InflightBytes: 100_000, RecallBytes: 1000})
	var refused []Priority
	for i := range 200 { // 200 sources, so that no source's own share is met
		name := fmt.Sprint("s", i)
		w.sources[name] = source(func(s *Source) { s.Ceiling = Critical })
		for p := Critical; p >= Bulk; p-- {
			if slices.Contains(refused, p) {
				continue
			}
			_, r := a.Admit(start, Caller{Subject: "crm"}, &Job{Source: name, Type: "tag", Priority: p, Bytes: 1000}, w)
			if r != nil {
				if r.Reason != Overloaded || r.Retry == 0 {
					t.Fatalf("refused with %+v", r)
				}
				refused = append(refused, p)
			}
		}
	}
	if !slices.Equal(refused, []Priority{Bulk, Low, Default, High, Critical}) {
		t.Errorf("refused in the order %v", refused)
	}
	if used, limit := a.Inflight(); used != limit {
		t.Errorf("critical jobs filled %d of %d bytes", used, limit)
	}
}

// A flood that waits for the broker leaves room for others.
func TestOneSourceHoldsAShare(t *testing.T) {
	w := &world{sources: map[string]*Source{"flood": source(), "victim": source()}}
	a := New(start, limits())
	for {
		if _, r := a.Admit(start, Caller{Subject: "crm"}, &Job{Source: "flood", Type: "tag", Bytes: 100_000}, w); r != nil {
			break
		}
	}
	if used, limit := a.Inflight(); used > limit/4 {
		t.Errorf("the flood holds %d of %d bytes", used, limit)
	}
	if _, r := a.Admit(start, Caller{Subject: "crm"}, &Job{Source: "victim", Type: "tag", Bytes: 100_000}, w); r != nil {
		t.Error("the victim was refused:", r)
	}
}

func TestRateModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := Rate{PerSecond: rapid.Float64Range(0.01, 1e6).Draw(t, "rate"), Burst: rapid.Float64Range(1, 1000).Draw(t, "burst")}
		var state, now int64
		var taken []int64
		for range rapid.IntRange(1, 200).Draw(t, "arrivals") {
			now += rapid.Int64Range(0, int64(2*float64(time.Second)/rate.PerSecond)).Draw(t, "gap")
			next, wait := rate.Take(state, now)
			if wait > 0 {
				if _, again := rate.Take(state, now+int64(wait)); again > 0 || next != state {
					t.Fatalf("refused for %v, then again for %v", wait, again)
				}
				continue
			}
			state = next
			taken = append(taken, now)
			for i := range taken {
				window := float64(now-taken[i]) / float64(time.Second)
				if n := float64(len(taken) - i); n > rate.Burst+window*rate.PerSecond+1e-6 {
					t.Fatalf("%v arrivals in %v s", n, window)
				}
			}
		}
	})
}

// Whatever is asked, in whatever order: what is held is what was accepted and not released, within the limits, and a refusal changes nothing.
func TestRefusalChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &world{sources: map[string]*Source{}, effects: map[string]Effect{}, marks: map[string]*Marks{}, replicas: 1}
		for _, n := range []string{"a", "b", "c"} {
			w.sources[n] = source(func(s *Source) {
				s.AcceptRate, s.Reject = rapid.Float64Range(1, 100).Draw(t, "rate"), rapid.Bool().Draw(t, "reject")
				s.Ceiling = Critical
			})
		}
		a := New(start, Limits{InflightBytes: 10_000, RecallBytes: 100 * recallEntryBytes})
		type held struct {
			source string
			bytes  int64
		}
		var all []held
		now := start
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 50).Draw(t, "ms")) * time.Millisecond)
			if len(all) > 0 && rapid.Bool().Draw(t, "release") {
				i := rapid.IntRange(0, len(all)-1).Draw(t, "which")
				a.Release(all[i].source, all[i].bytes)
				all = slices.Delete(all, i, i+1)
				continue
			}
			j := &Job{
				Source: rapid.SampledFrom([]string{"a", "b", "c", "unknown"}).Draw(t, "source"), Type: rapid.SampledFrom([]string{"tag", "x"}).Draw(t, "type"),
				Priority: Priority(rapid.IntRange(0, 5).Draw(t, "priority")), Bytes: int64(rapid.IntRange(1, 3000).Draw(t, "bytes")),
				Key: rapid.SampledFrom([]string{"", "k"}).Draw(t, "key"), ID: [16]byte{byte(rapid.IntRange(0, 5).Draw(t, "id"))}, Digest: [16]byte{byte(rapid.IntRange(0, 1).Draw(t, "digest"))},
			}
			before := fmt.Sprint(a.budget, a.keys.Len(), a.sdkKeys.Len(), dump(a))
			place, refusal := a.Admit(now, Caller{Subject: "crm"}, j, w)
			if refusal != nil {
				if after := fmt.Sprint(a.budget, a.keys.Len(), a.sdkKeys.Len(), dump(a)); after != before {
					t.Fatalf("%v changed %s to %s", refusal, before, after)
				}
				continue
			}
			if place.Own == None || place.Topic > place.Own || place.Verdict == 0 {
				t.Fatalf("placed at %+v", place)
			}
			all = append(all, held{j.Source, j.Bytes})
			var sum int64
			for _, h := range all {
				sum += h.bytes
			}
			if used, limit := a.Inflight(); used != sum || used > limit {
				t.Fatalf("holds %d of %d, accepted %d", used, limit, sum)
			}
		}
	})
}

func dump(a *Admission) string {
	var rows []string
	for name, acc := range a.accounts {
		rows = append(rows, fmt.Sprint(name, *acc))
	}
	slices.Sort(rows)
	return fmt.Sprint(rows)
}

func BenchmarkAdmit(b *testing.B) {
	w := &world{sources: map[string]*Source{"crm-autotag": source(func(s *Source) { s.AcceptRate = 1e9 })}, replicas: 1}
	a := New(start, limits())
	j := ordinary()
	j.Key, j.KeyTime = "k", start
	for b.Loop() {
		j.ID = [16]byte{byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())}
		if _, r := a.Admit(start, Caller{Subject: "crm"}, j, w); r != nil {
			b.Fatal(r)
		}
		a.Release(j.Source, j.Bytes)
	}
}

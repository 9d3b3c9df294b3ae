package judge

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
)

var update = flag.Bool("update", false, "write testdata anew")

// kept is a run in which all went well.
func kept() *Report {
	named, resumed, drained, others, ramp := 1240.0, 6.2, 41_000.0, 2.0, 20_080
	return &Report{
		Scenario: Avochato, Broker: "embedded",
		Victims: Victims{Quiet: Spread{Jobs: 3000, Finished: 3000, P50: 1.2, P99: 4.1, Max: 11}, Flood: Spread{Jobs: 3000, Finished: 3000, P50: 1.3, P99: 4.6, Max: 14},
			Held: &Spread{Jobs: 600, Finished: 600, P50: 1.2, P99: 4, Max: 9}, Drain: &Spread{Jobs: 9000, Finished: 9000, P50: 1.2, P99: 4.1, Max: 10}, After: &Spread{Jobs: 1600, Finished: 1600, P50: 1.1, P99: 3.9, Max: 8}},
		Notifications: Notifications{Quiet: Spread{Jobs: 3000, P50: 2, P99: 6, Max: 12}, Flood: Spread{Jobs: 3000, P50: 2, P99: 7, Max: 15}, After: &Spread{Jobs: 1600, P50: 2, P99: 6, Max: 9},
			Expected: 188_000, Clients: 40, Stalled: 20},
		Screens:   Screens{Quiet: Spread{Jobs: 3000, P50: 23, P99: 29, Max: 40}, Flood: Spread{Jobs: 3000, P50: 24, P99: 31, Max: 50}, After: &Spread{Jobs: 1600, P50: 23, P99: 28, Max: 33}},
		Flood:     Flood{Source: Flooder, Accepted: 180_000, Finished: 180_000, NamedAfter: &named, Drained: &drained, True: Flooder},
		Switch:    &Switch{HoldMS: 41, ResumeMS: &resumed, StartedInRamp: &ramp},
		Memory:    []Memory{{Process: "broker", Peak: 300 << 20, Ceiling: 1536 << 20}, {Process: "scheduler-0", Peak: 90 << 20, Ceiling: 300 << 20}},
		Generator: Memory{Process: "replay", Peak: 80 << 20},
		Ledger:    tally.Ledger{Sent: 188_000, Accepted: 188_000, Succeeded: 188_000},
		Run:       Run{Seed: 7, Cores: 2, Others: &others, Slots: 64, Schedulers: 1, QuietS: 15, FloodS: 15, HeldS: 3, TookS: 95},
	}
}

// What is printed is a contract: its form changes only on purpose.
func TestWhatIsPrinted(t *testing.T) {
	plain := kept()
	plain.Without, plain.Switch, plain.Flood.Source, plain.Flood.NamedAfter = true, nil, "", nil
	plain.Memory = []Memory{{Process: "broker", Peak: 90 << 20}, {Process: "worker", Peak: 60 << 20}}
	*plain.Run.Others = 22
	plain.Victims.Flood = Spread{Jobs: 3000, Finished: 2700, P50: 20_000, P99: 41_000, Max: 43_000}
	for name, r := range map[string]*Report{"kept": kept(), "without": plain} {
		r.Judge()
		for kind, write := range map[string]func(*bytes.Buffer) error{
			"json": func(b *bytes.Buffer) error { return r.WriteJSON(b) }, "txt": func(b *bytes.Buffer) error { return r.WriteTable(b) },
		} {
			var b bytes.Buffer
			if err := write(&b); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+"."+kind)
			if *update {
				if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(want, b.Bytes()) {
				t.Errorf("%s: %v; printed\n%s", path, err, b.Bytes())
			}
		}
	}
}

// Every promise can be broken by each of its figures, and then the verdict is.
func TestEveryFigureCanBreakItsPromise(t *testing.T) {
	if r := kept(); func() string { r.Judge(); return r.Verdict }() != Kept || len(r.Promises) != 6 || len(r.Unmeasured) != 0 {
		t.Fatalf("%+v", r)
	}
	for _, c := range []struct {
		id, text string
		spoil    func(*Report)
	}{
		{"1", "1 lost", func(r *Report) { r.Ledger.Succeeded--; r.Ledger.Lost = 1 }},
		{"1", "1 still waiting", func(r *Report) { r.Ledger.Succeeded--; r.Ledger.Remaining = 1 }},
		{"1", "187999 outcomes", func(r *Report) { r.Ledger.Succeeded-- }},
		{"1", "although refused", func(r *Report) { r.Ledger.Unexpected = 1 }},
		{"2", "14.2 ms in the flood (at most 14.1 ms)", func(r *Report) { r.Victims.Flood.P99 = 14.2 }},
		{"2", "2800 of 3000", func(r *Report) { r.Victims.Flood.Finished = 2800 }},
		{"2", "15.0 ms while it was held", func(r *Report) { r.Victims.Held.P99 = 15 }},
		{"2", "15.0 ms while it was drained", func(r *Report) { r.Victims.Drain.P99 = 15 }},
		{"2", "no tenant's job", func(r *Report) { r.Victims.Flood = Spread{} }},
		{"3", "nobody was named", func(r *Report) { r.Flood.NamedAfter, r.Flood.Source, r.Switch = nil, "", nil }},
		{"3", "tenant-07 was named", func(r *Report) { r.Flood.Source = "tenant-07" }},
		{"3", "did not succeed", func(r *Report) { r.Switch = nil }},
		{"3", "held after 1.0 s", func(r *Report) { r.Switch.HoldMS = 1001 }},
		{"3", "the resume did not succeed", func(r *Report) { r.Switch.ResumeMS = nil }},
		{"3", "1 started after", func(r *Report) { r.Switch.StartedAfterHold = 1 }},
		{"3", "21001 within 10s", func(r *Report) { *r.Switch.StartedInRamp = 21_001 }},
		{"3", "9999 within 10s", func(r *Report) { *r.Switch.StartedInRamp = 9_999 }},
		{"6", "11.1 ms in the flood", func(r *Report) { r.Notifications.Flood.P99 = 11.1 }},
		{"6", "0.0 ms in the flood", func(r *Report) { r.Notifications.Flood = Spread{} }},
		{"6", "3 of 188000 missing", func(r *Report) { r.Notifications.Missing = 3 }},
		{"6", "3 of 188000 missing and 1 gaps told", func(r *Report) { r.Notifications.Missing, r.Notifications.Gaps = 3, 1 }},
		{"7", "scheduler-0 with 301 of 300", func(r *Report) { r.Memory[1].Peak = 301 << 20 }},
		{"7", "1 restarts", func(r *Report) { r.Memory[0].Restarts = 1 }},
		{"8", "was not gone", func(r *Report) { r.Flood.Drained = nil }},
		{"8", "nothing was sent", func(r *Report) { r.Victims.After = nil }},
		{"8", "then p99 15.0 ms", func(r *Report) { r.Victims.After.P99 = 15 }},
		{"8", "notifications 12.0 ms", func(r *Report) { r.Notifications.After.P99 = 12 }},
	} {
		r := kept()
		c.spoil(r)
		r.Judge()
		broken := 0
		for _, p := range r.Promises {
			if !p.Held {
				broken++
				if p.ID != c.id || !strings.Contains(p.Figure, c.text) {
					t.Errorf("%s %q: %+v", c.id, c.text, p)
				}
			}
		}
		if broken != 1 || r.Verdict != Broken {
			t.Errorf("%s %q: %d broken, verdict %s", c.id, c.text, broken, r.Verdict)
		}
	}
}

// What was not measured is said to be so, and a run that measured nothing keeps
// nothing.
func TestWhatWasNotMeasuredIsNotKept(t *testing.T) {
	r := kept()
	r.Memory = nil
	r.Judge()
	if len(r.Promises) != 5 || len(r.Unmeasured) != 1 || r.Unmeasured[0].ID != "7" {
		t.Errorf("%+v %+v %s", r.Promises, r.Unmeasured, r.Verdict)
	}
	for _, empty := range []*Report{{}, {Without: true}} {
		empty.Judge()
		for _, p := range empty.Promises {
			if p.Held {
				t.Errorf("a run without a figure keeps %+v", p)
			}
		}
		if empty.Verdict != Broken {
			t.Errorf("a run without a figure is %s: %+v", empty.Verdict, empty.Promises)
		}
	}
}

// A source is named when it has ten times the median of the others in two
// counts; the same count twice is one.
func TestNaming(t *testing.T) {
	count := func(flood float64) (list []Talk) {
		for i := range 20 {
			list = append(list, Talk{Source: string(rune('a' + i)), Arrivals: 8 + float64(i%5)})
		}
		return append(list, Talk{Source: "flood", Arrivals: flood})
	}
	var n Namer
	for i, c := range []struct {
		talks []Talk
		named bool
	}{
		{nil, false}, {count(12), false}, {count(99), false}, {count(300), false}, {count(300), false}, {count(11), false},
		{count(5000), false}, {count(9000), true}, {count(9000), true},
	} {
		source, named := n.See(c.talks)
		if named != c.named || named && source != "flood" {
			t.Errorf("count %d: %q, %v", i, source, named)
		}
	}
	n = Namer{}
	for i := range 5 { // nobody to compare with
		if _, named := n.See([]Talk{{Source: "only", Arrivals: 1000 + float64(i)}, {Source: "other", Arrivals: 1}}); named {
			t.Error("named beside a single other")
		}
	}
}

// The flood begins after the quiet time, goes on while it is held, and is
// spread over all tenants; each tenant's own source has its own tenant.
func TestTraffic(t *testing.T) {
	times := Times{Quiet: 2 * time.Second, Flood: 3 * time.Second, Held: time.Second, Drain: 10 * time.Second, After: 2 * time.Second}
	if err := times.Check(); err != nil {
		t.Fatal(err)
	}
	run := Plan(1, times)
	flood := run.Schedules[Tenants]
	if n := flood.Count(); n < 39_999 || n > 40_001 || flood.At(0) < times.Quiet || run.Flows[Tenants].Name != Flooder {
		t.Errorf("flood of %d from %v", n, flood.At(0))
	}
	seen := map[string]bool{}
	for k := range Tenants {
		seen[run.Tenant(Tenants, k)] = true
		if own := run.Tenant(k, 5); own != run.Tenant(k, 0) || !seen[run.Tenant(Tenants, k)] || run.Flows[k].Group() != "tenant" {
			t.Errorf("tenant of %s: %s", run.Flows[k].Name, own)
		}
	}
	if len(seen) != Tenants {
		t.Errorf("the flood reaches %d tenants", len(seen))
	}
	for _, wrong := range []Times{{}, {Quiet: time.Hour, Flood: time.Second, After: time.Second}, {Quiet: time.Second, Flood: time.Second, Held: 0, After: time.Second}} {
		if wrong.Check() == nil {
			t.Errorf("%+v passed", wrong)
		}
	}
}

// Only what the run's own handlers asked for counts, once a reader, and only
// the tenants' own for the times.
func TestPost(t *testing.T) {
	base := time.Unix(1_700_000_000, 0)
	run := Plan(7, Times{Quiet: time.Second, Flood: 2 * time.Second, Drain: 6 * time.Second, After: time.Second})
	p := NewPost(run, 2)
	p.Begin(base)
	at := func(d time.Duration) int64 { return base.Add(d).UnixNano() }
	took := func(reader int, l Letter, after time.Duration) {
		p.Took(reader, l.Write(), time.Unix(0, l.At).Add(after))
	}
	took(0, Letter{Run: 7, Flow: 3, Job: 99, At: at(time.Second)}, 2*time.Millisecond)
	took(1, Letter{Run: 7, Flow: 3, Job: 99, At: at(time.Second)}, 4*time.Millisecond)
	took(1, Letter{Run: 7, Flow: 3, Job: 99, At: at(time.Second)}, 9*time.Millisecond) // again
	took(0, Letter{Run: 7, Flow: Tenants, Job: 1, At: at(time.Second)}, time.Second)   // of the flood
	took(0, Letter{Run: 8, Flow: 3, Job: 1, At: at(time.Second)}, time.Second)         // of another run
	took(0, Letter{Run: 7, Flow: 3, Job: 200, At: at(time.Second)}, time.Second)       // there is none
	p.Took(0, []byte("no letter"), base)
	took(0, Letter{Run: 7, Flow: 4, Job: 0, At: at(3 * time.Second)}, 6*time.Millisecond)
	p.Gap()
	p.Cut()
	if s := p.Between(0, 2*time.Second); s.Jobs != 2 || s.P50 != 2 || s.Max != 4 {
		t.Errorf("%+v", s)
	}
	if s := p.Between(2*time.Second, 4*time.Second); s.Jobs != 1 || s.P99 != 6 {
		t.Errorf("%+v", s)
	}
	// Job 0 of flow 4 was due at its phase of the first tenth of a second; it was asked for at 3 s and took 6 ms.
	due := run.Schedules[4].At(0)
	if s := p.Screens(0, 100*time.Millisecond); s.Jobs != 1 || s.Max != float64((3*time.Second+6*time.Millisecond-due).Round(time.Microsecond).Microseconds())/1000 {
		t.Errorf("%+v, due %v", s, due)
	}
	if !p.Has(0, 3, 99) || !p.Has(0, Tenants, 1) || p.Has(1, Tenants, 1) || p.Has(0, 3, 1) {
		t.Error("who has what")
	}
	if again, gaps, cuts := p.Counts(); again != 1 || gaps != 1 || cuts != 1 {
		t.Error(again, gaps, cuts)
	}
	if b := (Letter{At: at(0), Run: 1 << 53}).Write(); len(b) < TextBytes || len(b) > TextBytes+100 {
		t.Errorf("%d bytes", len(b))
	}
}

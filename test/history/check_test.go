package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// rules are those of the takeover tests, with two sources that have quotas.
var rules = Rules{
	Limits: map[string]Limit{"narrow": {Concurrency: 2}, "slow": {Rate: 5, Burst: 3}},
	TTL:    20 * time.Second, RenewEvery: 5 * time.Second, Quarantine: 29 * time.Second,
	Jitter: 100 * time.Millisecond, Unsettled: time.Second, Starved: 5 * time.Second, Recovery: 40 * time.Second,
	Accepted: 0.9, Jobs: 20, Faults: 1, Takeovers: 1,
}

// script writes a history by hand. Times are in milliseconds.
type script struct{ events []Event }

func (s *script) at(ms int, e Event) *Event {
	e.Mono = int64(ms) * int64(time.Millisecond)
	if e.Proc == "" {
		e.Proc = "worker-0"
	}
	s.events = append(s.events, e)
	return &s.events[len(s.events)-1]
}

func token(epoch, counter int64) *Token { return &Token{Shard: 1, Epoch: epoch, Counter: counter} }

func (s *script) send(ms int, key, source string, answer Kind) {
	s.at(ms, Event{Kind: Invoke, Key: key, Source: source, Due: int64(ms) * int64(time.Millisecond), Sum: "s"})
	e := Event{Kind: answer, Key: key, Source: source}
	if answer == OK {
		e.Job = "id-" + key
	}
	s.at(ms+2, e)
}

func (s *script) exec(from, to int, key, source string, t *Token, proc string) {
	s.at(from, Event{Kind: Start, Key: key, Job: "id-" + key, Source: source, Token: t, Sum: "s", Proc: proc})
	if to > 0 {
		s.at(to, Event{Kind: End, Key: key, Job: "id-" + key, Source: source, Token: t, Code: "ok", Proc: proc})
	}
}

// cut is an execution whose context ended.
func (s *script) cut(from, to int, key string, t *Token, proc string) {
	s.at(from, Event{Kind: Start, Key: key, Job: "id-" + key, Source: "plain", Token: t, Sum: "s", Proc: proc})
	s.at(to, Event{Kind: End, Key: key, Job: "id-" + key, Source: "plain", Token: t, Code: contextEnded + "the lease was lost", Proc: proc})
}

func (s *script) settle(ms, offset int, key string, epoch int64, lease *Token, outcome string) {
	s.at(ms, Event{Kind: Settled, Job: "id-" + key, Token: &Token{Shard: 1, Epoch: epoch}, Lease: lease, Offset: int64(offset), Code: outcome})
}

func (s *script) fence(ms, offset int) {
	s.at(ms, Event{Kind: Fence, Token: &Token{Shard: 1, Epoch: int64(offset)}, Offset: int64(offset)})
}

// clean is a run with everything that may happen in one that keeps all promises:
// 24 ordinary jobs, a kill of the owner, a job that it found running and that goes
// on under the new one, one that runs again, one of unknown fate, one that fails
// once by order, an outcome of the old owner that came too late, and a hold.
func clean() *script {
	s := &script{}
	s.fence(1, 1)
	for i := range 24 {
		key, at := fmt.Sprintf("j%d", i), 100+400*i
		s.send(at, key, "plain", OK)
		s.exec(at+5, at+20, key, "plain", token(1, int64(i+1)), "worker-0")
		s.settle(at+25, 10+i, key, 1, token(1, int64(i+1)), "SUCCEEDED")
	}
	s.send(10_000, "running", "plain", OK)
	s.exec(10_010, 22_000, "running", "plain", token(1, 100), "worker-0")
	s.send(10_000, "again", "plain", OK)
	s.exec(10_010, 10_990, "again", "plain", token(1, 101), "worker-0")
	s.send(10_500, "unknown", "plain", Info)
	s.at(11_000, Event{Kind: Fault, Target: "scheduler-b", Code: Kill})
	s.at(11_000, Event{Kind: Heal, Target: "scheduler-b"})
	s.fence(17_100, 60)
	s.settle(17_050, 61, "j23", 1, token(1, 24), "DEAD") // of the old owner, behind the fence
	s.settle(22_010, 62, "running", 60, token(1, 100), "SUCCEEDED")
	s.exec(46_200, 46_300, "again", "plain", token(60, 1), "worker-1")
	s.settle(46_310, 63, "again", 60, token(60, 1), "SUCCEEDED")
	s.exec(46_210, 46_300, "unknown", "plain", token(60, 2), "worker-1")
	s.settle(46_310, 64, "unknown", 60, token(60, 2), "SUCCEEDED")
	s.send(60_000, "fails", "plain", OK)
	s.exec(60_010, 0, "fails", "plain", token(60, 3), "worker-1")
	s.at(60_020, Event{Kind: End, Key: "fails", Token: token(60, 3), Code: byOrder, Proc: "worker-1"})
	s.exec(61_100, 61_120, "fails", "plain", token(60, 4), "worker-0")
	s.settle(61_130, 65, "fails", 60, token(60, 4), "SUCCEEDED")
	s.at(62_000, Event{Kind: Hold, Source: "plain"})
	s.send(62_100, "waits", "plain", OK)
	s.at(70_000, Event{Kind: Resume, Source: "plain"})
	s.exec(70_010, 70_020, "waits", "plain", token(60, 5), "worker-0")
	s.settle(70_030, 66, "waits", 60, token(60, 5), "SUCCEEDED")
	return s
}

// judge puts a script's events in order, as Read does.
func judge(s *script, r Rules) *Verdict {
	events := slices.Clone(s.events)
	slices.SortStableFunc(events, func(a, b Event) int { return int(a.Mono - b.Mono) })
	return Check(events, r)
}

func TestCleanHistory(t *testing.T) {
	v := judge(clean(), rules)
	if !v.Clean() || v.Duplicates != 1 || v.DuplicatesOf(0) != 1 || v.Stale != 1 || v.Sent != 29 || v.Accepted != 28 || v.Unknown != 1 || v.Ran != 29 {
		t.Error(v)
	}
}

// TestNamesEveryAnomaly plants one anomaly each in the clean history; the checker
// names it, and nothing else.
func TestNamesEveryAnomaly(t *testing.T) {
	const quiet = 100_000 // ms: everything has recovered
	for name, plant := range map[string]func(*script){
		"lost": func(s *script) { s.send(quiet, "x", "plain", OK) },
		"lost in spite of an outcome": func(s *script) {
			s.send(quiet, "x", "plain", OK)
			s.settle(quiet+10, 70, "x", 60, nil, "SUCCEEDED")
		},
		"unexpected": func(s *script) {
			s.exec(quiet, quiet+10, "x", "plain", token(60, 9), "worker-0")
			s.settle(quiet+20, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
		"aborted-read": func(s *script) {
			s.send(quiet, "x", "plain", Fail)
			s.exec(quiet+10, quiet+20, "x", "plain", token(60, 9), "worker-0")
			s.settle(quiet+20, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
		"duplicate-exec": func(s *script) {
			s.send(quiet, "x", "plain", OK)
			s.exec(quiet+10, quiet+20, "x", "plain", token(60, 9), "worker-0")
			s.exec(quiet+30, quiet+40, "x", "plain", token(60, 10), "worker-1")
			s.settle(quiet+50, 70, "x", 60, token(60, 10), "SUCCEEDED")
		},
		"duplicate-exec of what had ended long before the fault": func(s *script) {
			s.send(8_000, "x", "plain", OK)
			s.exec(8_010, 8_020, "x", "plain", token(1, 200), "worker-0")
			s.exec(46_000, 46_010, "x", "plain", token(60, 9), "worker-1")
			s.settle(46_020, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
		"duplicate-exec of what ran when a scheduler stopped in order": func(s *script) {
			s.at(quiet, Event{Kind: Fault, Target: "scheduler-c", Code: Stop})
			s.at(quiet+10, Event{Kind: Heal, Target: "scheduler-c"})
			s.send(quiet-20, "x", "plain", OK)
			s.exec(quiet-10, quiet+10, "x", "plain", token(60, 9), "worker-0")
			s.exec(quiet+30, quiet+40, "x", "plain", token(60, 10), "worker-1")
			s.settle(quiet+50, 70, "x", 60, token(60, 10), "SUCCEEDED")
		},
		"lease-overlap": func(s *script) {
			s.send(10_900, "x", "plain", OK)
			s.exec(10_950, 20_000, "x", "plain", token(1, 102), "worker-0")
			s.exec(17_200, 17_300, "x", "plain", token(60, 9), "worker-1")
			s.settle(17_310, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
		"lease-overlap with an execution that nobody saw end": func(s *script) {
			s.send(10_900, "x", "plain", OK)
			s.exec(10_950, 0, "x", "plain", token(1, 102), "worker-0")
			s.exec(17_200, 17_300, "x", "plain", token(60, 9), "worker-1")
			s.settle(17_310, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
		"stale-token-accepted": func(s *script) { // the report of the first run, after the second began
			s.send(10_900, "x", "plain", OK)
			s.exec(10_950, 11_200, "x", "plain", token(1, 102), "worker-0")
			s.exec(46_000, 46_100, "x", "plain", token(60, 9), "worker-1")
			s.settle(46_400, 70, "x", 60, token(1, 102), "SUCCEEDED")
		},
		"stale-token-accepted as a token that does not rise": func(s *script) {
			s.send(10_900, "x", "plain", OK)
			s.exec(10_950, 11_200, "x", "plain", token(60, 9), "worker-0")
			s.exec(46_000, 46_100, "x", "plain", token(60, 9), "worker-1")
			s.settle(46_400, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
		"cancelled": func(s *script) { // its second run is excused: it was in flight at the kill
			s.send(10_900, "x", "plain", OK)
			s.cut(10_950, 18_000, "x", token(1, 102), "worker-0")
			s.exec(46_000, 46_100, "x", "plain", token(60, 9), "worker-1")
			s.settle(46_110, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
		"over-quota by concurrency": func(s *script) {
			for i := range 3 {
				key := fmt.Sprint("x", i)
				s.send(quiet, key, "narrow", OK)
				s.exec(quiet+10+i, quiet+100+i, key, "narrow", token(60, int64(9+i)), "worker-0")
				s.settle(quiet+110, 70+i, key, 60, token(60, int64(9+i)), "SUCCEEDED")
			}
		},
		"over-quota by concurrency, five after a crash": func(s *script) {
			for i := range 5 {
				key := fmt.Sprint("x", i)
				s.send(20_000, key, "narrow", OK)
				s.exec(20_010+i, 20_100+i, key, "narrow", token(60, int64(9+i)), "worker-0")
				s.settle(20_110, 70+i, key, 60, token(60, int64(9+i)), "SUCCEEDED")
			}
		},
		"over-quota by rate and burst": func(s *script) {
			for i := range 9 { // 5 + 3 + a tenth of 5 are allowed in a second
				key := fmt.Sprint("x", i)
				s.send(quiet, key, "slow", OK)
				s.exec(quiet+10+i, quiet+20+i, key, "slow", token(60, int64(9+i)), "worker-0")
				s.settle(quiet+110, 70+i, key, 60, token(60, int64(9+i)), "SUCCEEDED")
			}
		},
		"starved": func(s *script) {
			s.send(quiet, "x", "plain", OK)
			s.exec(quiet+5_010, quiet+5_020, "x", "plain", token(60, 9), "worker-0")
			s.settle(quiet+5_030, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
		"completed-and-dead": func(s *script) {
			s.send(quiet, "x", "plain", OK)
			s.exec(quiet+10, quiet+20, "x", "plain", token(60, 9), "worker-0")
			s.settle(quiet+30, 70, "x", 60, token(60, 9), "SUCCEEDED")
			s.settle(quiet+40, 71, "x", 60, token(60, 9), "DEAD")
		},
		"acked-twice": func(s *script) {
			s.send(quiet, "x", "plain", OK)
			s.exec(quiet+10, quiet+20, "x", "plain", token(60, 9), "worker-0")
			s.settle(quiet+30, 70, "x", 60, token(60, 9), "SUCCEEDED")
			s.settle(quiet+40, 71, "x", 60, token(60, 9), "SUCCEEDED")
		},
		"healthy-dead": func(s *script) {
			s.send(quiet, "x", "plain", OK)
			s.exec(quiet+10, quiet+20, "x", "plain", token(60, 9), "worker-0")
			s.settle(quiet+30, 70, "x", 60, token(60, 9), "DEAD")
		},
		"outcome-missing": func(s *script) {
			s.send(quiet, "x", "plain", OK)
			s.exec(quiet+10, quiet+20, "x", "plain", token(60, 9), "worker-0")
		},
		"outcome-missing because the only one is of an old owner": func(s *script) {
			s.send(10_900, "x", "plain", OK)
			s.exec(10_950, 11_200, "x", "plain", token(1, 102), "worker-0")
			s.settle(17_200, 70, "x", 1, token(1, 102), "SUCCEEDED")
		},
		"two-ids": func(s *script) {
			s.send(quiet, "x", "plain", OK)
			s.at(quiet+3, Event{Kind: OK, Key: "x", Source: "plain", Job: "id-y"})
			s.exec(quiet+10, quiet+20, "x", "plain", token(60, 9), "worker-0")
			s.settle(quiet+30, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
		"payload-mutated": func(s *script) {
			s.send(quiet, "x", "plain", OK)
			s.exec(quiet+10, quiet+20, "x", "plain", token(60, 9), "worker-0")
			s.events[len(s.events)-2].Sum = "another"
			s.settle(quiet+30, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
		"post-hold-start": func(s *script) {
			s.send(61_500, "x", "plain", OK)
			s.exec(62_001, 62_010, "x", "plain", token(60, 9), "worker-0")
			s.settle(62_020, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := clean()
			plant(s)
			v := judge(s, rules)
			want, _, _ := strings.Cut(name, " ")
			if got := slices.Sorted(maps.Keys(v.Anomalies)); !slices.Equal(got, []string{want}) || len(v.Invalid) != 0 {
				t.Errorf("named %v:\n%v", got, v)
			}
		})
	}
}

// TestAllowsWhatIsPromised: what looks like an anomaly and is none.
func TestAllowsWhatIsPromised(t *testing.T) {
	for name, plant := range map[string]func(*script){
		"twice the concurrency after a crash": func(s *script) {
			for i := range 4 {
				key := fmt.Sprint("x", i)
				s.send(20_000, key, "narrow", OK)
				s.exec(20_010+i, 20_100+i, key, "narrow", token(60, int64(9+i)), "worker-0")
				s.settle(20_110, 70+i, key, 60, token(60, int64(9+i)), "SUCCEEDED")
			}
		},
		"an execution of a worker that was killed does not overlap": func(s *script) {
			s.send(10_500, "x", "plain", OK)
			s.exec(10_550, 0, "x", "plain", token(1, 102), "worker-9")
			s.at(10_900, Event{Kind: Fault, Target: "worker-9", Code: Kill})
			s.at(10_900, Event{Kind: Heal, Target: "worker-9"})
			s.exec(30_600, 30_700, "x", "plain", token(60, 9), "worker-1")
			s.settle(30_710, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
		"a frozen worker loses its lease": func(s *script) {
			s.send(10_500, "x", "plain", OK)
			s.exec(10_550, 50_000, "x", "plain", token(1, 102), "worker-9")
			s.at(10_900, Event{Kind: Fault, Target: "worker-9", Code: Freeze})
			s.at(49_000, Event{Kind: Heal, Target: "worker-9"})
			s.exec(30_600, 30_700, "x", "plain", token(60, 9), "worker-1")
			s.settle(30_710, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
		"a frozen worker cuts what it ran": func(s *script) {
			s.send(10_500, "x", "plain", OK)
			s.at(10_900, Event{Kind: Fault, Target: "worker-9", Code: Freeze})
			s.at(49_000, Event{Kind: Heal, Target: "worker-9"})
			s.cut(10_550, 49_010, "x", token(1, 102), "worker-9")
			s.exec(30_600, 30_700, "x", "plain", token(60, 9), "worker-1")
			s.settle(30_710, 70, "x", 60, token(60, 9), "SUCCEEDED")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := clean()
			plant(s)
			if v := judge(s, rules); !v.Clean() {
				t.Error(v)
			}
		})
	}
}

// TestARunWithoutAFaultProvesNothing: the nemesis is taken out, one part at a time.
func TestARunWithoutAFaultProvesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Rules)
		want   string
	}{
		"no fault":          {func(r *Rules) { r.Faults = 2 }, "1 faults fired and healed, want 2"},
		"nobody was hit":    {func(r *Rules) { r.Takeovers = 2 }, "1 takeovers after the first fault, want 2"},
		"little was sent":   {func(r *Rules) { r.Jobs = 100 }, "29 jobs were sent, want 100"},
		"little was let in": {func(r *Rules) { r.Accepted = 1 }, "28 of 29 were accepted"},
	} {
		t.Run(name, func(t *testing.T) {
			r := rules
			c.change(&r)
			v := judge(clean(), r)
			if v.Clean() || len(v.Anomalies) != 0 || !strings.Contains(strings.Join(v.Invalid, "; "), c.want) {
				t.Error(v)
			}
		})
	}
}

// TestWaits: what a fault found is told apart from what came after it.
func TestWaits(t *testing.T) {
	s := clean()
	s.events = slices.DeleteFunc(s.events, func(e Event) bool {
		return e.Kind == Hold || e.Kind == Resume || e.Key == "waits" || e.Job == "id-waits"
	})
	s.at(500, Event{Kind: Handover, Token: token(1, 0)}) // the owner got the shard back: no fence follows
	s.send(10_800, "found", "plain", OK)                 // lies in the log when the shard changes hands
	s.exec(17_500, 17_510, "found", "plain", token(60, 20), "worker-0")
	s.settle(17_520, 80, "found", 60, token(60, 20), "SUCCEEDED")
	s.send(17_200, "fresh", "plain", OK)
	s.exec(17_530, 17_540, "fresh", "plain", token(60, 21), "worker-0")
	s.settle(17_550, 81, "fresh", 60, token(60, 21), "SUCCEEDED")
	s.at(61_900, Event{Kind: Hold, Source: "held"})
	s.at(70_000, Event{Kind: Resume, Source: "held"})
	s.send(17_200, "waits in a lane", "held", OK)
	s.exec(29_530, 29_540, "waits in a lane", "held", token(60, 22), "worker-0")
	s.settle(29_550, 83, "waits in a lane", 60, token(60, 22), "SUCCEEDED")
	s.send(17_200, "limited", "narrow", OK) // waits for its quota
	s.exec(29_530, 29_540, "limited", "narrow", token(60, 23), "worker-0")
	s.settle(29_550, 82, "limited", 60, token(60, 23), "SUCCEEDED")
	v := judge(s, rules)
	w := v.Waits(0, 40*time.Second)
	if !strings.HasPrefix(w.Worst[0], "fresh of plain") || !strings.HasPrefix(w.Worst[1], "found of plain") {
		t.Errorf("worst %q", w.Worst)
	}
	w.Worst = [2]string{}
	want := Waits{
		Fresh: 328 * time.Millisecond, FreshP99: 328 * time.Millisecond, FreshJobs: 1, Found: 6500 * time.Millisecond, FoundJobs: 1,
		Flight: 35_300 * time.Millisecond, FlightJobs: 2, Call: 2 * time.Millisecond, Gap: 6100 * time.Millisecond, Shards: 1, Beyond: 598 * time.Millisecond,
	}
	if w != want {
		t.Errorf("got  %+v\nwant %+v", w, want)
	}
	if q := v.QuietWait(); q != 8*time.Millisecond {
		t.Errorf("quiet wait %v, want that of an ordinary job", q)
	}
}

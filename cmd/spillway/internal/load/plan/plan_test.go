package plan

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParse(t *testing.T) {
	flows, err := Parse([]string{
		"victim*20=10,work=20ms",
		"flood=10000,work=20ms,hang=2%:10s,tenants=1000,type=tag,priority=bulk,payload=65536",
		"plain=0.5,payload=0",
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(flows) != 22 || flows[0].Name != "victim-01" || flows[19].Name != "victim-20" {
		t.Fatalf("flows = %v", flows)
	}
	want := Flow{Name: "flood", Rate: 10000, Work: 20 * time.Millisecond, HangShare: 0.02, HangFor: 10 * time.Second,
		Tenants: 1000, Type: "tag", Priority: "bulk", Payload: 65536}
	if flows[20] != want {
		t.Errorf("flood = %+v, want %+v", flows[20], want)
	}
	want = Flow{Name: "plain", Rate: 0.5, Tenants: 1, Type: "load", Payload: InstructionBytes}
	if flows[21] != want {
		t.Errorf("plain = %+v, want %+v", flows[21], want)
	}
	if g := flows[3].Group(); g != "victim" {
		t.Errorf("group of %s = %q", flows[3].Name, g)
	}
	for name, group := range map[string]string{"flood": "", "crm-autotag": "", "a-1": "a", "a-b-12": "a-b", "-1": "", "a-": ""} {
		if g := (Flow{Name: name}).Group(); g != group {
			t.Errorf("group of %q = %q, want %q", name, g, group)
		}
	}
}

func TestParseNamesEveryProblem(t *testing.T) {
	for spec, want := range map[string]string{
		"x":                   "NAME=RATE",
		"x=":                  "rate",
		"x=0":                 "rate",
		"x=NaN":               "rate",
		"x=1e9":               "rate",
		"X=1":                 "name",
		"x*0=1":               "number of flows",
		"x*9999=1":            "number of flows",
		"x=1,work":            "key=value",
		"x=1,work=-1s":        "duration",
		"x=1,hang=10s":        "SHARE%:DURATION",
		"x=1,hang=200%:1s":    "share",
		"x=1,tenants=0":       "whole number",
		"x=1,priority=urgent": "want critical",
		"x=1,payload=1000000": "whole number",
		"x=1,colour=red":      "unknown key",
	} {
		if _, err := Parse([]string{spec, spec + "!"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", spec, err, want)
		}
	}
	_, err := Parse([]string{"a=1", "a=2", "b=x"})
	if err == nil || !strings.Contains(err.Error(), "named twice") || !strings.Contains(err.Error(), "rate") {
		t.Errorf("error %v, want both problems", err)
	}
}

func TestScheduleCountsWhatIsDue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := Schedule{
			Start: time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(t, "start")),
			Rate:  rapid.Float64Range(0.1, 50_000).Draw(t, "rate"),
			Phase: rapid.Float64Range(0, 0.999).Draw(t, "phase"),
		}
		s.End = s.Start + time.Duration(rapid.Int64Range(0, int64(2*time.Second)).Draw(t, "for"))
		at := time.Duration(rapid.Int64Range(0, int64(23*time.Second)).Draw(t, "at"))
		n := s.Due(at)
		if n > 0 && (s.At(n-1) >= at || s.At(n-1) >= s.End) {
			t.Fatalf("job %d is due at %v, not before %v", n-1, s.At(n-1), at)
		}
		if s.At(n) < min(at, s.End) {
			t.Fatalf("job %d is due at %v, before %v, and left out", n, s.At(n), at)
		}
	})
}

func TestRunLaysFlowsOut(t *testing.T) {
	flows, err := Parse([]string{"victim*2=10", "flood=1000", "flood-b=500"})
	if err != nil {
		t.Fatal(err)
	}
	r := NewRun(7, flows, 15*time.Second, 30*time.Second)
	for i, want := range []int{450, 450, 30_000, 15_000} {
		if n := r.Schedules[i].Count(); n < want-1 || n > want+1 {
			t.Errorf("%s sends %d jobs, want %d", flows[i].Name, n, want)
		}
	}
	if r.Schedules[0].Phase == r.Schedules[1].Phase {
		t.Error("two flows of one rate send in the same instant")
	}
	if first := r.Schedules[2].At(0); first < 15*time.Second {
		t.Errorf("flood begins at %v, in the quiet phase", first)
	}
}

func TestJobsFollowFromTheirNames(t *testing.T) {
	flows, err := Parse([]string{"a=100,work=20ms,hang=2%:10s,tenants=3,payload=100"})
	if err != nil {
		t.Fatal(err)
	}
	r := NewRun(42, flows, 0, 100*time.Second)
	hangs, keys := 0, make(map[[10]byte]bool)
	for k := range 10_000 {
		p := r.Payload(0, k)
		in, err := ParsePayload(p)
		if err != nil || len(p) != 100 || in != r.Instruction(0, k) || in.Seq != uint32(k) || in.Seed != 42 {
			t.Fatalf("job %d: %+v, %v, %d bytes", k, in, err, len(p))
		}
		if in.Work == 10*time.Second {
			hangs++
		}
		keys[r.KeyBytes(0, k)] = true
	}
	if hangs < 150 || hangs > 250 {
		t.Errorf("%d of 10,000 jobs hang, want about 200", hangs)
	}
	if len(keys) != 10_000 {
		t.Errorf("%d distinct keys of 10,000", len(keys))
	}
	if r.Tenant(0, 0) != "t1" || r.Tenant(0, 5) != "t3" {
		t.Errorf("tenants %s, %s", r.Tenant(0, 0), r.Tenant(0, 5))
	}
	if bytes.Equal(r.Payload(0, 1)[InstructionBytes:], r.Payload(0, 2)[InstructionBytes:]) {
		t.Error("filler repeats")
	}
	if _, err := ParsePayload([]byte("something that another program wrote into its job")); err != ErrForeign {
		t.Errorf("foreign payload: %v", err)
	}
}

func FuzzParsePayload(f *testing.F) {
	r := NewRun(1, []Flow{{Name: "a", Rate: 1, Tenants: 1, Payload: 64}}, 0, time.Second)
	f.Add(r.Payload(0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if in, err := ParsePayload(b); err == nil && (in.Work < 0 || in.Work > MaxWork) {
			t.Fatalf("instruction out of bounds: %+v", in)
		}
	})
}

package replay

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/spillway/spillway/test/product"
)

// report is what the contract names of the JSON.
type report struct {
	Scenario string `json:"scenario"`
	Broker   string `json:"broker"`
	Verdict  string `json:"verdict"`
	Promises []struct {
		ID     string `json:"id"`
		Name   string `json:"name"`
		Held   bool   `json:"held"`
		Figure string `json:"figure"`
	} `json:"promises"`
	Unmeasured []struct {
		ID string `json:"id"`
	} `json:"not_measured"`
	Victims struct {
		Quiet, Flood spread
	} `json:"victims"`
	Notifications struct {
		Quiet, Flood                           spread
		Expected, Missing, Gaps, Cuts, Stalled int
	} `json:"notifications"`
	Flood struct {
		Source     string   `json:"source"`
		Accepted   int      `json:"accepted"`
		Finished   int      `json:"finished"`
		NamedAfter *float64 `json:"named_after_ms"`
	} `json:"flood"`
	Switch *struct {
		Hold             float64 `json:"hold_ms"`
		StartedAfterHold int     `json:"started_after_hold"`
		Resume           float64 `json:"resume_ms"`
	} `json:"switch"`
	Memory []struct {
		Process string `json:"process"`
		Peak    int64  `json:"peak_rss_bytes"`
	} `json:"memory"`
	Ledger product.Ledger `json:"ledger"`
}

type spread struct {
	Jobs int     `json:"jobs"`
	P50  float64 `json:"p50_ms"`
	P99  float64 `json:"p99_ms"`
	Max  float64 `json:"max_ms"`
}

// limit outlasts a short run on a busy machine.
const limit = 4 * time.Minute

func replay(t *testing.T, flags ...string) report {
	t.Helper()
	out, talk, code := product.Run(t, limit, append([]string{"replay", "avochato-2020", "-o", "json", "--quiet", "3s", "--flood", "3s", "--held", "1s", "--after", "2s"}, flags...)...)
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("exit %d, %v:\n%s\n%s", code, err, out, talk)
	}
	for _, p := range r.Promises {
		t.Logf("%s %v: %s", p.ID, p.Held, p.Figure)
	}
	if want := map[string]int{"kept": 0, "broken": 1}[r.Verdict]; code != want {
		t.Errorf("verdict %q with exit status %d", r.Verdict, code)
	}
	if r.Scenario != "avochato-2020" || r.Broker != "embedded" || r.Victims.Quiet.Jobs != 600 || r.Victims.Flood.Jobs < 590 || r.Notifications.Stalled != 20 {
		t.Errorf("%+v", r)
	}
	return r
}

// held returns the verdict on one promise, which has to be there.
func (r report) held(t *testing.T, id string) bool {
	t.Helper()
	for _, p := range r.Promises {
		if p.ID == id {
			return p.Held
		}
	}
	t.Errorf("promise %s was not measured", id)
	return false
}

func TestReplayWithSpillway(t *testing.T) {
	r := replay(t)
	// Time is what a busy machine takes from everybody; these do not depend on it.
	for _, id := range []string{"1", "3", "7"} {
		if !r.held(t, id) {
			t.Errorf("promise %s is broken", id)
		}
	}
	r.held(t, "2")
	r.held(t, "6")
	r.held(t, "8")
	if r.Flood.Source != "conversation-management" || r.Flood.NamedAfter == nil || r.Switch == nil || r.Switch.StartedAfterHold != 0 {
		t.Errorf("%+v %+v", r.Flood, r.Switch)
	}
	if r.Flood.Accepted != 40_000 || r.Flood.Finished != 40_000 || r.Notifications.Missing != 0 || r.Notifications.Expected != r.Ledger.Accepted {
		t.Errorf("%+v %+v %+v", r.Flood, r.Notifications, r.Ledger)
	}
	if len(r.Memory) != 5 {
		t.Errorf("%d processes: %+v", len(r.Memory), r.Memory)
	}
}

func TestReplayWithoutSpillway(t *testing.T) {
	r := replay(t, "--without-spillway")
	if r.Switch != nil || r.Flood.Source != "" || len(r.Unmeasured) < 2 {
		t.Errorf("a consumer group was held: %+v %+v", r.Switch, r.Flood)
	}
	// It is slow, and it is honest: nothing is lost, and all is done in the end.
	if !r.held(t, "1") || r.Flood.Finished != r.Flood.Accepted || r.Ledger.Duplicates > r.Ledger.Sent/100 {
		t.Errorf("%+v %+v", r.Flood, r.Ledger)
	}
	if r.held(t, "2") || r.Victims.Flood.P99 < 1000 {
		t.Errorf("the flood harmed nobody: %+v; is it a flood?", r.Victims)
	}
}

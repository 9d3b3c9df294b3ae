package load

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseHold(t *testing.T) {
	flows := []plan.Flow{{Name: "a"}, {Name: "flood"}}
	h, err := ParseHold("flood@10s+500ms", flows)
	if err != nil || *h != (Hold{Flow: 1, At: 10 * time.Second, For: 500 * time.Millisecond}) {
		t.Errorf("%+v, %v", h, err)
	}
	for _, text := range []string{"", "flood", "flood@10s", "flood@x+5s", "flood@10s+0s", "flood@-1s+5s", "other@1s+1s"} {
		if _, err := ParseHold(text, flows); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func TestReportForPeople(t *testing.T) {
	q := tally.Quantiles{P50: 1.2, P99: 4, Max: 1234}
	phase := tally.Phase{
		Flows:  []tally.Flow{{Name: "victim-01", Sent: 300, Accepted: 300, Started: 300, Finished: 300, Wait: q, Accept: q}},
		Groups: []tally.Flow{{Name: "victim", Sent: 300, Accepted: 300, Started: 300, Finished: 300, Wait: q, Accept: q, Worst: &tally.Worst{Name: "victim-01", Wait: q}}},
	}
	r := Report{Phase: phase, Quiet: phase, Switch: &Switch{HoldMS: 41}, Ledger: tally.Ledger{Sent: 300, Accepted: 300, Succeeded: 300},
		Processes: []ProcessUse{{Name: "scheduler-0", CPUSeconds: 1.5, PeakRSSBytes: 90 << 20}}}
	var b strings.Builder
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"quiet:", "victim (all)", "worst: victim-01", "1.2 s", "hold answered after 41.0 ms, 0 started after that", "0 lost, 0 ran twice", "scheduler-0", "90 MiB"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
	b.Reset()
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"flows": [`, `"groups": [`, `"quiet": {`, `"wait_ms": {`, `"hold_ms": 41`, `"started_after_hold": 0`, `"ledger": {`, `"lost": 0`, `"duplicates": 0`, `"remaining": 0`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
}

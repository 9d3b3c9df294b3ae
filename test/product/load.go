package product

import (
	"encoding/json"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Report is what tests use of load's JSON.
type Report struct {
	Groups []struct {
		Name     string `json:"name"`
		Sent     int    `json:"sent"`
		Accepted int    `json:"accepted"`
		Refused  int    `json:"refused"`
		Unknown  int    `json:"unknown"`
		Wait     struct {
			P50 float64 `json:"p50"`
			P99 float64 `json:"p99"`
			Max float64 `json:"max"`
		} `json:"wait_ms"`
	} `json:"groups"`
	Workers []int `json:"workers"`
	Switch  *struct {
		Hold             float64 `json:"hold_ms"`
		StartedAfterHold int     `json:"started_after_hold"`
	} `json:"switch"`
	Ledger  Ledger         `json:"ledger"`
	Reasons map[string]int `json:"reasons"`
}

// Ledger is the generator's own account.
type Ledger struct {
	Sent       int `json:"sent"`
	Accepted   int `json:"accepted"`
	Refused    int `json:"refused"`
	Unknown    int `json:"unknown"`
	Succeeded  int `json:"succeeded"`
	Dead       int `json:"dead"`
	Remaining  int `json:"remaining"`
	Lost       int `json:"lost"`
	Duplicates int `json:"duplicates"`
	Unexpected int `json:"unexpected"`
}

// Load is a `spillway load` under way.
type Load struct {
	*Process
	out transcript
}

// Load starts `spillway load` against the dev, with more flags.
func (d *Dev) Load(flags ...string) *Load {
	d.t.Helper()
	l := &Load{}
	cmd := exec.Command(Binary(d.t), append([]string{"load", "--data-dir", d.Dir, "-o", "json"}, flags...)...)
	l.Process = Launch(d.t, "load", cmd, false, &l.out)
	return l
}

// AwaitSending waits until it sends, which it does once its workers are there.
func (l *Load) AwaitSending(limit time.Duration) {
	l.t.Helper()
	Until(l.t, limit, "load sends", func() bool {
		if l.Ended() {
			l.t.Fatalf("load ended: %s", tail(l.Said()))
		}
		return strings.Contains(l.Said(), "sending")
	})
}

// Workers are the pids of its worker processes, as it said them last.
func (l *Load) Workers() []int {
	var pids []int
	for line := range strings.Lines(l.Said()) {
		rest, ok := strings.CutPrefix(line, "workers ")
		if !ok {
			continue
		}
		pids = nil
		for field := range strings.FieldsSeq(rest) {
			if pid, err := strconv.Atoi(field); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// Report waits until load has ended and reads what it printed.
func (l *Load) Report(limit time.Duration) Report {
	l.t.Helper()
	l.Await(limit)
	var r Report
	if err := json.Unmarshal([]byte(l.out.String()), &r); err != nil {
		l.t.Fatalf("load printed no report: %v\n%s", err, tail(l.out.String()))
	}
	return r
}

// CheckLedger runs `spillway ledger` on the dev's logs and fails the test if the
// product's own account does not add up.
func (d *Dev) CheckLedger(limit time.Duration) {
	d.t.Helper()
	stdout, stderr, code := Run(d.t, limit, "ledger", "--data-dir", d.Dir, "-o", "json")
	if code != 0 {
		d.t.Errorf("the ledger ended with %d: %s%s", code, stdout, stderr)
	}
}

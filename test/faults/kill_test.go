package faults

import (
	"encoding/json"
	"flag"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	kills      = flag.String("kills", "worker,enqueue,scheduler-0,broker", "what to kill, in this order, all in one run")
	every      = flag.Duration("every", 8*time.Second, "time between two kills")
	schedulers = flag.Int("schedulers", 1, "schedulers")
)

const (
	// rate is in jobs per second, over all flows.
	rate = 600
	// warm is how long the load runs before the first kill.
	warm = 4 * time.Second
	// drain outlasts the longest wait after a crash: the quarantine of 29 s
	// after a takeover, which itself may take a session of 6 s and a restart of
	// the broker.
	drain = 90 * time.Second
)

// report is what the test uses of load's JSON.
type report struct {
	Groups []struct {
		Name     string `json:"name"`
		Sent     int    `json:"sent"`
		Accepted int    `json:"accepted"`
		Refused  int    `json:"refused"`
		Unknown  int    `json:"unknown"`
		Wait     struct {
			P99 float64 `json:"p99"`
			Max float64 `json:"max"`
		} `json:"wait_ms"`
	} `json:"groups"`
	Workers []int `json:"workers"`
	Ledger  struct {
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
	} `json:"ledger"`
	Reasons map[string]int `json:"reasons"`
}

// TestF1NothingIsLostWhenProcessesAreKilled kills a worker process, an enqueue,
// a scheduler and the broker with SIGKILL under load (F1, F2, F7). Flags choose
// what and when: -args -kills broker -every 15s -schedulers 3.
func TestF1NothingIsLostWhenProcessesAreKilled(t *testing.T) {
	targets := strings.Split(*kills, ",")
	d := startDev(t, t.TempDir(), "--schedulers", strconv.Itoa(*schedulers))
	sending := warm + time.Duration(len(targets))*(*every)

	var out, talk transcript
	load := exec.Command(binary, "load", "--data-dir", d.dir, "--flow", "victim*6="+strconv.Itoa(rate/6)+",work=5ms",
		"--worker-processes", "4", "--for", sending.String(), "--drain", drain.String(), "-o", "json")
	load.Stdout, load.Stderr = &out, &talk
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- load.Wait() }()
	defer func() {
		load.Process.Kill() // it has ended unless the test failed
		if t.Failed() {
			t.Logf("load said:\n%s", tail(talk.String()))
		}
	}()

	d.until(40*time.Second, "load has its workers", func() bool { return len(workers(talk.String())) == 4 })
	d.until(40*time.Second, "load sends", func() bool { return strings.Contains(talk.String(), "sending") })
	<-time.After(warm)
	for _, target := range targets {
		var pid int
		if target == "worker" {
			pid = workers(talk.String())[0]
		} else {
			pid = d.ready().pid(target)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatalf("the fault did not fire: kill %s (pid %d): %v", target, pid, err)
		}
		t.Logf("killed %s (pid %d)", target, pid)
		<-time.After(*every)
		if target != "worker" {
			if now := d.ready().pid(target); now == 0 || now == pid || !alive(now) {
				t.Errorf("%s was not started again: pid %d", target, now)
			}
		}
	}
	select {
	case <-done:
	case <-time.After(sending + drain + 60*time.Second):
		t.Fatal("load does not end")
	}
	var r report
	if err := json.Unmarshal([]byte(out.String()), &r); err != nil {
		t.Fatalf("load printed no report: %v\n%s", err, tail(out.String()))
	}
	l := r.Ledger
	t.Logf("ledger %+v; %+v; not accepted %v", l, r.Groups, r.Reasons)
	if l.Lost != 0 || l.Remaining != 0 || l.Unexpected != 0 || l.Dead != 0 {
		t.Errorf("%d lost, %d remaining, %d ran although refused, %d dead; want none", l.Lost, l.Remaining, l.Unexpected, l.Dead)
	}
	if l.Sent != l.Accepted+l.Refused+l.Unknown {
		t.Errorf("%d sent, %d accepted, %d refused, %d unknown", l.Sent, l.Accepted, l.Refused, l.Unknown)
	}
	// Nothing is proven by a run in which little was accepted or nobody died.
	if want := int(sending.Seconds() * rate); l.Sent < want*99/100 || l.Accepted < want*9/10 {
		t.Errorf("%d sent, %d accepted of %d that were due", l.Sent, l.Accepted, want)
	}
	if slices.Contains(targets, "worker") && len(r.Workers) < 5 {
		t.Errorf("workers %v: the one that was killed was not started again", r.Workers)
	}
	stdout, stderr, code := spillway(t, 60*time.Second, "ledger", "--data-dir", d.dir, "-o", "json")
	if code != 0 {
		t.Errorf("the ledger ended with %d: %s%s", code, stdout, stderr)
	}
}

// workers reads the pids that load says last.
func workers(talk string) []int {
	var pids []int
	for line := range strings.Lines(talk) {
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

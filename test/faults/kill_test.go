package faults

import (
	"flag"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spillway/spillway/test/product"
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

// TestF1NothingIsLostWhenProcessesAreKilled kills a worker process, an enqueue,
// a scheduler and the broker with SIGKILL under load (F1, F2, F7). Flags choose
// what and when: -args -kills broker -every 15s -schedulers 3.
func TestF1NothingIsLostWhenProcessesAreKilled(t *testing.T) {
	targets := strings.Split(*kills, ",")
	d := product.StartDev(t, t.TempDir(), "--schedulers", strconv.Itoa(*schedulers))
	sending := warm + time.Duration(len(targets))*(*every)
	load := d.Load("--flow", "victim*6="+strconv.Itoa(rate/6)+",work=5ms", "--worker-processes", "4", "--for", sending.String(), "--drain", drain.String())
	product.Until(t, 40*time.Second, "load has its workers", func() bool { return len(load.Workers()) == 4 })
	load.AwaitSending(40 * time.Second)
	<-time.After(warm)
	for _, target := range targets {
		var pid int
		if target == "worker" {
			pid = load.Workers()[0]
		} else {
			pid = d.File().Process(target)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatalf("the fault did not fire: kill %s (pid %d): %v", target, pid, err)
		}
		t.Logf("killed %s (pid %d)", target, pid)
		<-time.After(*every)
		if target != "worker" {
			if now := d.File().Process(target); now == 0 || now == pid || !product.Alive(now) {
				t.Errorf("%s was not started again: pid %d", target, now)
			}
		}
	}
	r := load.Report(sending + drain + 60*time.Second)
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
	d.CheckLedger(60 * time.Second)
}

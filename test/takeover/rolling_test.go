package takeover

import (
	"syscall"
	"testing"
	"time"

	"github.com/spillway/spillway/test/history"
)

// TestF5RollingRestart: every service is restarted by SIGTERM, one after the other,
// and a worker. No call fails, nothing runs twice.
func TestF5RollingRestart(t *testing.T) { t.Parallel(); rollingRestart(t, embedded) }

func rollingRestart(t *testing.T, b broker) {
	a := open(t, b, "--schedulers", "3", "--enqueues", "2")
	time.Sleep(warm)
	faults := 0
	for _, name := range []string{"scheduler-0", "enqueue-0", "scheduler-1", "automation", "enqueue-1", "scheduler-2"} {
		a.restart(name, syscall.SIGTERM)
		faults++
		time.Sleep(2 * time.Second)
	}
	old := a.Worker(0)
	a.Fault(history.Stop, "worker-0", func() {
		a.StartWorker()
		old.Terminate()
		old.Await(40 * time.Second)
	})
	a.Heal("worker-0")
	if code := old.ExitCode(); code != 0 {
		t.Errorf("the worker ended with %d after SIGTERM", code)
	}
	faults++
	time.Sleep(2 * time.Second)
	v := a.judge(want{fault: "rolling restart of every service, SIGTERM", faults: faults, takeovers: 8, orderly: true, calls: true})
	if v.Duplicates > 0 {
		t.Errorf("%d jobs ran twice after orderly stops", v.Duplicates)
	}
}

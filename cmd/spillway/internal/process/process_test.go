package process

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// The test binary is its own child: with a mode in its arguments it behaves as
// one.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "child" {
		child(os.Args[2])
		return
	}
	goleak.VerifyTestMain(m)
}

func child(mode string) {
	fmt.Println("hello", os.Getenv("GOMEMLIMIT"), os.Getenv("SPILLWAY_OTHER"), os.Getenv("SPILLWAY_OWN"))
	ctx, cancel := UntilParentEnds(context.Background())
	defer cancel()
	switch mode {
	case "orderly":
		<-ctx.Done()
		fmt.Fprintln(os.Stderr, "stopped in order")
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		time.Sleep(time.Minute)
	case "greedy":
		b := make([]byte, 64<<20)
		for i := range b {
			b[i] = 1
		}
		<-ctx.Done()
		fmt.Fprintln(os.Stderr, "gave back", len(b))
	}
}

// buffer is a bytes.Buffer for concurrent use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func run(t *testing.T, spec Spec) (*Process, *buffer, chan struct{}, func()) {
	t.Helper()
	t.Setenv("SPILLWAY_OTHER", "leaked")
	out, changed := new(buffer), make(chan struct{}, 100)
	p := New(spec, NewOutput(out, false), slog.New(slog.DiscardHandler), func() { changed <- struct{}{} })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return p, out, changed, stop
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("timed out: " + what)
		case <-tick.C:
		}
	}
}

func TestStopsWhenItsPipeCloses(t *testing.T) {
	p, out, _, stop := run(t, Spec{Name: "svc", Args: []string{"child", "orderly"}, Env: []string{"SPILLWAY_OWN=1"}, Ceiling: 1 << 30, Grace: 10 * time.Second})
	until(t, "start", func() bool { return strings.Contains(out.String(), "hello") })
	if p.PID() == 0 {
		t.Error("no pid while running")
	}
	stop()
	want := "svc         | hello 936168651  1\nsvc         | stopped in order\n"
	if out.String() != want || p.PID() != 0 {
		t.Errorf("output %q, want %q; pid %d", out.String(), want, p.PID())
	}
}

func TestKilledWhenItDoesNotStop(t *testing.T) {
	_, out, _, stop := run(t, Spec{Name: "deaf", Args: []string{"child", "deaf"}, Grace: 50 * time.Millisecond})
	until(t, "start", func() bool { return strings.Contains(out.String(), "hello") })
	began := time.Now()
	stop()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("took %v to stop", d)
	}
}

func TestRestartedAfterKill(t *testing.T) {
	p, _, _, _ := run(t, Spec{Name: "svc", Args: []string{"child", "orderly"}, Grace: 10 * time.Second})
	until(t, "start", func() bool { return p.PID() != 0 })
	first := p.PID()
	syscall.Kill(first, syscall.SIGKILL)
	until(t, "restart", func() bool { return p.PID() != 0 && p.PID() != first })
	if n, err := p.Restarts(); n != 1 || err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("restarts %d, %v", n, err)
	}
}

func TestRestartedAboveItsCeiling(t *testing.T) {
	if _, ok := Measure(os.Getpid()); !ok {
		t.Skip("not run: no /proc on this system, where ceilings are only GOMEMLIMIT's")
	}
	p, out, _, _ := run(t, Spec{Name: "greedy", Args: []string{"child", "greedy"}, Ceiling: 32 << 20, Grace: 10 * time.Second})
	until(t, "restart", func() bool { n, _ := p.Restarts(); return n > 0 })
	if _, err := p.Restarts(); err == nil || !strings.Contains(err.Error(), "above its ceiling of 32 MiB") {
		t.Errorf("reason %v", err)
	}
	if !strings.Contains(out.String(), "gave back") {
		t.Error("was not given the time to stop in order")
	}
}

func TestStdoutIsHandedOver(t *testing.T) {
	var got buffer
	_, out, _, stop := run(t, Spec{Name: "w", Args: []string{"child", "orderly"}, Grace: 10 * time.Second, Stdout: func(r io.Reader) { io.Copy(&got, r) }})
	until(t, "start", func() bool { return strings.Contains(got.String(), "hello") })
	stop()
	if strings.Contains(out.String(), "hello") {
		t.Error("standard output was logged as well")
	}
}

func TestMeasureReadsProc(t *testing.T) {
	status := []byte("Name:\tx y)\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
	stat := []byte("7 (x y) S 1 7 7 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 8 0 1 1 1")
	if u, ok := parseUsage(status, stat); !ok || u != (Usage{RSS: 1 << 20, Peak: 2 << 20, CPU: 2 * time.Second}) {
		t.Errorf("%+v, %v", u, ok)
	}
	if _, ok := parseUsage(nil, nil); ok {
		t.Error("nothing was measured")
	}
	if busy, ok := parseBusy([]byte("cpu  100 20 3 9000 77 55 66 4 0 0\ncpu0 1 1 1 1 1 1 1 1\nintr 1 2\n"), 1); !ok || busy != 1270*time.Millisecond {
		t.Errorf("%v, %v", busy, ok)
	}
	for _, wrong := range []string{"", "cpu 1 2 3\ncpu0", "intr 1 2 3 4 5 6 7 8 9\ncpu0", "cpu a b c d e f g h\ncpu0", "cpu 1 2 3 4 5 6 7 8", "cpu 1 2 3 4 5 6 7 8\ncpu0\ncpu1"} {
		if _, ok := parseBusy([]byte(wrong), 1); ok {
			t.Errorf("%q was measured", wrong)
		}
	}
}

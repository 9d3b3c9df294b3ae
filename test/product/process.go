package product

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stopLimit is how long an orderly stop may take: longer than every service's
// own budgets, and than dev's for all of them together.
const stopLimit = 60 * time.Second

// Process is one process that a test started and owns.
type Process struct {
	t     testing.TB
	name  string
	cmd   *exec.Cmd
	stdin io.Closer // the lifeline; nil: none
	said  transcript
	gone  chan struct{}
}

// Launch starts a command and ends it when the test ends. With lifeline its
// standard input stays open until then, for children that stop with it. When the
// test fails, the end of what it wrote is logged. stdout may be nil: then it is
// kept with standard error.
func Launch(t testing.TB, name string, cmd *exec.Cmd, lifeline bool, stdout io.Writer) *Process {
	t.Helper()
	p := &Process{t: t, name: name, cmd: cmd, gone: make(chan struct{})}
	dieWithUs(cmd, lifeline)
	cmd.Stderr, cmd.Stdout = &p.said, &p.said
	if stdout != nil {
		cmd.Stdout = stdout
	}
	if lifeline {
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		p.stdin = in
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		cmd.Wait()
		close(p.gone)
	}()
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", name, tail(p.said.String()))
		}
	})
	return p
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Said is what the process wrote so far.
func (p *Process) Said() string { return p.said.String() }

// Gone is closed once the process has ended.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Ended reports whether the process has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// ExitCode is the exit code of a process that has ended, -1 if a signal ended it.
func (p *Process) ExitCode() int {
	<-p.gone
	return p.cmd.ProcessState.ExitCode()
}

// Kill ends the process by SIGKILL and waits until it has gone.
func (p *Process) Kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	p.Await(stopLimit)
}

// Freeze stops the process by SIGSTOP, Thaw lets it go on.
func (p *Process) Freeze() { p.t.Helper(); p.signal(syscall.SIGSTOP) }

// Thaw lets a frozen process go on.
func (p *Process) Thaw() { p.t.Helper(); p.signal(syscall.SIGCONT) }

// Terminate asks the process to stop, by SIGTERM, and does not wait.
func (p *Process) Terminate() { p.t.Helper(); p.signal(syscall.SIGTERM) }

// signal fails the test if the process is not there any more: a fault that does
// not fire proves nothing.
func (p *Process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("the fault did not fire: %v to %s (pid %d): %v", s, p.name, p.PID(), err)
	}
}

// Await waits until the process has gone.
func (p *Process) Await(limit time.Duration) {
	p.t.Helper()
	select {
	case <-p.gone:
	case <-time.After(limit):
		p.t.Fatalf("%s (pid %d) has not ended within %v; it said:\n%s", p.name, p.PID(), limit, tail(p.Said()))
	}
}

// Stop ends the process in order and waits until it has gone. One that does not
// stop is killed, and the test fails. It may be called again.
func (p *Process) Stop() {
	p.t.Helper()
	if p.Ended() {
		return
	}
	p.cmd.Process.Signal(syscall.SIGCONT) // a test that failed may leave it frozen
	p.cmd.Process.Signal(syscall.SIGTERM)
	if p.stdin != nil {
		p.stdin.Close()
	}
	select {
	case <-p.gone:
	case <-time.After(stopLimit):
		p.t.Errorf("%s (pid %d) did not stop within %v", p.name, p.PID(), stopLimit)
		p.cmd.Process.Kill()
		<-p.gone
	}
}

// Alive reports whether a process is there and no zombie.
func Alive(pid int) bool {
	if pid == 0 || syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return !errors.Is(err, os.ErrNotExist) // without /proc the signal has decided
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// Until looks each 20 ms whether ok is true and fails the test after limit.
func Until(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within %v: %s", limit, what)
		case <-tick.C:
		}
	}
}

// transcript keeps what a process said, for the log of a test that failed.
type transcript struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}

func tail(s string) string {
	const most = 32 << 10
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

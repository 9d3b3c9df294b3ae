// Package faults kills the product's real processes under load and checks, from
// the generator's own account and from the logs, that nothing was lost. It acts
// on loopback, kills only what it started and bounds every wait.
package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var binary string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "spillway-faults-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "spillway")
	build := exec.Command("go", "build", "-o", binary, "./cmd/spillway")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// ready is what the tests use of the ready file.
type ready struct {
	DataDir   string `json:"data_dir"`
	PID       int    `json:"pid"`
	Processes []struct {
		Name     string `json:"name"`
		PID      int    `json:"pid"`
		Restarts int    `json:"restarts"`
	} `json:"processes"`
	Tokens map[string]string `json:"tokens"`
}

func (r ready) pid(name string) int {
	for _, p := range r.Processes {
		if p.Name == name {
			return p.PID
		}
	}
	return 0
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

// dev is a running `spillway dev`.
type dev struct {
	t    *testing.T
	dir  string
	cmd  *exec.Cmd
	said transcript
	took time.Duration // to be ready
	gone chan struct{}
}

// startDev starts a dev on free ports and waits until it is ready.
func startDev(t *testing.T, dir string, args ...string) *dev {
	t.Helper()
	d := &dev{t: t, dir: dir, gone: make(chan struct{})}
	readyFile := filepath.Join(dir, "ready.json")
	os.Remove(readyFile) // of a dev that was killed
	d.cmd = exec.Command(binary, append([]string{"dev", "--data-dir", dir, "--port-base", "0", "--ready-file", readyFile}, args...)...)
	d.cmd.Stderr, d.cmd.Stdout = &d.said, &d.said
	began := time.Now()
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d.cmd.Wait()
		close(d.gone)
	}()
	t.Cleanup(func() {
		d.stop()
		if t.Failed() {
			t.Logf("dev said:\n%s", tail(d.said.String()))
		}
	})
	d.until(60*time.Second, "dev is ready", func() bool {
		select {
		case <-d.gone:
			t.Fatalf("dev ended: %s", tail(d.said.String()))
		default:
		}
		_, err := os.Stat(readyFile)
		return err == nil
	})
	d.took = time.Since(began)
	return d
}

func (d *dev) ready() ready {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.dir, "dev.json"))
	if err != nil {
		d.t.Fatal(err)
	}
	var r ready
	if err := json.Unmarshal(b, &r); err != nil {
		d.t.Fatal(err)
	}
	return r
}

// stop ends dev in order; a dev that does not end within its children's grace
// is a failure.
func (d *dev) stop() {
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.gone:
	case <-time.After(60 * time.Second):
		d.t.Error("dev did not stop within 60 s")
		d.cmd.Process.Kill()
		<-d.gone
	}
}

func (d *dev) until(limit time.Duration, what string, ok func() bool) {
	d.t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			d.t.Fatalf("not within %v: %s; dev said:\n%s", limit, what, tail(d.said.String()))
		case <-tick.C:
		}
	}
}

// alive reports whether a process is there and no zombie.
func alive(pid int) bool {
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

// spillway runs a command to its end and returns what it printed and its exit
// code.
func spillway(t *testing.T, limit time.Duration, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	var out, talk bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &talk
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), talk.String(), exit.ExitCode()
	}
	if err != nil {
		t.Fatalf("spillway %v: %v", args, err)
	}
	return out.String(), talk.String(), 0
}

func tail(s string) string {
	const most = 8 << 10
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

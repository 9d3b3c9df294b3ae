package faults

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestDevIsOnePerDirectoryAndEndsWithItsChildren(t *testing.T) {
	dir := t.TempDir()
	d := startDev(t, dir)
	r := d.ready()
	if len(r.Processes) != 4 || r.PID != d.cmd.Process.Pid {
		t.Errorf("processes %+v of %d, want broker, automation, scheduler and enqueue", r.Processes, r.PID)
	}
	seen := make(map[int]bool)
	for _, p := range r.Processes {
		if !alive(p.PID) || seen[p.PID] || p.PID == r.PID {
			t.Errorf("%s is no process of its own: %d", p.Name, p.PID)
		}
		seen[p.PID] = true
	}
	for _, name := range []string{"dev.json", "ready.json", "keys/mac.key", "keys/token-key.pem", "keys/worker.token"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; it is a secret", name, info, err)
		}
	}

	_, talk, code := spillway(t, 20*time.Second, "dev", "--data-dir", dir, "--port-base", "0")
	if code != 5 || !strings.Contains(talk, strconv.Itoa(r.PID)) {
		t.Errorf("a second dev ended with %d: %s", code, talk)
	}

	// Killed, it takes its children along, and the next one starts from the logs.
	d.cmd.Process.Kill()
	d.until(30*time.Second, "all children have ended", func() bool {
		for _, p := range r.Processes {
			if alive(p.PID) {
				return false
			}
		}
		return true
	})
	<-d.gone
	if _, _, code := spillway(t, 20*time.Second, "ledger", "--data-dir", dir); code != 6 {
		t.Errorf("ledger without a running dev ended with %d, want 6", code)
	}
	again := startDev(t, dir)
	t.Logf("ready after %v, again after %v", d.took.Round(time.Millisecond), again.took.Round(time.Millisecond))
	if again.took > 10*time.Second {
		t.Errorf("a later start took %v", again.took)
	}
	again.stop()
	if _, err := os.Stat(filepath.Join(dir, "dev.json")); err == nil {
		t.Error("a dev that was stopped leaves dev.json behind")
	}
}

func TestDevStartsAgainWhatEnds(t *testing.T) {
	d := startDev(t, t.TempDir())
	for _, name := range []string{"automation", "enqueue", "scheduler-0", "broker"} {
		before := d.ready().pid(name)
		if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		d.until(20*time.Second, name+" was started again and dev.json says so", func() bool {
			now := d.ready().pid(name)
			return now != 0 && now != before && alive(now)
		})
	}
}

package faults

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spillway/spillway/test/product"
)

// collectors checks that the notifier's collector runs seldom and the others' does
// not, and that each has a memory limit (docs/adr/0012-the-collector-runs-seldom.md).
func collectors(t *testing.T, f product.File) {
	t.Helper()
	for _, r := range f.Replicas {
		percent := "100"
		if strings.HasPrefix(r.Name, "notifier") {
			percent = "300"
		}
		metrics := string(get(t, r.Admin+"/metrics"))
		if !strings.Contains(metrics, "\ngo_gc_gogc_percent "+percent+"\n") {
			t.Errorf("GOGC of %s is not %s", r.Name, percent)
		}
		_, limit, _ := strings.Cut(metrics, "\ngo_gc_gomemlimit_bytes ")
		limit, _, _ = strings.Cut(limit, "\n")
		if bytes, err := strconv.ParseFloat(limit, 64); err != nil || bytes > 300<<20 {
			t.Errorf("memory limit of %s: %q", r.Name, limit)
		}
	}
}

func TestDevIsOnePerDirectoryAndEndsWithItsChildren(t *testing.T) {
	t.Setenv("GOGC", "")
	dir := t.TempDir()
	d := product.StartDev(t, dir)
	r := d.File()
	collectors(t, r)
	if len(r.Processes) != 5 || r.PID != d.PID() {
		t.Errorf("processes %+v of %d, want broker, automation, scheduler, notifier and enqueue", r.Processes, r.PID)
	}
	seen := make(map[int]bool)
	for _, p := range r.Processes {
		if !product.Alive(p.PID) || seen[p.PID] || p.PID == r.PID {
			t.Errorf("%s is no process of its own: %d", p.Name, p.PID)
		}
		seen[p.PID] = true
	}
	for _, name := range []string{"dev.json", "ready.json", "keys/mac.key", "keys/token-key.pem", "keys/worker.token", "keys/subscriber.token"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; it is a secret", name, info, err)
		}
	}

	_, talk, code := product.Run(t, 20*time.Second, "dev", "--data-dir", dir, "--port-base", "0")
	if code != 5 || !strings.Contains(talk, strconv.Itoa(r.PID)) {
		t.Errorf("a second dev ended with %d: %s", code, talk)
	}

	// Killed, it takes its children along, and the next one starts from the logs.
	d.Kill()
	product.Until(t, 30*time.Second, "all children have ended", func() bool {
		for _, p := range r.Processes {
			if product.Alive(p.PID) {
				return false
			}
		}
		return true
	})
	if _, _, code := product.Run(t, 20*time.Second, "ledger", "--data-dir", dir); code != 6 {
		t.Errorf("ledger without a running dev ended with %d, want 6", code)
	}
	again := product.StartDev(t, dir)
	t.Logf("ready after %v, again after %v", d.Took.Round(time.Millisecond), again.Took.Round(time.Millisecond))
	if again.Took > 10*time.Second {
		t.Errorf("a later start took %v", again.Took)
	}
	again.Stop()
	if _, err := os.Stat(filepath.Join(dir, "dev.json")); err == nil {
		t.Error("a dev that was stopped leaves dev.json behind")
	}
}

func TestDevStartsAgainWhatEnds(t *testing.T) {
	d := product.StartDev(t, t.TempDir())
	for _, name := range []string{"automation", "enqueue", "notifier", "scheduler-0", "broker"} {
		before := d.File().Process(name)
		if err := syscall.Kill(before, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		product.Until(t, 20*time.Second, name+" was started again and dev.json says so", func() bool {
			now := d.File().Process(name)
			return now != 0 && now != before && product.Alive(now)
		})
	}
}

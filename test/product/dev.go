package product

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// File is what tests use of the ready file, <data-dir>/dev.json.
type File struct {
	DataDir string `json:"data_dir"`
	PID     int    `json:"pid"`
	Broker  struct {
		Kind         string `json:"kind"`
		Address      string `json:"address"`
		TLS          bool   `json:"tls"`
		CAFile       string `json:"ca_file"`
		CertFile     string `json:"cert_file"`
		KeyFile      string `json:"key_file"`
		SASL         string `json:"sasl"`
		User         string `json:"user"`
		PasswordFile string `json:"password_file"`
	} `json:"broker"`
	Endpoints struct {
		Enqueue    string   `json:"enqueue"`
		Scheduler  []string `json:"scheduler"`
		Notifier   string   `json:"notifier"`
		Websocket  string   `json:"websocket"` // a URL
		Automation string   `json:"automation"`
		Pages      string   `json:"pages"` // a base URL
	} `json:"endpoints"`
	Replicas []struct {
		Name      string `json:"name"`
		GRPC      string `json:"grpc"`
		Admin     string `json:"admin"`     // a base URL
		Websocket string `json:"websocket"` // a URL; "" but for notifiers
	} `json:"replicas"`
	Processes []struct {
		Name     string `json:"name"`
		PID      int    `json:"pid"`
		Restarts int    `json:"restarts"`
	} `json:"processes"`
	Tokens struct {
		Operator   string `json:"operator"`
		Worker     string `json:"worker"`
		Service    string `json:"service"`
		Subscriber string `json:"subscriber"` // of user dev of tenant demo, for minutes
	} `json:"tokens"`
	MACKeyFile string `json:"mac_key_file"`
	TokenKeys  string `json:"token_keys"`
	Prefix     string `json:"prefix"`
}

// Process is the pid of a child by its name, 0 while it is not running.
func (f File) Process(name string) int {
	for _, p := range f.Processes {
		if p.Name == name {
			return p.PID
		}
	}
	return 0
}

// Dev is a running `spillway dev`. Its children are supervised: what is killed
// is started again.
type Dev struct {
	*Process
	// Dir is its data directory.
	Dir string
	// Took is how long it took to be ready.
	Took time.Duration
}

// startLimit is how long a dev may take to be ready; its own limit is shorter.
const startLimit = 90 * time.Second

// StartDev starts a dev on free ports in dir, which may hold the logs of an
// earlier one, with more flags if wanted, and waits until it is ready.
func StartDev(t testing.TB, dir string, flags ...string) *Dev {
	t.Helper()
	readyFile := filepath.Join(dir, "ready.json")
	os.Remove(readyFile) // of a dev that was killed
	cmd := exec.Command(Binary(t), append([]string{"dev", "--data-dir", dir, "--port-base", "0", "--ready-file", readyFile}, flags...)...)
	began := time.Now()
	d := &Dev{Process: Launch(t, "dev", cmd, false, nil), Dir: dir}
	Until(t, startLimit, "dev is ready", func() bool {
		if d.Ended() {
			t.Fatalf("dev ended: %s", tail(d.Said()))
		}
		_, err := os.Stat(readyFile)
		return err == nil
	})
	d.Took = time.Since(began)
	return d
}

// File reads dev.json as it is now.
func (d *Dev) File() File {
	d.t.Helper()
	b, err := os.ReadFile(filepath.Join(d.Dir, "dev.json"))
	if err != nil {
		d.t.Fatal(err)
	}
	var f File
	if err := json.Unmarshal(b, &f); err != nil {
		d.t.Fatal(err)
	}
	return f
}

// Address is the gRPC address of a replica by its name.
func (d *Dev) Address(name string) string {
	d.t.Helper()
	for _, r := range d.File().Replicas {
		if r.Name == name {
			return r.GRPC
		}
	}
	d.t.Fatalf("dev has no replica %s", name)
	return ""
}

// Signal sends a signal to a child by its name and returns its pid. A child that
// is not running fails the test: the fault would not have fired.
func (d *Dev) Signal(name string, s syscall.Signal) (pid int) {
	d.t.Helper()
	pid = d.File().Process(name)
	if pid == 0 {
		d.t.Fatalf("the fault did not fire: %s is not running", name)
	}
	if err := syscall.Kill(pid, s); err != nil {
		d.t.Fatalf("the fault did not fire: %v to %s (pid %d): %v", s, name, pid, err)
	}
	return pid
}

// AwaitRestart waits until dev has started a child again that had a pid, and
// until the new one is ready; a child without an admin listener counts as ready
// when it runs.
func (d *Dev) AwaitRestart(name string, before int, limit time.Duration) {
	d.t.Helper()
	deadline := time.Now().Add(limit)
	Until(d.t, limit, name+" was started again and dev.json says so", func() bool {
		now := d.File().Process(name)
		return now != 0 && now != before && Alive(now)
	})
	for _, r := range d.File().Replicas {
		if r.Name == name {
			awaitReady(d.t, time.Until(deadline), name, r.Admin)
		}
	}
}

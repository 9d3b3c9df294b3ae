package readyfile

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestWriteThenRead(t *testing.T) {
	dir := t.TempDir()
	if _, err := Read(dir); !errors.Is(err, ErrAbsent) {
		t.Errorf("empty directory: %v", err)
	}
	want := File{Version: Version, DataDir: dir, Broker: Broker{Kind: "embedded", Address: "unix:" + dir + "/broker.sock"},
		Endpoints: Endpoints{Enqueue: "127.0.0.1:7400", Scheduler: []string{"127.0.0.1:7410"}},
		Processes: []Process{{Name: "broker", PID: 101}}, Tokens: Tokens{Worker: "w"}, Parent: 100, Prefix: "spillway."}
	for range 2 { // the second replaces the first
		if err := Write(filepath.Join(dir, Name), want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Read(dir)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v", got, err)
	}
	info, err := os.Stat(filepath.Join(dir, Name))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: it holds tokens", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// The names are a contract: scripts parse them.
func TestNamesOfTheContract(t *testing.T) {
	b, err := json.Marshal(File{Endpoints: Endpoints{Enqueue: "e", Scheduler: []string{"s"}, Notifier: "n", Websocket: "w", Automation: "a", Pages: "p"},
		Admin:    Admin{Enqueue: "e", Scheduler: []string{"s"}, Notifier: "n", Automation: "a"},
		Replicas: []Replica{{Name: "n", GRPC: "g", Admin: "a"}, {Name: "n", GRPC: "g", Admin: "a", Websocket: "w"}}, Processes: []Process{{Name: "p", PID: 1}},
		Tokens: Tokens{Operator: "o", Worker: "w", Service: "s", Subscriber: "u"}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"version":0,"data_dir":"","broker":{"kind":"","address":""},` +
		`"endpoints":{"enqueue":"e","scheduler":["s"],"notifier":"n","websocket":"w","automation":"a","pages":"p"},` +
		`"admin":{"enqueue":"e","scheduler":["s"],"notifier":"n","automation":"a"},` +
		`"replicas":[{"name":"n","grpc":"g","admin":"a"},{"name":"n","grpc":"g","admin":"a","websocket":"w"}],"processes":[{"name":"p","pid":1}],` +
		`"tokens":{"operator":"o","worker":"w","service":"s","subscriber":"u"},"pid":0,"prefix":""}`
	if string(b) != want {
		t.Errorf("got  %s\nwant %s", b, want)
	}
}

func TestOtherVersionsAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ready.json")
	if err := os.WriteFile(path, []byte(`{"version": 2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil {
		t.Error("a version this program does not know was read")
	}
}

func TestOneDevPerDirectory(t *testing.T) {
	dir := t.TempDir()
	lock, err := Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, Name), File{DataDir: dir}); err != nil {
		t.Fatal(err)
	}
	_, err = Acquire(dir)
	if running, ok := errors.AsType[*RunningError](err); !ok || running.PID != os.Getpid() {
		t.Errorf("second dev: %v, want the pid of the first", err)
	}
	if f, err := Running(dir); err != nil || f.DataDir != dir {
		t.Errorf("running dev: %+v, %v", f, err)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	if _, err := Running(dir); !errors.Is(err, ErrAbsent) {
		t.Errorf("a file left behind counts as a running dev: %v", err)
	}
}

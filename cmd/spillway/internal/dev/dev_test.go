package dev

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
)

// counter gives out the ports that are asked for, and 50000, 50001 … as free
// ones.
func counter() func(int) (int, error) {
	next := 50000
	return func(port int) (int, error) {
		if port == 0 {
			port = next
			next++
		}
		return port, nil
	}
}

func TestPortsOfTheContract(t *testing.T) {
	list, err := Options{PortBase: 7400, Schedulers: 6, Enqueues: 2}.services(counter())
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string][2]string)
	for _, s := range list {
		got[s.name] = [2]string{s.grpc, s.admin}
	}
	for name, want := range map[string][2]string{
		"enqueue-0":   {"127.0.0.1:7400", "127.0.0.1:7401"},
		"enqueue-1":   {"127.0.0.1:7402", "127.0.0.1:7403"},
		"scheduler-0": {"127.0.0.1:7410", "127.0.0.1:7411"},
		"scheduler-4": {"127.0.0.1:7418", "127.0.0.1:7419"},
		"scheduler-5": {"127.0.0.1:50000", "127.0.0.1:50001"}, // no room below the next service
		"automation":  {"127.0.0.1:7430", "127.0.0.1:7431"},
	} {
		if got[name] != want {
			t.Errorf("%s listens on %v, want %v", name, got[name], want)
		}
	}
	list, err = Options{PortBase: 0, Schedulers: 1, Enqueues: 1}.services(counter())
	if err != nil || len(list) != 3 || list[2].name != "enqueue" || list[2].grpc != "127.0.0.1:50004" {
		t.Errorf("with free ports: %+v, %v", list, err)
	}
}

func TestATakenPortShowsBeforeAnythingStarts(t *testing.T) {
	var held, second reservation
	defer held.release()
	defer second.release()
	port, err := held.take(0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.take(port); exit.Code(err) != exit.Precondition {
		t.Errorf("port %d taken twice: %v", port, err)
	}
}

func TestKeysStayTheSame(t *testing.T) {
	dir := t.TempDir()
	first, err := openKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := openKeys(dir)
	if err != nil || string(second.mac) != string(first.mac) {
		t.Errorf("another MAC key: %v", err)
	}
	info, err := os.Stat(first.macPath)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	tokens, err := first.tokens("cluster", time.Now())
	if err != nil || tokens.Operator == "" || tokens.Worker == "" || tokens.Service == "" || tokens.Operator == tokens.Worker {
		t.Errorf("tokens %+v, %v", tokens, err)
	}
}

// TestPortsOfAKilledDevAreWaitedFor: the services of a dev that was killed hold
// their ports until they have stopped; a dev that is started meanwhile waits,
// as long as it is told to.
func TestPortsOfAKilledDevAreWaitedFor(t *testing.T) {
	var former reservation
	port, err := former.take(0)
	if err != nil {
		t.Fatal(err)
	}
	defer former.release()
	brief, cancel := context.WithTimeout(t.Context(), 2*portPoll)
	defer cancel()
	next := reservation{wait: brief}
	if _, err := next.take(port); exit.Code(err) != exit.Precondition {
		t.Fatalf("a port that stays taken: %v", err)
	}
	listener := former.listeners[0]
	time.AfterFunc(2*portPoll, func() { listener.Close() })
	next.wait = t.Context()
	defer next.release()
	if got, err := next.take(port); err != nil || got != port {
		t.Errorf("port %d, %v", got, err)
	}
}

package dev

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/pkg/rpc"
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
	list, err := Options{PortBase: 7400, Schedulers: 6, Enqueues: 2, Notifiers: 4}.services(counter())
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string][3]string)
	var order []string
	for _, s := range list {
		got[s.name] = [3]string{s.grpc, s.admin, s.web}
		if len(order) == 0 || order[len(order)-1] != s.kind {
			order = append(order, s.kind)
		}
	}
	for name, want := range map[string][3]string{
		"enqueue-0":   {"127.0.0.1:7400", "127.0.0.1:7401"},
		"enqueue-1":   {"127.0.0.1:7402", "127.0.0.1:7403"},
		"scheduler-0": {"127.0.0.1:7410", "127.0.0.1:7411"},
		"scheduler-4": {"127.0.0.1:7418", "127.0.0.1:7419"},
		"scheduler-5": {"127.0.0.1:50000", "127.0.0.1:50001"}, // no room below the next service
		"notifier-0":  {"127.0.0.1:7420", "127.0.0.1:7421", "127.0.0.1:7422"},
		"notifier-2":  {"127.0.0.1:7426", "127.0.0.1:7427", "127.0.0.1:7428"},
		"notifier-3":  {"127.0.0.1:50002", "127.0.0.1:50003", "127.0.0.1:50004"},
		"automation":  {"127.0.0.1:7430", "127.0.0.1:7431"},
	} {
		if got[name] != want {
			t.Errorf("%s listens on %v, want %v", name, got[name], want)
		}
	}
	// They stop the other way round: notifiers, which run jobs, before what hands these out.
	if want := []string{automationKind, schedulerKind, notifierKind, enqueueKind}; !slices.Equal(order, want) {
		t.Errorf("started in the order %v, want %v", order, want)
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

// TestTokensAreSignedAgain: the subscriber's every five minutes, by the clock on the wall, and all of them when half of their life is over.
func TestTokensAreSignedAgain(t *testing.T) {
	k, err := openKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	d := &Dev{keys: k}
	if d.file.Tokens, err = k.tokens("cluster", began); err != nil {
		t.Fatal(err)
	}
	first, signed := d.file.Tokens, renewals{all: began, subscriber: began}
	for _, step := range []struct {
		after                   time.Duration
		any, subscriber, others bool
	}{
		{after: subscriberRenewal - time.Second},
		{after: subscriberRenewal, any: true, subscriber: true},
		{after: subscriberRenewal + time.Second},
		{after: tokenRenewal, any: true, subscriber: true, others: true},
	} {
		before := d.file.Tokens
		changed, err := d.renew("cluster", &signed, began.Add(step.after))
		now := d.file.Tokens
		if err != nil || changed != step.any || (now.Subscriber != before.Subscriber) != step.subscriber || (now.Operator != first.Operator) != step.others {
			t.Errorf("after %v: changed %v, %v", step.after, changed, err)
		}
		if token, err := rpc.ReadTokenFile(k.tokenFile(subscriberName)); err != nil || token != now.Subscriber {
			t.Errorf("after %v the file has another token, %v", step.after, err)
		}
	}
}

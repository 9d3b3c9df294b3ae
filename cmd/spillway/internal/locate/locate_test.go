package locate

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
)

func TestTheEnvironmentComesFirst(t *testing.T) {
	for _, v := range []string{EnqueueVariable, SchedulerVariable, NotifierVariable, WebsocketVariable, AutomationVariable, KafkaVariable, PrefixVariable, TokenFileVariable, MACKeyFileVariable} {
		t.Setenv(v, "")
	}
	dir := t.TempDir()
	if _, err := Find(dir); !errors.Is(err, readyfile.ErrAbsent) {
		t.Errorf("nothing runs and nothing is named: %v", err)
	}
	lock, err := readyfile.Acquire(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Release()
	running := readyfile.File{DataDir: dir, Prefix: "spillway.", Endpoints: readyfile.Endpoints{Enqueue: "dev:1", Notifier: "dev:3", Automation: "dev:2"},
		Tokens: readyfile.Tokens{Operator: "dev", Subscriber: "listens"}}
	if err := readyfile.Write(filepath.Join(dir, readyfile.Name), running); err != nil {
		t.Fatal(err)
	}
	t.Setenv(EnqueueVariable, "env:1")
	t.Setenv(SchedulerVariable, "env:2,env:3")
	t.Setenv(WebsocketVariable, "ws://env:4/v1/ws")
	tokenFile := filepath.Join(dir, "token")
	if err := os.WriteFile(tokenFile, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(TokenFileVariable, tokenFile)
	f, err := Find(dir)
	if err != nil || f.Endpoints.Enqueue != "env:1" || f.Endpoints.Automation != "dev:2" || len(f.Endpoints.Scheduler) != 2 || f.Tokens.Operator != "secret" {
		t.Errorf("%+v, %v", f, err)
	}
	if f.Endpoints.Notifier != "dev:3" || f.Endpoints.Websocket != "ws://env:4/v1/ws" || f.Tokens.Subscriber != "listens" {
		t.Errorf("notifier: %+v, a subscriber's token is no service's: %+v", f.Endpoints, f.Tokens)
	}
	if f, err := Find(t.TempDir()); err != nil || f.Endpoints.Enqueue != "env:1" || f.Prefix != "spillway." || f.Broker.Kind != "kafka" {
		t.Errorf("without a dev: %+v, %v", f, err)
	}
}

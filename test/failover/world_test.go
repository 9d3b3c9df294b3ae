package failover

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/test/product"
)

const (
	// installLimit bounds a command that speaks to a broker which has just begun.
	installLimit = 60 * time.Second
	// readyLimit is how long the services may take to be ready.
	readyLimit = 60 * time.Second
	// ledgerLimit bounds counting the logs.
	ledgerLimit = 60 * time.Second
)

// world is an installation whose broker belongs to the test.
type world struct {
	t          testing.TB
	environ    []string // of every process of the product
	enqueue    *service
	schedulers []*service
	token      string // of all roles
}

// service is a process with its addresses.
type service struct {
	*product.Process
	name, grpc, admin string
}

// newWorld makes an installation in the log at address and starts its services.
func newWorld(t testing.TB, address, durability string, schedulers int) *world {
	t.Helper()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	w := &world{t: t}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "SPILLWAY_") {
			w.environ = append(w.environ, kv)
		}
	}
	w.environ = append(w.environ,
		"SPILLWAY_KAFKA="+address, "SPILLWAY_DURABILITY="+durability,
		"SPILLWAY_TOKEN_KEYS="+in("service/tokens.jwks"), "SPILLWAY_MAC_KEY_FILE="+in("service/mac.key"),
		"GOMAXPROCS=1", // as dev's children on few cores
	)
	w.run("keys", "make", "--signing-dir", in("signing"), "--service-dir", in("service"))
	w.run("install", "--durability", durability, "--partitions", "8", "--lanes", "16")
	w.run("keys", "tokens", "--signing-dir", in("signing"), "--token", "test:enqueue,worker,read,operate,admin:"+in("token"))
	token, err := os.ReadFile(in("token"))
	if err != nil {
		t.Fatal(err)
	}
	w.token = strings.TrimSpace(string(token))

	// Memory limits as dev and compose.yaml set them: nine tenths of the ceilings.
	automation := w.serve("automation", "automation-0", "GOMEMLIMIT=90MiB")
	for i := range schedulers {
		w.schedulers = append(w.schedulers, w.serve("scheduler", fmt.Sprintf("scheduler-%d", i), "GOMEMLIMIT=270MiB"))
	}
	// Local mode: sources are registered by their first job.
	w.enqueue = w.serve("enqueue", "enqueue-0", "GOMEMLIMIT=135MiB", "SPILLWAY_ENQUEUE_REGISTER="+automation.grpc, "SPILLWAY_ENQUEUE_REGISTER_TOKEN_FILE="+in("token"))
	for _, s := range append([]*service{automation, w.enqueue}, w.schedulers...) {
		s.await(t)
	}
	return w
}

// command is a command of the product in this installation.
func (w *world) command(args ...string) *exec.Cmd {
	cmd := exec.Command(product.Binary(w.t), args...)
	cmd.Env = w.environ
	return cmd
}

// run runs a command to its end and returns what it printed.
func (w *world) run(args ...string) string {
	w.t.Helper()
	var out strings.Builder
	p := product.Launch(w.t, args[0], w.command(args...), false, &out)
	p.Await(installLimit)
	if code := p.ExitCode(); code != 0 {
		w.t.Fatalf("spillway %s ended with %d: %s%s", strings.Join(args, " "), code, out.String(), p.Said())
	}
	return out.String()
}

func (w *world) serve(kind, name string, env ...string) *service {
	w.t.Helper()
	s := &service{name: name, grpc: product.FreeAddress(w.t), admin: product.FreeAddress(w.t)}
	cmd := w.command("serve", kind, "--until-stdin-closes")
	cmd.Env = append(cmd.Env, "SPILLWAY_LISTEN="+s.grpc, "SPILLWAY_ADMIN_LISTEN="+s.admin, "SPILLWAY_REPLICA="+name)
	cmd.Env = append(cmd.Env, env...)
	s.Process = product.Launch(w.t, name, cmd, true, nil)
	return s
}

// await waits until the service says that it is ready.
func (s *service) await(t testing.TB) {
	t.Helper()
	client := &http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	product.Until(t, readyLimit, s.name+" is ready", func() bool {
		if s.Ended() {
			t.Fatalf("%s ended: %s", s.name, s.Said())
		}
		resp, err := client.Get("http://" + s.admin + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// ledger counts every job in the logs and fails the test if the product's own
// account does not add up.
func (w *world) ledger() {
	w.t.Helper()
	var out strings.Builder
	p := product.Launch(w.t, "ledger", w.command("ledger", "-o", "json"), false, &out)
	p.Await(ledgerLimit)
	if code := p.ExitCode(); code != 0 {
		w.t.Errorf("the ledger ended with %d: %s%s", code, out.String(), p.Said())
	}
}

// said is the time of the first line with one of the messages in a service's log,
// from a moment on; zero: there is none.
func (s *service) said(from time.Time, messages ...string) time.Time {
	for text := range strings.Lines(s.Said()) {
		stamp, ok := strings.CutPrefix(text, "time=")
		if !ok {
			continue
		}
		stamp, _, _ = strings.Cut(stamp, " ")
		at, err := time.Parse(time.RFC3339Nano, stamp)
		if err != nil || at.Before(from) {
			continue
		}
		for _, m := range messages {
			if strings.Contains(text, "msg="+strconv.Quote(m)) {
				return at
			}
		}
	}
	return time.Time{}
}

package stack

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
)

// stack runs what compose.yaml runs, as processes instead of containers: the same commands in the same environment, with the volumes as folders
// and the embedded broker in Kafka's place.
type stack struct {
	t       *testing.T
	project *types.Project
	rewrite *strings.Replacer
	admin   map[string]string // admin addresses by service
	sockets string            // where websockets are taken, host:port
}

// within bounds every wait for a process: a hundred times what it takes on an idle machine.
const within = 60 * time.Second

func newStack(t *testing.T) *stack {
	dir, err := os.MkdirTemp("", "sw") // short: a path of a socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &stack{t: t, project: composeFile(t), admin: map[string]string{}}
	// The folders that the image has, so that volumes have their owner and mode.
	for _, service := range s.project.Services {
		for _, v := range service.Volumes {
			if strings.HasPrefix(v.Target, "/var/lib/spillway/") || strings.HasPrefix(v.Target, "/run/spillway/") {
				if err := os.MkdirAll(filepath.Join(dir, v.Target), 0o700); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	broker := filepath.Join(dir, "broker.sock")
	pairs := []string{
		"/var/lib/spillway", filepath.Join(dir, "/var/lib/spillway"), "/run/spillway", filepath.Join(dir, "/run/spillway"),
		"kafka:9092", "unix:" + broker,
	}
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	for _, name := range servers {
		s.admin[name] = free()
		pairs = append(pairs, value(s.project.Services[name], "SPILLWAY_ADMIN_LISTEN"), s.admin[name])
	}
	s.sockets = free()
	pairs = append(pairs, value(s.project.Services["notifier"], "SPILLWAY_NOTIFIER_LISTEN"), s.sockets)
	s.rewrite = strings.NewReplacer(pairs...)
	s.start("broker", nil, "serve", "broker", "--data-dir", filepath.Join(dir, "broker"), "--socket", broker, "--log-level", "WARN")
	return s
}

// environment is the service's, in this stack.
func (s *stack) environment(service string) []string {
	env := environment(s.project.Services[service])
	for i := range env {
		env[i] = s.rewrite.Replace(env[i])
	}
	return env
}

// command is the service's, in this stack.
func (s *stack) command(service string) []string {
	var args []string
	for _, arg := range s.project.Services[service].Command {
		args = append(args, s.rewrite.Replace(arg))
	}
	return args
}

// once runs a service that ends, with other arguments than its own if there are any, and returns what it printed.
func (s *stack) once(service string, args ...string) string {
	s.t.Helper()
	if len(args) == 0 {
		args = s.command(service)
	}
	out, code := run(s.t, s.environment(service), args...)
	if code != 0 {
		s.t.Fatalf("%s: spillway %s: exit %d:\n%s", service, strings.Join(args, " "), code, out)
	}
	return out
}

// process is one that runs until it is stopped. Its output is read once it is gone.
type process struct {
	*exec.Cmd
	said bytes.Buffer
	gone chan struct{}
}

// start starts a process that ends with the test at the latest, even one that is killed: its standard input is a pipe that we hold.
func (s *stack) start(name string, env []string, args ...string) *process {
	s.t.Helper()
	p := &process{Cmd: exec.Command(binary, append(args, "--until-stdin-closes")...), gone: make(chan struct{})}
	p.Env = append([]string{"HOME=" + s.t.TempDir()}, env...)
	p.Stdout, p.Stderr = &p.said, &p.said
	if _, err := p.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	go func() {
		defer close(p.gone)
		_ = p.Wait() // the state is what counts
	}()
	s.t.Cleanup(func() {
		p.Process.Kill()
		<-p.gone
		if s.t.Failed() {
			s.t.Logf("%s said:\n%s", name, p.said.String())
		}
	})
	return p
}

// serve starts one of the services and waits until its own health check is content.
func (s *stack) serve(name string) *process {
	s.t.Helper()
	p := s.start(name, s.environment(name), s.command(name)...)
	check := s.project.Services[name].HealthCheck.Test[2:] // without CMD and the binary
	for end := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		out, code := run(s.t, s.environment(name), check...)
		if code == 0 {
			return p
		}
		select {
		case <-p.gone:
			s.t.Fatalf("%s ended: %v", name, p.ProcessState)
		default:
		}
		if time.Now().After(end) {
			s.t.Fatalf("%s is not ready after %v:\n%s", name, within, out)
		}
	}
}

// end sends a signal and waits for the end, at most as long as compose.yaml gives.
func (s *stack) end(name string, p *process, signal os.Signal) {
	s.t.Helper()
	if err := p.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		s.t.Fatal(err)
	}
	grace := time.Duration(*s.project.Services[name].StopGracePeriod)
	select {
	case <-p.gone:
	case <-time.After(grace):
		s.t.Fatalf("%s has not ended %v after %v", name, grace, signal)
	}
}

// TestFirstJobWithoutContainers: keys, install, services, tokens and the first job of the guide, by what compose.yaml says, over the sockets that
// other containers use; then a service that was killed starts again on its socket, and all stop within their grace.
func TestFirstJobWithoutContainers(t *testing.T) {
	s := newStack(t)
	s.once("keys")
	s.once("install")
	s.once("keys") // as at each `up`: nothing is replaced
	s.once("install")
	s.once("tokens") // the notifier's among them
	running := map[string]*process{}
	for _, name := range servers {
		running[name] = s.serve(name)
	}
	s.once("tokens") // as before each command
	if out := s.once("cli", "load", "--flow", "first=1", "--for", "1s"); !strings.Contains(out, "1 sent = 1 accepted") || !strings.Contains(out, "0 lost") {
		t.Errorf("the first job:\n%s", out)
	}

	s.end("enqueue", running["enqueue"], syscall.SIGKILL)
	running["enqueue"] = s.serve("enqueue")
	s.once("cli", "source", "register", "crm", "--type", "tag")
	if out := s.once("cli", "job", "enqueue", "--source", "crm", "--type", "tag"); !strings.Contains(out, "accepted") {
		t.Errorf("after the kill of enqueue:\n%s", out)
	}
	if out := s.once("cli", "switch", "hold", "crm", "--reason", "test"); !strings.Contains(out, "scheduler-0") || !strings.Contains(out, "enqueue-0") {
		t.Errorf("a hold is not acknowledged by both:\n%s", out)
	}
	// The first notification: a job of type notify, run by the notifier, ends at a socket on the port that is published.
	token := strings.TrimSpace(s.once("tokens", "keys", "tokens", "--signing-dir="+s.rewrite.Replace("/var/lib/spillway/signing"), "--subscriber", "ada@acme:-"))
	ada := subscribe(t, s.sockets, token)
	ada.say(`{"t":"subscribe","channel":"user:acme:ada"}`)
	ada.until(`"t":"sub"`)
	s.once("cli", "source", "register", "notices", "--type", "notify")
	s.once("cli", "job", "enqueue", "--source", "notices", "--type", "notify", "--tenant", "acme",
		"--payload", `{"channel": "user:acme:ada", "class": "EVENT", "data": {"hello": "ada"}, "ttl": "60s"}`)
	if got := ada.until(`"t":"msg"`); !strings.Contains(got, `"hello"`) || !strings.Contains(got, "user:acme:ada") {
		t.Errorf("the first notification: %s", got)
	}

	s.once("cli", "ledger") // exits 1 if a job is nowhere, or in two places

	for _, name := range servers {
		s.end(name, running[name], syscall.SIGTERM)
		if code := running[name].ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s ended with %d", name, code)
		}
	}
}

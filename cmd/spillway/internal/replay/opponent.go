package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/send"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
	"github.com/spillway/spillway/cmd/spillway/internal/load/work"
	"github.com/spillway/spillway/cmd/spillway/internal/process"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/cmd/spillway/internal/replay/judge"
	"github.com/spillway/spillway/cmd/spillway/internal/replay/plain"
	"github.com/spillway/spillway/pkg/kafka"
)

const (
	brokerGrace   = 15 * time.Second
	brokerCeiling = 1536 << 20
	workerGrace   = 12 * time.Second // outlasts a write to a stalled client
	removeTimeout = 30 * time.Second
	// socketPath is the longest path of a Unix socket that every system takes.
	socketPath = 100
	// dialEvery is how often a worker that does not listen yet is dialled.
	dialEvery = 50 * time.Millisecond
)

// opponent is the stage without Spillway: a broker, a worker, nothing else.
type opponent struct {
	target    plain.Target
	settings  connect.Settings
	client    *kafka.Client
	listen    string
	out       *process.Output
	log       *slog.Logger
	producers []*plain.Producer
	clean     func()

	life     context.Context // of the processes
	end      context.CancelFunc
	running  sync.WaitGroup
	mu       sync.Mutex
	children []*process.Process
}

// openOpponent starts a broker in dir, or reaches the cluster, and makes the
// topic. The worker starts with work.
func openOpponent(ctx context.Context, dir string, cluster connect.Settings, topic string, out *process.Output, log *slog.Logger) (*opponent, error) {
	o := &opponent{settings: cluster, out: out, log: log, clean: func() {}}
	o.life, o.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := o.open(ctx, dir, topic); err != nil {
		return nil, errors.Join(err, o.stop(true))
	}
	return o, nil
}

func (o *opponent) open(ctx context.Context, dir, topic string) error {
	if o.settings.Kafka == "" {
		if err := o.startBroker(dir); err != nil {
			return err
		}
	} else if o.settings.TLS == connect.On || o.settings.SASL != "" {
		return exit.Errorf(exit.Usage, "--without-spillway speaks to clusters in plaintext only")
	}
	var err error
	if o.client, err = connect.Reach(ctx, o.settings, "replay"); err != nil {
		return err
	}
	o.target = plain.Target{Address: o.settings.Kafka, Topic: topic, Group: topic}
	// A port is free now and will be in a moment: nothing else starts meanwhile.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("port of the worker: %w", err)
	}
	o.listen = l.Addr().String()
	l.Close()
	return o.target.Install(ctx, o.client)
}

// startBroker starts the embedded broker as `spillway dev` does.
func (o *opponent) startBroker(dir string) error {
	data := filepath.Join(dir, "broker")
	if err := os.Mkdir(data, 0o700); err != nil {
		return fmt.Errorf("temporary directory: %w", err)
	}
	socket := filepath.Join(data, "broker.sock")
	if len(socket) > socketPath {
		short, err := os.MkdirTemp("", "spillway-") // mode 0700
		if err != nil {
			return fmt.Errorf("directory of the broker's socket: %w", err)
		}
		o.clean = func() { os.RemoveAll(short) }
		socket = filepath.Join(short, "broker.sock")
	}
	procs := 0
	if runtime.NumCPU() <= 2 {
		procs = 1
	}
	o.settings = connect.Settings{Kafka: "unix:" + socket}
	o.launch(o.life, process.Spec{
		Name: "broker", Args: []string{"serve", "broker", "--until-stdin-closes", "--data-dir", data, "--socket", socket, "--log-level", "WARN"},
		Ceiling: brokerCeiling, MaxProcs: procs, Grace: brokerGrace,
	})
	return nil
}

// launch keeps a child running until ctx ends. It returns a function that waits
// for that.
func (o *opponent) launch(ctx context.Context, spec process.Spec) (wait func() error) {
	p := process.New(spec, o.out, o.log, nil)
	o.mu.Lock()
	o.children = append(o.children, p)
	o.mu.Unlock()
	done := make(chan error, 1)
	o.running.Go(func() { done <- p.Run(ctx) })
	return func() error { return <-done }
}

func (o *opponent) broker() string {
	if o.settings.Broker("").Address != "" && len(o.children) > 0 && o.children[0].Name() == "broker" {
		return readyfile.Embedded
	}
	return readyfile.Kafka
}

func (o *opponent) schedulers() int { return 0 }

func (o *opponent) ports(_ context.Context, run plan.Run) ([]send.Port, error) {
	var ports []send.Port
	for range run.Flows {
		p := plain.NewProducer(o.target)
		o.producers = append(o.producers, p)
		ports = append(ports, p)
	}
	return ports, nil
}

func (o *opponent) work(ctx context.Context, to work.Events) error {
	cfg, err := json.Marshal(plain.Config{Target: o.target, Listen: o.listen, Slots: judge.Slots})
	if err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	return o.launch(ctx, process.Spec{
		Name: "worker", Args: []string{"replay", plain.Command}, Env: []string{plain.Variable + "=" + string(cfg)}, Grace: workerGrace,
		Stdout: func(r io.Reader) { work.ReadFrames(r, to) },
	})()
}

// dial waits for the worker, whose process starts at the same time.
func (o *opponent) dial(ctx context.Context, c client) (socket, error) {
	transport := &http.Transport{DisableKeepAlives: true}
	if !c.reads {
		transport.DialContext = dialStalled
	}
	at := "ws://" + o.listen + "/?channel=" + url.QueryEscape(judge.Channel(c.tenant))
	for {
		conn, _, err := websocket.Dial(ctx, at, &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
		if err == nil {
			return plainSocket{conn}, nil
		}
		if !send.SleepUntil(ctx, time.Now().Add(dialEvery)) {
			return nil, fmt.Errorf("websocket of the worker: %w", err)
		}
	}
}

// plainSocket is a connection to the worker: every message is a notification.
type plainSocket struct{ conn *websocket.Conn }

// Next is socket.Next.
func (s plainSocket) Next(ctx context.Context) ([]byte, bool, error) {
	_, data, err := s.conn.Read(ctx)
	return data, false, err
}

// Close is socket.Close.
func (s plainSocket) Close() { _ = s.conn.CloseNow() }

func (o *opponent) processes() []readyfile.Process {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []readyfile.Process
	for _, p := range o.children {
		n, _ := p.Restarts()
		list = append(list, readyfile.Process{Name: p.Name(), PID: p.PID(), Restarts: n})
	}
	return list
}

// ceiling is 0: nobody bounds the worker, and the broker is not what is judged.
func (o *opponent) ceiling(string) int64 { return 0 }

// operator is nil: there is no switch.
func (o *opponent) operator(context.Context) (operator, error) { return nil, nil }

// account counts by what the handlers did. A job without an end waits for as
// long as the group has not committed everything; then it is lost.
func (o *opponent) account(ctx context.Context, s *send.Sender) (tally.Ledger, bool, error) {
	left := tally.Waiting
	open := 0
	s.Book.Each(func(f tally.Fate) {
		if f.Answer == tally.Accepted && !f.Finished {
			open++
		}
	})
	if open > 0 {
		behind, err := o.target.Behind(ctx, o.client)
		if err != nil {
			return tally.Ledger{}, false, err
		}
		if behind == 0 {
			left = tally.Absent
		}
	}
	return s.Book.Ledger(func(f tally.Fate) tally.Outcome {
		if f.Finished {
			return tally.Succeeded
		}
		return left
	}), false, nil
}

func (o *opponent) troubles() map[string]int { return nil }

func (o *opponent) stop(keep bool) error {
	var errs []error
	for _, p := range o.producers {
		errs = append(errs, p.Close())
	}
	if o.client != nil {
		if !keep && o.broker() == readyfile.Kafka {
			ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
			errs = append(errs, o.target.Remove(ctx, o.client))
			cancel()
		}
		o.client.Close()
	}
	o.end()
	o.running.Wait()
	o.clean()
	return errors.Join(errs...)
}

package dev

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/exit"
	"github.com/spillway/spillway/cmd/spillway/internal/process"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/kafka"
)

const (
	// startTimeout is how long a start may take: ten times what a full store
	// needs to be read.
	startTimeout = 60 * time.Second
	// serviceGrace outlasts a service's own stop budgets, brokerGrace the
	// broker's clean close.
	serviceGrace = 15 * time.Second
	brokerGrace  = 15 * time.Second
	// startFailures is how often a child may end before everything is ready:
	// one that was just in the way of a port gets another chance.
	startFailures = 3
	// fewCores is up to how many cores each process gets one of them: more
	// would only make their goroutines wake each other up across cores.
	fewCores = 2
)

// Dev is a running broker with its services. Its goroutines end with Stop.
type Dev struct {
	opts Options
	out  *process.Output
	log  *slog.Logger
	lock *readyfile.Lock
	keys keys

	durability string  // of the topics
	socketDir  string  // to be removed; "" if the socket lies in the data directory or there is none
	children   []child // in the order of their start
	running    sync.WaitGroup
	renewal    context.CancelFunc
	pages      net.Listener            // of the pages for people, which this process serves itself
	pagesStop  context.CancelFunc      // nil while they are not served
	abort      context.CancelCauseFunc // of the start

	mu    sync.Mutex
	file  readyfile.File
	ready bool
}

// child is a process with the means to stop it.
type child struct {
	*process.Process
	stop context.CancelFunc
	done chan struct{}
}

// Start starts everything and returns once all of it is ready, or stops what
// it had started. ctx bounds only the start.
func Start(ctx context.Context, opts Options, out *process.Output, log *slog.Logger) (*Dev, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	lock, err := readyfile.Acquire(opts.DataDir)
	if err != nil {
		if _, running := errors.AsType[*readyfile.RunningError](err); running {
			return nil, exit.With(exit.Precondition, err)
		}
		return nil, err
	}
	// Whoever reaches the socket in it reads and writes everything.
	if err := os.Chmod(opts.DataDir, 0o700); err != nil {
		lock.Release()
		return nil, fmt.Errorf("data directory: %w", err)
	}
	d := &Dev{opts: opts, out: out, log: log, lock: lock, abort: abort}
	var ports reservation
	if _, err := os.Stat(filepath.Join(opts.DataDir, readyfile.Name)); err == nil {
		wait, cancel := context.WithTimeout(ctx, serviceGrace)
		defer cancel()
		ports.wait = wait
	}
	d.removeFiles() // of one that was killed: nobody must take them for ours
	if err := d.start(ctx, ports); err != nil {
		d.Stop()
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = errors.Join(cause, err)
		}
		return nil, err
	}
	return d, nil
}

func (d *Dev) start(ctx context.Context, ports reservation) error {
	defer ports.release()
	services, err := d.opts.services(ports.take)
	if err != nil {
		return err
	}
	if err := d.openPages(&ports); err != nil {
		return err
	}
	if d.keys, err = openKeys(d.opts.DataDir); err != nil {
		return err
	}
	d.file = readyfile.File{
		DataDir: d.opts.DataDir, Parent: os.Getpid(), Prefix: cmp.Or(d.opts.Prefix, kafka.DefaultPrefix), MACKeyFile: d.keys.macPath, TokenKeys: d.keys.signer.JWKS(),
	}
	cluster, err := d.openLog(ctx)
	if err != nil {
		return err
	}
	if d.file.Tokens, err = d.keys.tokens(cluster, time.Now()); err != nil {
		return err
	}

	d.describe(services)
	ports.release()
	for _, s := range services {
		d.launch(d.spec(s))
	}
	for _, s := range services {
		if err := awaitReady(ctx, s); err != nil {
			return err
		}
	}
	if err := d.servePages(cluster); err != nil {
		return err
	}
	d.mu.Lock()
	d.ready = true
	d.mu.Unlock()
	d.renewTokens(cluster)
	return d.write()
}

func maxProcs() int {
	if runtime.NumCPU() <= fewCores {
		return 1
	}
	return 0
}

// trimEvery is the one setting of a service that dev hands on from its own environment: the store is small, so how soon space comes back is
// worth a try.
const trimEvery = "SPILLWAY_SCHEDULER_TRIM_EVERY"

// spec is how a service is started.
func (d *Dev) spec(s service) process.Spec {
	env := []string{
		"SPILLWAY_PREFIX=" + d.file.Prefix,
		"SPILLWAY_LISTEN=" + s.grpc,
		"SPILLWAY_ADMIN_LISTEN=" + s.admin,
		"SPILLWAY_REPLICA=" + s.name,
		"SPILLWAY_TOKEN_KEYS=" + d.keys.signer.JWKS(),
		"SPILLWAY_MAC_KEY_FILE=" + d.keys.macPath,
		"SPILLWAY_DURABILITY=" + d.durability,
		"SPILLWAY_REFLECTION=true",
		"SPILLWAY_METRICS=true",
		"SPILLWAY_TRACE_JOIN=true", // all callers are of this machine's user
		"SPILLWAY_LOG_LEVEL=" + d.opts.LogLevel,
	}
	env = append(env, connect.Of(d.file.Broker).Environ()...)
	switch s.kind {
	case enqueueKind:
		// Local mode: unknown sources are registered for whoever asks.
		env = append(env, "SPILLWAY_ENQUEUE_REGISTER="+d.file.Endpoints.Automation, "SPILLWAY_ENQUEUE_REGISTER_TOKEN_FILE="+d.keys.tokenFile("operator"))
	case notifierKind:
		env = append(env,
			"SPILLWAY_NOTIFIER_LISTEN="+s.web,
			"SPILLWAY_NOTIFIER_ORIGINS="+strings.Join(d.origins(), ","),
			"SPILLWAY_NOTIFIER_SCHEDULERS="+strings.Join(d.file.Endpoints.Scheduler, ","),
			"SPILLWAY_NOTIFIER_WORKER_TOKEN_FILE="+d.keys.tokenFile("worker"))
	case schedulerKind:
		if every := os.Getenv(trimEvery); every != "" {
			env = append(env, trimEvery+"="+every)
		}
	}
	return process.Spec{
		Name: s.name, Args: []string{"serve", s.kind, "--until-stdin-closes"}, Env: env,
		Ceiling: s.ceiling, MaxProcs: maxProcs(), Grace: serviceGrace,
	}
}

// describe fills in the ready file's addresses.
func (d *Dev) describe(services []service) {
	f := &d.file
	f.Endpoints.Pages = "http://" + d.pages.Addr().String()
	for _, s := range services {
		admin := "http://" + s.admin
		switch s.kind {
		case enqueueKind:
			if f.Endpoints.Enqueue == "" {
				f.Endpoints.Enqueue, f.Admin.Enqueue = s.grpc, admin
			}
		case schedulerKind:
			f.Endpoints.Scheduler = append(f.Endpoints.Scheduler, s.grpc)
			f.Admin.Scheduler = append(f.Admin.Scheduler, admin)
		case notifierKind:
			if f.Endpoints.Notifier == "" {
				f.Endpoints.Notifier, f.Endpoints.Websocket, f.Admin.Notifier = s.grpc, readyfile.Websocket(s.web), admin
			}
		case automationKind:
			f.Endpoints.Automation, f.Admin.Automation = s.grpc, admin
		}
		r := readyfile.Replica{Name: s.name, GRPC: s.grpc, Admin: admin}
		if s.web != "" {
			r.Websocket = readyfile.Websocket(s.web)
		}
		f.Replicas = append(f.Replicas, r)
	}
}

// launch starts a child.
func (d *Dev) launch(spec process.Spec) {
	ctx, stop := context.WithCancel(context.Background())
	c := child{Process: process.New(spec, d.out, d.log, d.changed), stop: stop, done: make(chan struct{})}
	d.mu.Lock()
	d.children = append(d.children, c)
	d.mu.Unlock()
	go func() {
		defer close(c.done)
		if err := c.Run(ctx); err != nil {
			d.log.Error("process cannot be started", "process", spec.Name, "error", err.Error())
		}
	}()
}

// changed is called after a child was started and after it ended: it gives a
// start up that leads nowhere, and afterwards keeps the ready file true.
func (d *Dev) changed() {
	d.mu.Lock()
	ready, children := d.ready, d.children
	d.mu.Unlock()
	if !ready {
		for _, c := range children {
			if n, err := c.Restarts(); n >= startFailures-1 && err != nil {
				d.abort(fmt.Errorf("%s ended %d times, last: %w", c.Name(), n+1, err))
			}
		}
		return
	}
	if err := d.write(); err != nil {
		d.log.Error("ready file", "error", err.Error())
	}
}

// File is what the ready file says now.
func (d *Dev) File() readyfile.File {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.file
	f.Processes = nil
	for _, c := range d.children {
		n, _ := c.Restarts()
		f.Processes = append(f.Processes, readyfile.Process{Name: c.Name(), PID: c.PID(), Restarts: n})
	}
	return f
}

func (d *Dev) write() error {
	f := d.File()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ready {
		return nil // stopped meanwhile
	}
	err := readyfile.Write(filepath.Join(d.opts.DataDir, readyfile.Name), f)
	if d.opts.ReadyFile != "" {
		err = errors.Join(err, readyfile.Write(d.opts.ReadyFile, f))
	}
	return err
}

// Stop stops everything in order, the broker last, and gives the data directory
// back. It returns when all processes have gone.
func (d *Dev) Stop() {
	d.mu.Lock()
	d.ready = false
	children := d.children
	d.mu.Unlock()
	if d.renewal != nil {
		d.renewal()
	}
	d.closePages()
	d.running.Wait()
	d.removeFiles()
	for _, c := range slices.Backward(children) {
		c.stop()
		<-c.done
	}
	if d.socketDir != "" {
		os.RemoveAll(d.socketDir)
	}
	if err := d.lock.Release(); err != nil {
		d.log.Error("lock of the data directory", "error", err.Error())
	}
}

// removeFiles removes the ready files, which need not be there.
func (d *Dev) removeFiles() {
	os.Remove(filepath.Join(d.opts.DataDir, readyfile.Name))
	if d.opts.ReadyFile != "" {
		os.Remove(d.opts.ReadyFile)
	}
}

// Summary says in a few lines where everything is.
func (d *Dev) Summary() string {
	f := d.File()
	var b strings.Builder
	fmt.Fprintf(&b, "  enqueue     %s\n  scheduler   %s\n", f.Endpoints.Enqueue, strings.Join(f.Endpoints.Scheduler, " "))
	if f.Endpoints.Notifier != "" {
		fmt.Fprintf(&b, "  notifier    %s (sockets %s)\n", f.Endpoints.Notifier, f.Endpoints.Websocket)
	}
	fmt.Fprintf(&b, "  automation  %s\n  pages       %s\n", f.Endpoints.Automation, f.Endpoints.Pages)
	if f.Broker.Kind == readyfile.Kafka {
		fmt.Fprintf(&b, "  log         %s (topics %s…, %s)\n", f.Broker.Address, f.Prefix, d.durability)
	}
	fmt.Fprintf(&b, "  data        %s (tokens in %s)\n", f.DataDir, readyfile.Name)
	return b.String()
}

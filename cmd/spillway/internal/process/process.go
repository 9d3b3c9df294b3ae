package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// firstBackoff lets a process that was killed come back at once: clients'
	// retries last seconds.
	firstBackoff = 100 * time.Millisecond
	// lastBackoff keeps a process that cannot start from using the machine up.
	lastBackoff = 5 * time.Second
	// steady is how long a process has to run for its backoff to begin anew.
	steady = 10 * time.Second
	// watchEvery is how often memory is measured: a Go process under
	// GOMEMLIMIT grows by less than its last tenth in that time.
	watchEvery = time.Second
	// overGrace is how long a process above its ceiling has to stop in order.
	overGrace = 2 * time.Second
)

// Spec describes one child.
type Spec struct {
	// Name stands before each line that the child logs.
	Name string
	// Args are the arguments for this binary.
	Args []string
	// Env is added to the parent's environment, from which SPILLWAY_* is left
	// out: those are meant for the parent.
	Env []string
	// Ceiling is the resident memory in bytes above which the child is
	// restarted; GOMEMLIMIT is set to nine tenths of what the binary leaves of it. 0 = neither.
	Ceiling int64
	// MaxProcs, above 0, sets GOMAXPROCS unless the environment has it.
	MaxProcs int
	// Grace is how long the child may take to stop once its standard input is
	// closed; then it is killed.
	Grace time.Duration
	// Stdout, if set, reads the standard output of each start of the child
	// until it ends. Without it, standard output is logged as standard error is.
	Stdout func(io.Reader)
}

// Process is one supervised child. Run owns all its goroutines.
type Process struct {
	spec Spec
	out  *Output
	log  *slog.Logger
	// changed is called after each start and each exit, without a lock held.
	changed func()

	mu       sync.Mutex
	pid      int // 0 while not running
	restarts int
	exit     error // why it ended last
}

// New describes a child; nothing starts before Run. changed may be nil.
func New(spec Spec, out *Output, log *slog.Logger, changed func()) *Process {
	if changed == nil {
		changed = func() {}
	}
	return &Process{spec: spec, out: out, log: log.With("process", spec.Name), changed: changed}
}

// Name is the child's name.
func (p *Process) Name() string { return p.spec.Name }

// PID is the running child's process id, 0 while there is none.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Restarts is how often the child was started again, and why it ended last.
func (p *Process) Restarts() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.restarts, p.exit
}

// Run keeps the child running until ctx ends, then stops it and returns once
// it has gone. It returns an error only if the binary cannot be started at all.
func (p *Process) Run(ctx context.Context) error {
	binary, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the own binary: %w", err)
	}
	backoff := firstBackoff
	for {
		began := time.Now()
		err := p.once(ctx, binary)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errStart) {
			return err
		}
		if time.Since(began) >= steady {
			backoff = firstBackoff
		}
		p.log.Warn("process ended, starting it again", "reason", err.Error(), "in", backoff.String())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, lastBackoff)
		p.mu.Lock()
		p.restarts++
		p.mu.Unlock()
	}
}

var errStart = errors.New("cannot start")

// once runs the child until it ends by itself, grows above its ceiling or ctx
// ends.
func (p *Process) once(ctx context.Context, binary string) error {
	cmd := exec.Command(binary, p.spec.Args...)
	cmd.Env = p.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return errors.Join(errStart, err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return errors.Join(errStart, err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return errors.Join(errStart, err)
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(errStart, err)
	}
	p.set(cmd.Process.Pid, nil)

	var readers sync.WaitGroup
	readers.Go(func() { p.out.Copy(p.spec.Name, stderr) })
	readers.Go(func() {
		if p.spec.Stdout != nil {
			p.spec.Stdout(stdout)
			return
		}
		p.out.Copy(p.spec.Name, stdout)
	})
	ended := make(chan error, 1)
	go func() {
		readers.Wait() // Wait closes the pipes: everything has to be read first
		ended <- cmd.Wait()
	}()

	err = p.watch(ctx, cmd.Process, stdin, ended)
	p.set(0, err)
	return err
}

// watch returns once the child has gone.
func (p *Process) watch(ctx context.Context, child *os.Process, stdin io.Closer, ended <-chan error) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			if err == nil {
				err = errors.New("exit status 0")
			}
			return err
		case <-ctx.Done():
			return p.stop(child, stdin, ended, p.spec.Grace)
		case <-tick.C:
			u, ok := Measure(child.Pid)
			if !ok || p.spec.Ceiling == 0 || u.RSS <= p.spec.Ceiling {
				continue
			}
			p.stop(child, stdin, ended, overGrace)
			return fmt.Errorf("resident memory of %d MiB is above its ceiling of %d MiB", u.RSS>>20, p.spec.Ceiling>>20)
		}
	}
}

func (p *Process) stop(child *os.Process, stdin io.Closer, ended <-chan error, grace time.Duration) error {
	stdin.Close()
	select {
	case err := <-ended:
		return err
	case <-time.After(grace):
	}
	p.log.Warn("process did not stop in time, killing it", "grace", grace.String())
	child.Kill()
	return <-ended
}

func (p *Process) set(pid int, exit error) {
	p.mu.Lock()
	p.pid = pid
	if pid == 0 {
		p.exit = exit
	}
	p.mu.Unlock()
	p.changed()
}

// program is what is resident of the binary itself, in bytes: GOMEMLIMIT does not
// count it, and a ceiling does.
const program = 32 << 20

// memoryLimit is the GOMEMLIMIT, in bytes, with which a child stays below its
// ceiling: nine tenths of what the binary leaves of it.
func memoryLimit(ceiling int64) int64 { return max(ceiling-program, ceiling/2) / 10 * 9 }

func (p *Process) environment() []string {
	var env []string
	maxProcs := p.spec.MaxProcs
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "SPILLWAY_") {
			continue
		}
		if strings.HasPrefix(kv, "GOMAXPROCS=") {
			maxProcs = 0
		}
		env = append(env, kv)
	}
	if p.spec.Ceiling > 0 {
		env = append(env, "GOMEMLIMIT="+strconv.FormatInt(memoryLimit(p.spec.Ceiling), 10))
	}
	if maxProcs > 0 {
		env = append(env, "GOMAXPROCS="+strconv.Itoa(maxProcs))
	}
	return append(env, p.spec.Env...)
}

// UntilParentEnds returns a context that ends when standard input does: the
// child's side of the contract.
func UntilParentEnds(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	// This goroutine ends with the process: a read of standard input cannot be
	// interrupted.
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return ctx, cancel
}

package apache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Environment is the variable that decides whether tests run on Apache Kafka.
const Environment = "SPILLWAY_TEST_KAFKA"

const (
	// startTimeout bounds formatting and starting: a second and 3 s for one
	// broker on a quiet machine, 22 s were seen for three on a busy one.
	startTimeout = 2 * time.Minute
	// userTimeout bounds adding a user, milliseconds of work.
	userTimeout = 20 * time.Second
	// stopTimeout bounds a stop in order, half a second of work. Of three
	// that stop together the last may wait for ever for the others.
	stopTimeout = 15 * time.Second
	// servePause is the pause between two looks at a broker that is starting.
	servePause = 25 * time.Millisecond
)

// Cluster is one broker or three. Brokers are numbered from 0.
//
// Its methods are for the goroutine of the test that started it: what fails in
// one of them ends that test.
type Cluster struct {
	nodes   []*node
	secrets *secrets // nil: no security
	fail    func(error)
}

// Start starts brokers for a test and returns when all of them serve. They are
// killed at the end of the test; if it has failed, the ends of their logs are
// in its output. Without the environment variable the test is skipped.
func Start(t testing.TB, config Config) *Cluster {
	t.Helper()
	switch value := os.Getenv(Environment); value {
	case "apache":
	case "":
		t.Skipf("not run: set %s=apache to run it on Apache Kafka, which needs Java and Maven", Environment)
	default:
		t.Fatalf("%s is %q: it can be apache, or unset", Environment, value)
	}
	dir := t.TempDir()
	began := time.Now()
	c, err := Launch(t.Context(), dir, config)
	if c != nil { // even if not all of it started
		c.fail = func(err error) { t.Helper(); t.Fatal(err) }
		t.Cleanup(func() { c.end(t) })
	}
	if err != nil {
		t.Fatalf("start Apache Kafka %s: %v", Version, err)
	}
	t.Logf("Apache Kafka %s with %d brokers serves after %s", Version, len(c.nodes), time.Since(began).Round(time.Millisecond))
	return c
}

// Launch is Start for a command: brokers that keep everything in dir, which
// must be empty, and that Close ends. After an error, too, Close has to be
// called unless the cluster is nil.
func Launch(ctx context.Context, dir string, config Config) (*Cluster, error) {
	if config.Brokers == 0 {
		config.Brokers = 1
	}
	if config.Brokers != 1 && config.Brokers != 3 {
		return nil, fmt.Errorf("%d brokers: there can be 1 or 3", config.Brokers)
	}
	jars, err := artifacts(ctx)
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return nil, errors.Join(err, fmt.Errorf("%s is not an empty directory", dir))
	}
	c := &Cluster{fail: func(err error) { panic(err) }}
	if config.Secure {
		if c.secrets, err = newSecrets(dir); err != nil {
			return nil, err
		}
	}
	members, err := plan(dir, config.Brokers)
	if err != nil {
		return nil, err
	}
	var options []kgo.Opt
	if config.Secure {
		options = c.secrets.options(c.Admin())
	}
	for _, m := range members {
		c.nodes = append(c.nodes, &node{member: m, jars: jars, options: options})
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	id := uuid()
	if err := c.each(func(n *node) error { return n.format(ctx, id, config, members, c.secrets) }); err != nil {
		return nil, err
	}
	return c, c.each(func(n *node) error {
		if err := n.begin(); err != nil {
			return err
		}
		return n.await(ctx)
	})
}

// each does the same with all brokers at once.
func (c *Cluster) each(do func(*node) error) error {
	errs := make([]error, len(c.nodes))
	var all sync.WaitGroup
	for i, n := range c.nodes {
		all.Go(func() { errs[i] = do(n) })
	}
	all.Wait()
	return errors.Join(errs...)
}

// Addresses returns the brokers' addresses as host:port, in their order.
func (c *Cluster) Addresses() []string {
	var list []string
	for _, n := range c.nodes {
		list = append(list, n.address())
	}
	return list
}

// PID returns the process id of broker i, 0 while it is down.
func (c *Cluster) PID(i int) int { return c.nodes[i].pid() }

// RSS returns the resident memory of broker i in bytes, 0 while it is down.
func (c *Cluster) RSS(i int) int64 {
	bytes, err := c.nodes[i].rss()
	c.check(err, fmt.Sprintf("memory of broker %d", i))
	return bytes
}

// Kill ends broker i as kill -9 does and returns when it is gone.
func (c *Cluster) Kill(i int) {
	c.check(c.nodes[i].end(syscall.SIGKILL, stopTimeout), fmt.Sprintf("kill broker %d", i))
}

// Stop ends broker i in order, with SIGTERM, and returns when it is gone.
func (c *Cluster) Stop(i int) {
	c.check(c.nodes[i].end(syscall.SIGTERM, stopTimeout), fmt.Sprintf("stop broker %d", i))
}

// Freeze stops broker i from running, as SIGSTOP does: its connections stay and
// nothing answers. Thaw lets it go on.
func (c *Cluster) Freeze(i int) {
	c.check(c.nodes[i].signal(syscall.SIGSTOP), fmt.Sprintf("freeze broker %d", i))
}

// Thaw lets a frozen broker go on.
func (c *Cluster) Thaw(i int) {
	c.check(c.nodes[i].signal(syscall.SIGCONT), fmt.Sprintf("thaw broker %d", i))
}

// Begin starts broker i again on what it had stored and does not wait for it.
func (c *Cluster) Begin(i int) {
	c.check(c.nodes[i].begin(), fmt.Sprintf("begin broker %d", i))
}

// Await waits until broker i, which was begun, serves.
func (c *Cluster) Await(i int) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	c.check(c.nodes[i].await(ctx), fmt.Sprintf("await broker %d", i))
}

// Restart starts broker i again on what it had stored and returns once it
// serves. One of three needs another one for that.
func (c *Cluster) Restart(i int) {
	c.Begin(i)
	c.Await(i)
}

// Failed returns a channel that is closed when broker i has ended, on its own
// or not. Only while it runs.
func (c *Cluster) Failed(i int) <-chan struct{} { return c.nodes[i].gone() }

// Close stops all brokers in order, and kills what does not stop.
func (c *Cluster) Close() error {
	return c.each(func(n *node) error {
		if n.pid() == 0 {
			return nil
		}
		if n.end(syscall.SIGTERM, stopTimeout) == nil {
			return nil
		}
		return n.end(syscall.SIGKILL, stopTimeout)
	})
}

// end is the end of a test: nothing of the brokers is kept, so they need not
// stop in order. A broker that has ended on its own fails the test.
func (c *Cluster) end(t testing.TB) {
	for i, n := range c.nodes {
		if n.crashed() {
			t.Errorf("broker %d ended on its own", i)
		}
	}
	err := c.each(func(n *node) error {
		if n.pid() == 0 {
			return nil
		}
		return n.end(syscall.SIGKILL, stopTimeout)
	})
	if err != nil {
		t.Error(err)
	}
	if t.Failed() {
		for i, n := range c.nodes {
			t.Logf("the end of the log of broker %d:\n%s", i, n.tail())
		}
	}
}

func (c *Cluster) check(err error, what string) {
	if err != nil {
		c.fail(fmt.Errorf("%s: %w", what, err))
	}
}

// tail returns the last lines of an output.
func tail(out []byte, lines int) string {
	list := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.Join(list[max(0, len(list)-lines):], "\n")
}

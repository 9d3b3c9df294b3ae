package apache

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

//go:embed log4j2.properties
var log4j []byte

// java are the flags of a small and short-lived machine: a little heap, one
// thread for collecting it and the fast compiler only.
var java = []string{"-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"}

// logLines of each broker are shown when a test fails.
const logLines = 30

// node is one broker, running or not.
type node struct {
	member
	jars    string
	options []kgo.Opt // how a client reaches it

	mu      sync.Mutex
	process *exec.Cmd     // nil while it is down
	ended   chan struct{} // closed when process has ended
	ending  bool          // we have asked it to end
	crash   bool          // once it has ended without being asked to
}

// format prepares the storage of a broker that was never started.
func (n *node) format(ctx context.Context, cluster string, config Config, members []member, secrets *secrets) error {
	if err := os.Mkdir(n.dir, 0o700); err != nil {
		return err
	}
	// The settings hold the admin's password.
	if err := os.WriteFile(n.properties, []byte(n.settings(config, members, secrets)), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(n.dir, "log4j2.properties"), log4j, 0o644); err != nil {
		return err
	}
	args := []string{"kafka.tools.StorageTool", "format", "--cluster-id", cluster, "--config", n.properties}
	if len(members) == 1 {
		args = append(args, "--standalone")
	} else {
		var controllers []string
		for _, m := range members {
			controllers = append(controllers, fmt.Sprintf("%d@%s:%s", m.id, m.controller(), m.directory))
		}
		args = append(args, "--initial-controllers", strings.Join(controllers, ","))
	}
	if secrets != nil {
		args = append(args, "--add-scram", fmt.Sprintf("SCRAM-SHA-512=[name=%s,password=%s]", admin, secrets.password))
	}
	out, err := n.command(ctx, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("format broker %d: %w\n%s", n.id, err, tail(withoutSalts(out), logLines))
	}
	return nil
}

// withoutSalts drops the lines in which the tool prints users' keys.
func withoutSalts(out []byte) []byte {
	var kept [][]byte
	for line := range bytes.Lines(out) {
		if !bytes.Contains(bytes.ToLower(line), []byte("scram")) {
			kept = append(kept, line)
		}
	}
	return bytes.Join(kept, nil)
}

// command runs a class of Kafka's. The jars are a pattern that Java expands.
func (n *node) command(ctx context.Context, args ...string) *exec.Cmd {
	flags := append(append([]string(nil), java...),
		"-Dlog4j2.configurationFile="+filepath.Join(n.dir, "log4j2.properties"), "-cp", filepath.Join(n.jars, "*"))
	cmd := exec.CommandContext(ctx, "java", append(flags, args...)...)
	cmd.Dir = n.dir
	cmd.SysProcAttr = attributes()
	return cmd
}

// begin starts the broker's process.
func (n *node) begin() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process != nil {
		return errors.New("it is running")
	}
	log, err := os.OpenFile(n.stdout, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	cmd := n.command(context.Background(), "kafka.Kafka", n.properties)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	n.process, n.ended, n.ending = cmd, ended, false
	go func() { // ends with the process, which end and the death of ours see to
		_ = cmd.Wait() // how it ended is in its log
		n.mu.Lock()
		defer n.mu.Unlock()
		n.process, n.crash = nil, n.crash || !n.ending
		close(ended)
	}()
	return nil
}

// await returns when the broker serves, or with its log when it does not.
func (n *node) await(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := n.gone()
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := serves(ctx, n.address(), n.options); err != nil {
		return fmt.Errorf("broker %d does not serve at %s: %w\n%s", n.id, n.address(), err, n.tail())
	}
	return nil
}

// serves waits until the broker at an address answers, knows at least one
// broker and a controller.
func serves(ctx context.Context, address string, options []kgo.Opt) error {
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(address)}, options...)...)
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		request := kmsg.NewPtrMetadataRequest()
		request.Topics = []kmsg.MetadataRequestTopic{} // none: nil would be all
		response, err := client.SeedBrokers()[0].Request(ctx, request)
		if err == nil {
			view := response.(*kmsg.MetadataResponse)
			if len(view.Brokers) > 0 && view.ControllerID >= 0 {
				return nil
			}
			err = fmt.Errorf("it knows %d brokers and controller %d", len(view.Brokers), view.ControllerID)
		}
		select {
		case <-time.After(servePause):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// end signals the process and waits until it is gone.
func (n *node) end(s syscall.Signal, limit time.Duration) error {
	n.mu.Lock()
	n.ending = true
	ended := n.ended
	n.mu.Unlock()
	if err := n.signal(s); err != nil {
		return err
	}
	select {
	case <-ended:
		return nil
	case <-time.After(limit):
		return fmt.Errorf("it has not ended %s after %s", limit, s)
	}
}

func (n *node) signal(s syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process == nil {
		return errors.New("it is not running")
	}
	return n.process.Process.Signal(s)
}

func (n *node) pid() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process == nil {
		return 0
	}
	return n.process.Process.Pid
}

// gone returns a channel that is closed when the process last begun has ended.
func (n *node) gone() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ended
}

// crashed reports whether the broker has ever ended without being asked to.
func (n *node) crashed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.crash
}

// rss reads the resident memory from /proc, in bytes.
func (n *node) rss() (int64, error) {
	pid := n.pid()
	if pid == 0 {
		return 0, nil
	}
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(statm)) // in pages: all, resident, …
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/statm says %q", pid, statm)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize()), err
}

// tail returns the end of the broker's log.
func (n *node) tail() string {
	log, err := os.ReadFile(n.stdout)
	if err != nil {
		return err.Error()
	}
	return tail(log, logLines)
}

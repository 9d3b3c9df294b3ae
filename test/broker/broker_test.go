package broker

import (
	"context"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/spillway/spillway/pkg/kafka"
)

// brokerEnv makes the test binary a broker that keeps its data in the directory
// it names and serves the socket in there.
const brokerEnv = "SPILLWAY_TEST_BROKER_DIR"

func brokerMain(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	socket := filepath.Join(dir, "s")
	_ = os.Remove(socket)
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DataDir(filepath.Join(dir, "data")),
		kfake.ListenFn(func(string, string) (net.Listener, error) {
			l, err := net.Listen("unix", socket)
			return named{l}, err
		}))
	if err != nil {
		return err
	}
	<-ctx.Done()
	cluster.Close()
	return nil
}

type named struct{ net.Listener }

func (named) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9092} }

// embedded starts the embedded broker as a process.
func embedded(t *testing.T) Target {
	t.Helper()
	dir, err := os.MkdirTemp("", "broker") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var process *exec.Cmd
	target := Target{Addresses: []string{"unix:" + filepath.Join(dir, "s")}, Durability: kafka.Single}
	target.Start = func(t testing.TB) {
		t.Helper()
		process = exec.Command(os.Args[0])
		process.Env = append(os.Environ(), brokerEnv+"="+dir)
		process.Stderr = os.Stderr
		process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := process.Start(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		c, err := kafka.New(kafka.Config{Addresses: target.Addresses, ClientID: "ready"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Ready(ctx); err != nil {
			t.Fatal(err)
		}
	}
	target.Kill = func(t testing.TB) {
		t.Helper()
		if process == nil {
			return
		}
		_ = process.Process.Signal(syscall.SIGKILL)
		_ = process.Wait()
		process = nil
	}
	target.Start(t)
	t.Cleanup(func() { target.Kill(t) })
	return target
}

// external is the broker that the environment names, for example Apache Kafka.
func external(t *testing.T) Target {
	t.Helper()
	addresses := os.Getenv("SPILLWAY_TEST_KAFKA")
	if addresses == "" {
		t.Skip("not run: SPILLWAY_TEST_KAFKA names no broker")
	}
	target := Target{Addresses: strings.Split(addresses, ","), Durability: kafka.Single}
	if len(target.Addresses) >= 3 {
		target.Durability = kafka.Replicated
	}
	return target
}

func TestConformanceEmbedded(t *testing.T) { Conformance(t, embedded(t)) }

func TestConformanceExternal(t *testing.T) { Conformance(t, external(t)) }

func TestChurnEmbedded(t *testing.T) { Churn(t, embedded(t), spawn) }

func TestChurnExternal(t *testing.T) { Churn(t, external(t), spawn) }

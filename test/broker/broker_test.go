package broker

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/test/apache"
)

// embedded builds the product and starts its broker as a process.
func embedded(t *testing.T) Target {
	t.Helper()
	dir, err := os.MkdirTemp("", "broker") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binary := filepath.Join(dir, "spillway")
	build := exec.Command("go", "build", "-o", binary, "./cmd/spillway")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}

	socket := filepath.Join(dir, "s")
	target := Target{Addresses: []string{"unix:" + socket}, Durability: kafka.Single, Brokers: 1}
	var process *exec.Cmd
	var lifeline io.Closer // the broker ends when it closes: with this process at the latest
	target.Start = func(t testing.TB, _ ...int) {
		t.Helper()
		process = exec.Command(binary, "serve", "broker", "--until-stdin-closes", "--data-dir", filepath.Join(dir, "data"), "--socket", socket)
		process.Stderr = os.Stderr
		if lifeline, err = process.StdinPipe(); err != nil {
			t.Fatal(err)
		}
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
	target.Kill = func(t testing.TB, _ ...int) {
		t.Helper()
		if err := process.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = process.Wait() // "killed"
	}
	target.Start(t)
	t.Cleanup(func() { // in order
		lifeline.Close()
		if err := process.Wait(); err != nil {
			t.Errorf("the broker ended with %v", err)
		}
	})
	return target
}

// onApache starts Apache Kafka, one broker or three.
func onApache(t *testing.T, brokers int) Target {
	t.Helper()
	cluster := apache.Start(t, apache.Config{Brokers: brokers})
	target := Target{
		Addresses: cluster.Addresses(), Durability: kafka.Single, Brokers: brokers,
		Ways: Ways{MetadataLimit: 4096, KeepsMembers: true, KeepsEmptyEnds: true, ChecksSettings: true},
	}
	if brokers > 1 {
		target.Durability = kafka.Replicated
	}
	target.Kill = func(_ testing.TB, brokers ...int) {
		for _, i := range brokers {
			cluster.Kill(i)
		}
	}
	target.Start = func(_ testing.TB, brokers ...int) {
		for _, i := range brokers {
			cluster.Begin(i)
		}
		for _, i := range brokers {
			cluster.Await(i)
		}
	}
	return target
}

func TestConformanceEmbedded(t *testing.T) { Conformance(t, embedded(t)) }

func TestChurnEmbedded(t *testing.T) { Churn(t, embedded(t), spawn) }

func TestApacheConformance(t *testing.T) {
	t.Run("One", func(t *testing.T) { Conformance(t, onApache(t, 1)) })
	t.Run("Three", func(t *testing.T) { Conformance(t, onApache(t, 3)) })
}

func TestApacheChurn(t *testing.T) {
	t.Run("One", func(t *testing.T) { Churn(t, onApache(t, 1), spawn) })
	t.Run("Three", func(t *testing.T) { Churn(t, onApache(t, 3), spawn) })
}

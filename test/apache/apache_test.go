package apache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// client speaks to a cluster; it ends with the test.
func client(t *testing.T, c *Cluster, options ...kgo.Opt) *kgo.Client {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.Addresses()...), kgo.RetryTimeout(time.Minute)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// create makes topic "kept" and writes a record to it.
func create(t *testing.T, c *kgo.Client, replicas int) {
	t.Helper()
	request := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "kept", 3, int16(replicas)
	request.Topics = append(request.Topics, topic)
	answer, err := request.RequestWith(t.Context(), c)
	if err == nil {
		err = kerr.ErrorForCode(answer.Topics[0].ErrorCode)
	}
	if err != nil {
		t.Fatalf("create a topic: %v", err)
	}
	write(t, c)
}

func write(t *testing.T, c *kgo.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.ProduceSync(ctx, &kgo.Record{Topic: "kept", Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatalf("write: %v", err)
	}
}

func TestApacheOneBroker(t *testing.T) {
	c := Start(t, Config{Override: map[string]string{"num.network.threads": "2"}})
	k := client(t, c)
	create(t, k, 1)
	if rss := c.RSS(0); rss < 50<<20 || rss > 2<<30 {
		t.Errorf("the broker has %d bytes of memory", rss)
	}
	before := c.PID(0)
	c.Kill(0)
	if c.PID(0) != 0 {
		t.Error("a killed broker has a process")
	}
	c.Restart(0)
	if c.PID(0) == before {
		t.Error("the restarted broker is the killed one")
	}
	write(t, k)
	c.Freeze(0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := k.Ping(ctx); err == nil {
		t.Error("a frozen broker answers")
	}
	c.Thaw(0)
	write(t, k)
	c.Stop(0)
	c.Restart(0)
	write(t, k)
}

func TestApacheThreeBrokers(t *testing.T) {
	c := Start(t, Config{Brokers: 3})
	if n := len(c.Addresses()); n != 3 {
		t.Fatalf("%d addresses", n)
	}
	k := client(t, c)
	create(t, k, 3)
	c.Kill(1)
	write(t, k)
	c.Restart(1)
	write(t, k)
}

func TestApacheSecure(t *testing.T) {
	c := Start(t, Config{Brokers: 3, Secure: true}) // three also log in to each other
	create(t, client(t, c, c.secrets.options(c.Admin())...), 3)
	c.AddUser("somebody", "first")
	c.AddUser("somebody", "second")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	request := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "other", 1, 1
	request.Topics = append(request.Topics, topic)
	answer, err := request.RequestWith(ctx, client(t, c, c.secrets.options("somebody", "second")...))
	if err != nil || answer.Topics[0].ErrorCode != kerr.TopicAuthorizationFailed.Code {
		t.Errorf("a user without ACLs creates a topic: %+v, %v", answer, err)
	}
	if err := client(t, c, c.secrets.options("somebody", "first")...).Ping(ctx); !errors.Is(err, kerr.SaslAuthenticationFailed) {
		t.Errorf("the old password: %v", err)
	}
	if err := client(t, c).Ping(ctx); err == nil {
		t.Error("the port answers without TLS")
	}
	ca, err := os.ReadFile(c.CAFile())
	if err != nil || !strings.HasPrefix(string(ca), "-----BEGIN CERTIFICATE-----\n") {
		t.Errorf("the CA file: %q, %v", ca, err)
	}
}

// What a test sees when Kafka does not come up: its log, not a time limit.
func TestApacheStartFails(t *testing.T) {
	Start(t, Config{}).Stop(0) // skips, and fetches
	began := time.Now()
	c, err := Launch(t.Context(), t.TempDir(), Config{Override: map[string]string{"num.io.threads": "none"}})
	if err == nil {
		t.Error("a broker started with a setting that is none")
	} else if !strings.Contains(err.Error(), "num.io.threads") {
		t.Errorf("the error does not tell why: %v", err)
	}
	if c != nil {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %s to tell", took)
	}
}

// recorder is a test that is skipped.
type recorder struct {
	testing.TB
	why string
}

func (r *recorder) Helper() {}

func (r *recorder) Skipf(format string, args ...any) {
	r.why = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// Without the environment nothing is started, and the test says how to run it.
func TestNotRun(t *testing.T) {
	t.Setenv(Environment, "")
	r := &recorder{TB: t}
	var done sync.WaitGroup
	done.Go(func() { Start(r, Config{}) })
	done.Wait()
	if !strings.Contains(r.why, "not run: set SPILLWAY_TEST_KAFKA=apache") {
		t.Errorf("it is skipped with %q", r.why)
	}
}

func TestSaltsAreNotShown(t *testing.T) {
	out := "Formatting /x\nbootstrap record UserScramCredentialRecord(name='admin', salt=[1, 2])\nno space left\n"
	if got := string(withoutSalts([]byte(out))); got != "Formatting /x\nno space left\n" {
		t.Errorf("left is %q", got)
	}
}

func TestPortsAreDistinct(t *testing.T) {
	ports, err := freePorts(30)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[int]bool)
	for _, p := range ports {
		if seen[p] || p < lowPort || p >= highPort {
			t.Errorf("port %d of %v", p, ports)
		}
		seen[p] = true
	}
}

package secure

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/test/apache"
	"github.com/spillway/spillway/test/product"
)

const (
	// loadLimit bounds a short load with everything that it waits for.
	loadLimit = 3 * time.Minute
	// countLimit bounds one count of the ledger.
	countLimit = time.Minute
	// answerLimit is how long a command may take that cannot succeed: it gives
	// brokers 20 s, and a busy machine is slow.
	answerLimit = 45 * time.Second
)

// flows are a load that a busy machine can run.
var flows = []string{"--flow", "a=50,work=5ms", "--flow", "b=20,work=5ms,tenants=3", "--for", "4s", "--drain", "60s"}

// TestApacheDev runs dev on a cluster instead of the embedded broker: jobs,
// switches and the ledger work as there, it comes back on the same data
// directory, and another one is told that the installation is not its own.
func TestApacheDev(t *testing.T) {
	cluster := apache.Start(t, apache.Config{Brokers: 1})
	brokers := strings.Join(cluster.Addresses(), ",")
	dir := t.TempDir()
	dev := product.StartDev(t, dir, "--kafka", brokers)
	if f := dev.File(); f.Broker.Kind != "kafka" || f.Broker.Address != brokers || f.Process("broker") != 0 {
		t.Errorf("dev.json says %+v, with a broker of pid %d", f.Broker, f.Process("broker"))
	}
	load(t, dev)

	// The verbs find the cluster by dev.json.
	run(t, 0, "", "job", "enqueue", "--data-dir", dir, "--source", "manual", "--type", "t")
	run(t, 0, "", "switch", "hold", "manual", "--reason", "a test", "--yes", "--break-glass", "--data-dir", dir)
	run(t, 0, "", "switch", "resume", "manual", "--reason", "a test", "--break-glass", "--data-dir", dir)

	// Rights need brokers that ask for them.
	run(t, 1, "brokers with an authorizer", "install", "--kafka", brokers, "--mac-key-file", dev.File().MACKeyFile,
		"--partitions", "8", "--lanes", "16", "--durability", "single", "--acls")

	dev.Kill()
	dev = product.StartDev(t, dir, "--kafka", brokers)
	t.Logf("ready %v after a kill -9 of dev", dev.Took.Round(time.Millisecond))
	load(t, dev)

	t.Run("another data directory", func(t *testing.T) {
		began := time.Now()
		run(t, 5, "MAC key", "dev", "--kafka", brokers, "--data-dir", t.TempDir(), "--port-base", "0")
		run(t, 5, "--data-dir", "dev", "--kafka", brokers, "--data-dir", t.TempDir(), "--port-base", "0")
		t.Logf("two refusals took %v", time.Since(began).Round(time.Millisecond))
	})
	t.Run("a prefix of its own", func(t *testing.T) {
		other := product.StartDev(t, t.TempDir(), "--kafka", brokers, "--prefix", "other.")
		if f := other.File(); f.Prefix != "other." {
			t.Errorf("dev.json says prefix %q", f.Prefix)
		}
		load(t, other)
	})
	t.Run("load on its own", func(t *testing.T) {
		out, talk, code := product.Run(t, loadLimit, append([]string{"load", "--kafka", brokers, "-o", "json"}, flows...)...)
		if code != 0 || !strings.Contains(out, `"lost": 0`) {
			t.Errorf("it ended with %d: %s%s", code, out, talk)
		}
		prefix := regexp.MustCompile(`spillway-load-\w+\.`).FindString(talk)
		if prefix == "" || copies(t, brokers, prefix+"control") != 0 || copies(t, brokers, "other.control") == 0 {
			t.Errorf("its topics %q are still there, or those of another are not:\n%s", prefix, talk)
		}
	})
}

// TestApacheDevOnThreeBrokers: an installation gets as many copies as the brokers
// can hold.
func TestApacheDevOnThreeBrokers(t *testing.T) {
	cluster := apache.Start(t, apache.Config{Brokers: 3})
	brokers := strings.Join(cluster.Addresses(), ",")
	dev := product.StartDev(t, t.TempDir(), "--kafka", brokers)
	if n := copies(t, brokers, dev.File().Prefix+"outcomes"); n != 3 {
		t.Errorf("outcomes has %d copies", n)
	}
	load(t, dev)
}

// load runs a short load against a dev and fails the test if anything is lost
// by its own account or the ledger's.
func load(t *testing.T, dev *product.Dev) {
	t.Helper()
	l := dev.Load(flows...).Report(loadLimit).Ledger
	if l.Lost != 0 || l.Sent == 0 || l.Succeeded != l.Accepted || l.Remaining != 0 || l.Duplicates != 0 {
		t.Errorf("load: %+v", l)
	}
	t.Logf("load: %+v", l)
	dev.CheckLedger(countLimit)
}

// run runs a command, which has to end with code and to say something, and
// returns its standard output.
func run(t *testing.T, code int, says string, args ...string) string {
	t.Helper()
	out, talk, got := product.Run(t, answerLimit, args...)
	if got != code || !strings.Contains(talk+out, says) {
		t.Errorf("spillway %s ended with %d, want %d and %q:\n%s%s", strings.Join(args, " "), got, code, says, out, talk)
	}
	return out
}

// copies is how many copies a topic of a cluster has, 0 if it is not there.
func copies(t *testing.T, brokers, topic string) int {
	t.Helper()
	client, err := kafka.New(kafka.Config{Addresses: strings.Split(brokers, ","), ClientID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), answerLimit)
	defer cancel()
	_, n, err := client.Survey(ctx, topic)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestAClusterThatIsNotThere: dev and load on brokers that do not answer end
// soon, with the code for that, and name them.
func TestAClusterThatIsNotThere(t *testing.T) {
	const nobody = "127.0.0.1:1,127.0.0.1:2" // ports that no ordinary user can listen on
	for _, args := range [][]string{
		{"dev", "--kafka", nobody, "--data-dir", t.TempDir(), "--port-base", "0"},
		{"load", "--kafka", nobody, "--for", "1s"},
	} {
		t.Run(args[0], func(t *testing.T) {
			t.Parallel()
			run(t, 6, nobody, args...)
		})
	}
}

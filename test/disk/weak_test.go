package disk

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/test/apache"
	"github.com/spillway/spillway/test/product"
)

// clientOf is a client of another library, which the caller closes.
func clientOf(t *testing.T, address string) *kgo.Client {
	t.Helper()
	options := []kgo.Opt{kgo.SeedBrokers(strings.Split(address, ",")...)}
	if path, is := strings.CutPrefix(address, "unix:"); is {
		options = []kgo.Opt{kgo.SeedBrokers("local-broker:9092"), kgo.Dialer(func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		})}
	}
	c, err := kgo.NewClient(options...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// alter sets a topic's setting by the broker's own means, as somebody's tool would.
func alter(t *testing.T, address, topic, setting, value string) {
	t.Helper()
	c := clientOf(t, address)
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	request := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	config.Name, config.Value = setting, &value
	resource.Configs = append(resource.Configs, config)
	request.Resources = append(request.Resources, resource)
	answer, err := request.RequestWith(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range answer.Resources {
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			t.Fatalf("set %s of %s: %v", setting, topic, err)
		}
	}
}

// refused holds that a process ends by itself, not well, and says which topic and setting is too weak.
func refused(t *testing.T, p *product.Process, name, topic, setting string) {
	t.Helper()
	p.Await(30 * time.Second)
	if code := p.ExitCode(); code == 0 {
		t.Errorf("%s with a weak %s of %s ends with %d", name, setting, topic, code)
	}
	if said := p.Said(); !strings.Contains(said, topic) || !strings.Contains(said, setting) {
		t.Errorf("%s does not name %s and %s: %s", name, topic, setting, said)
	}
}

// weakTopics makes one setting after the other too weak: enqueue, scheduler and install refuse, and name it (H1).
func weakTopics(t *testing.T, d *product.Dev) {
	f := d.File()
	good := map[string]string{
		"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete", "max.message.bytes": "1114112", "message.timestamp.type": "LogAppendTime",
	}
	for _, c := range []struct{ topic, setting, value string }{
		{"jobs.high", "retention.ms", "86400000"},
		{"spill", "retention.bytes", "100000000"},
		{"dead", "cleanup.policy", "compact"},
		{"delay.1m", "max.message.bytes", "1048588"},
		{"jobs.bulk", "message.timestamp.type", "CreateTime"},
	} {
		topic := f.Prefix + c.topic
		alter(t, f.Broker.Address, topic, c.setting, c.value)
		enqueue, scheduler := d.Serve("enqueue", "enqueue-late"), d.Serve("scheduler", "scheduler-late")
		refused(t, enqueue.Process, "enqueue", topic, c.setting)
		refused(t, scheduler.Process, "scheduler", topic, c.setting)
		cmd := exec.Command(product.Binary(t), "install", "--kafka", f.Broker.Address, "--prefix", f.Prefix, "--partitions", "8", "--lanes", "16", "--durability", "single",
			"--mac-key-file", f.MACKeyFile)
		refused(t, product.Launch(t, "install", cmd, false, nil), "install", topic, c.setting)
		alter(t, f.Broker.Address, topic, c.setting, good[c.setting])
	}
	for _, service := range []string{"enqueue", "scheduler"} { // one copy is not three
		refused(t, d.Serve(service, service+"-late", "SPILLWAY_DURABILITY=replicated").Process, service, f.Prefix+"jobs.critical", "replicas")
	}
	d.Serve("enqueue", "enqueue-late").AwaitReady()
}

// TestWeakTopicsAreRefused is weakTopics on the embedded broker.
func TestWeakTopicsAreRefused(t *testing.T) { weakTopics(t, product.StartDev(t, t.TempDir())) }

// TestApacheWeakTopicsAreRefused is weakTopics on Apache Kafka, which hands out what was altered, and not only what topics were made with.
func TestApacheWeakTopicsAreRefused(t *testing.T) {
	cluster := apache.Start(t, apache.Config{Brokers: 1})
	weakTopics(t, product.StartDev(t, t.TempDir(), "--kafka", strings.Join(cluster.Addresses(), ",")))
}

// TestApacheTooFewInSync: three copies of which one suffices are refused, and so is a leader that has lost records.
func TestApacheTooFewInSync(t *testing.T) {
	cluster := apache.Start(t, apache.Config{Brokers: 3})
	layout := kafka.Layout{Topics: kafka.Topics{Prefix: "weak."}, Shards: 2, Lanes: 2, Durability: kafka.Replicated}
	c, err := kafka.New(kafka.Config{Addresses: cluster.Addresses(), ClientID: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := kafka.Install(ctx, c, layout); err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct{ setting, bad, good string }{{"min.insync.replicas", "1", "2"}, {"unclean.leader.election.enable", "true", "false"}} {
		alter(t, strings.Join(cluster.Addresses(), ","), layout.Spill(), s.setting, s.bad)
		product.Until(t, 20*time.Second, s.setting+" is weak", func() bool { // a setting takes a moment to reach all brokers
			var weak *kafka.WeakSettingError
			err := kafka.Check(ctx, c, layout)
			return errors.As(err, &weak) && weak.Topic == layout.Spill() && weak.Setting == s.setting
		})
		alter(t, strings.Join(cluster.Addresses(), ","), layout.Spill(), s.setting, s.good)
		product.Until(t, 20*time.Second, "all is well again", func() bool { return kafka.Check(ctx, c, layout) == nil })
	}
}

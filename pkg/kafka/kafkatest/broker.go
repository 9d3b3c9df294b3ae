package kafkatest

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/spillway/spillway/pkg/kafka"
)

// Broker is a cluster in memory.
type Broker struct {
	network *network
	cluster *kfake.Cluster
}

// Start runs one broker until the test ends.
func Start(t testing.TB) *Broker { return StartCluster(t, 1) }

// StartCluster runs a cluster of n brokers until the test ends. Partitions are
// spread over the brokers; every replica is the one copy that kfake has.
func StartCluster(t testing.TB, n int) *Broker {
	t.Helper()
	return start(t, kfake.NumBrokers(n))
}

// Admin is the user and the password of the one who may do everything in a
// cluster of StartSecure.
const Admin = "admin"

// StartSecure runs one broker until the test ends that wants a login: Admin's by
// any mechanism, or by SCRAM-SHA-512 that of one of the users (name to password),
// who have no rights until somebody grants them. It wants TLS, too, unless config
// is nil.
func StartSecure(t testing.TB, users map[string]string, config *tls.Config) *Broker {
	t.Helper()
	options := []kfake.Opt{kfake.NumBrokers(1), kfake.EnableSASL(), kfake.EnableACLs()}
	for _, mechanism := range []string{kafka.ScramSHA512, kafka.ScramSHA256, kafka.Plain} {
		options = append(options, kfake.Superuser(mechanism, Admin, Admin))
	}
	for name, password := range users {
		options = append(options, kfake.User(kafka.ScramSHA512, name, password))
	}
	if config != nil {
		options = append(options, kfake.TLS(config))
	}
	return start(t, options...)
}

func start(t testing.TB, options ...kfake.Opt) *Broker {
	t.Helper()
	wire := &network{listeners: make(map[string]*listener), conns: make(map[net.Conn]struct{})}
	cluster, err := kfake.NewCluster(append(options,
		kfake.ListenFn(wire.listen),
		// Retention and cleaning run on this ticker; nothing here may age out
		// while a bubble's clock leaps.
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": "3153600000000"}),
	)...)
	if err != nil {
		t.Fatalf("kafkatest: start: %v", err)
	}
	b := &Broker{network: wire, cluster: cluster}
	t.Cleanup(func() {
		b.network.cut(true)
		b.cluster.Close()
	})
	return b
}

// Addresses are the bootstrap addresses for a client that uses Dial.
func (b *Broker) Addresses() []string {
	var list []string
	for a := range b.network.listeners { // written by Start only
		list = append(list, a)
	}
	return list
}

// Dial connects to a broker of the cluster, for kafka.Config.Dial.
func (b *Broker) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return b.network.dial(ctx, network, address)
}

// Config is the configuration of a client of that id.
func (b *Broker) Config(clientID string, topics ...string) kafka.Config {
	return kafka.Config{Addresses: b.Addresses(), ClientID: clientID, Topics: topics, Dial: b.Dial}
}

// Client returns a client, closed when the test ends. Without topics it sees
// all of them.
func (b *Broker) Client(t testing.TB, clientID string, topics ...string) *kafka.Client {
	t.Helper()
	client, err := kafka.New(b.Config(clientID, topics...))
	if err != nil {
		t.Fatalf("kafkatest: client: %v", err)
	}
	t.Cleanup(client.Close)
	return client
}

// CreateTopic makes a topic, outside of any installation.
func (b *Broker) CreateTopic(t testing.TB, topic string, partitions int) {
	t.Helper()
	if err := b.cluster.CreateTopic(topic, int32(partitions), map[string]string{"max.message.bytes": "1114112"}); err != nil {
		t.Fatalf("kafkatest: create %s: %v", topic, err)
	}
}

// Install runs kafka.Install.
func (b *Broker) Install(t testing.TB, layout kafka.Layout) {
	t.Helper()
	client := b.Client(t, "install")
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := kafka.Install(ctx, client, layout); err != nil {
		t.Fatalf("kafkatest: install: %v", err)
	}
}

// Stop cuts all connections and refuses new ones, as a killed broker does.
// What it holds stays, group members included.
func (b *Broker) Stop() { b.network.cut(true) }

// Resume ends a Stop.
func (b *Broker) Resume() {
	b.network.mu.Lock()
	defer b.network.mu.Unlock()
	b.network.down = false
}

// Cut breaks all connections once: requests in flight are of unknown fate.
func (b *Broker) Cut() { b.network.cut(false) }

// Fault makes the next count requests of that kind about topic ("" for any)
// fail with a Kafka error code; a negative count means until the returned
// function is called. Code 7 and, for produce, 20 still do the work.
func (b *Broker) Fault(request Request, topic string, code int16, count int) (remove func()) {
	err, ok := kerr.ErrorForCode(code).(*kerr.Error)
	if !ok {
		panic("kafkatest: unknown error code")
	}
	h := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Key(request)}, Topic: topic, Err: err, Count: count})
	return h.Remove
}

// Request is a kind of request that Fault, Count and Hold can name.
type Request int16

// The kinds that tests ask for.
const (
	Produce      Request = 0
	Fetch        Request = 1
	ListOffsets  Request = 2
	Metadata     Request = 3
	OffsetCommit Request = 8
	OffsetFetch  Request = 9
	JoinGroup    Request = 11
	Heartbeat    Request = 12
	LeaveGroup   Request = 13
)

// Count counts the requests of that kind from now on.
func (b *Broker) Count(request Request) *atomic.Int64 {
	n := new(atomic.Int64)
	b.cluster.ControlKey(int16(request), func(kmsg.Request) (kmsg.Response, error, bool) {
		n.Add(1)
		return nil, nil, false
	})
	return n
}

// HideTimes answers every question for an offset by time with "none", as Apache Kafka does while the segment that it looks into lies below the start
// of the log.
func (b *Broker) HideTimes() {
	b.cluster.ControlKey(int16(ListOffsets), func(request kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		req := request.(*kmsg.ListOffsetsRequest)
		res := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, topic := range req.Topics {
			t := kmsg.NewListOffsetsResponseTopic()
			t.Topic = topic.Topic
			for _, partition := range topic.Partitions {
				if partition.Timestamp < 0 {
					return nil, nil, false // the first or the next offset
				}
				p := kmsg.NewListOffsetsResponseTopicPartition()
				p.Partition, p.Offset = partition.Partition, -1
				t.Partitions = append(t.Partitions, p)
			}
			res.Topics = append(res.Topics, t)
		}
		return res, nil, true
	})
}

// Move makes another broker the leader of a partition.
func (b *Broker) Move(t testing.TB, topic string, partition, node int) {
	t.Helper()
	if err := b.cluster.MoveTopicPartition(topic, int32(partition), int32(node)); err != nil {
		t.Fatalf("kafkatest: move %s/%d: %v", topic, partition, err)
	}
}

// Leader returns the node that leads a partition.
func (b *Broker) Leader(topic string, partition int) int {
	return int(b.cluster.LeaderFor(topic, int32(partition)))
}

// Hold keeps the answers to requests of that kind back, and the requests
// undone, until release is called.
func (b *Broker) Hold(request Request) (release func()) {
	open := make(chan struct{})
	b.cluster.ControlKey(int16(request), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.SleepControl(func() { <-open })
		return nil, nil, false
	})
	return sync.OnceFunc(func() { close(open) })
}

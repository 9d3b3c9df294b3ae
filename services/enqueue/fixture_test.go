package enqueue_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/produce"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/enqueue"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	cluster = "5f0c1f0e-0000-4000-8000-000000000001"
	shards  = 4
	lanes   = 3
)

var (
	topics = kafka.Topics{Prefix: "spillway."}
	macKey = []byte("0123456789abcdef0123456789abcdef")
)

// world is an installation in a bubble: a broker, a control log that the test writes, and one enqueue replica that it talks to over gRPC.
type world struct {
	t       testing.TB
	ctx     context.Context
	broker  *kafkatest.Broker
	network *rpctest.Network
	signer  *rpc.Signer
	client  *kafka.Client
	records *produce.Producer
	control *controllog.Writer
	state   *controllog.Follower
	service *enqueue.Service
	ended   chan error // what Run returned
	stop    context.CancelFunc
	conn    *grpc.ClientConn
	enqueue enqueuev1.EnqueueServiceClient
}

// setting changes what the replica is given.
type setting func(*enqueue.Config, *enqueue.Deps)

// bubble runs f in a world of its own, in virtual time.
func bubble(t *testing.T, f func(t *testing.T, w *world), settings ...setting) {
	synctest.Test(t, func(t *testing.T) {
		w, end := start(t, settings...)
		f(t, w)
		end()
	})
}

// start makes a world; end ends it, and fails the test if the replica did not end well.
func start(t testing.TB, settings ...setting) (w *world, end func()) {
	w = &world{t: t, network: rpctest.NewNetwork(), broker: kafkatest.Start(t)}
	ctx, cancel := context.WithCancel(t.Context())
	w.ctx = ctx
	w.broker.Install(t, kafka.Layout{Topics: topics, Shards: shards, Lanes: lanes, Durability: kafka.Single})
	w.client = w.broker.Client(t, "test", topics.All()...)
	w.records = produce.New(w.client, produce.Config{})
	w.state = controllog.NewFollower(w.broker.Client(t, "test-control", topics.All()...), topics.Control(), macKey, slog.New(slog.DiscardHandler))
	w.control = controllog.NewWriter(w.records, w.state, topics.Control(), macKey)
	var running sync.WaitGroup
	running.Go(func() { w.records.Run(ctx) })
	running.Go(func() { w.state.Run(ctx) })
	within, done := context.WithTimeout(ctx, 5*time.Second)
	defer done()
	if _, err := w.control.Append(within, &logv1.Command{Actor: "install", Act: &logv1.Command_ClusterConfig{ClusterConfig: &logv1.ClusterConfig{
		ClusterId: cluster, FormatVersion: controllog.Format, Shards: shards, Lanes: lanes, Prefix: topics.Prefix,
	}}}); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.signer, err = rpc.OpenSigner(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	cfg := enqueue.Config{Replica: "enqueue-0", Prefix: topics.Prefix, Durability: kafka.Single, Payload: 256 << 10, Inflight: 32 << 20, Keys: 8 << 20}
	deps := enqueue.Deps{
		Log:   slog.New(slog.DiscardHandler),
		Kafka: func(id string) (*kafka.Client, error) { return kafka.New(w.broker.Config(id, topics.All()...)) },
		Verifier: func(issuer func() string) (*rpc.Verifier, error) {
			return rpc.NewVerifier(w.signer.JWKS(), issuer, time.Now())
		},
		MACKey: macKey, Listener: w.network.Listen("enqueue:7400"), Dial: w.network.Dial,
	}
	for _, set := range settings {
		set(&cfg, &deps)
	}
	if w.service, err = enqueue.New(cfg, deps); err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(ctx)
	w.stop, w.ended = stop, make(chan error, 1)
	go func() { w.ended <- w.service.Run(serving) }()
	w.conn = w.dial("service", rpc.RoleEnqueue)
	w.enqueue = enqueuev1.NewEnqueueServiceClient(w.conn)
	return w, func() {
		stop()
		if err := <-w.ended; err != nil {
			t.Error("Run:", err)
		}
		w.conn.Close()
		cancel()
		running.Wait()
	}
}

// dial connects to the replica with a token of its own.
func (w *world) dial(subject string, role rpc.Role, sources ...string) *grpc.ClientConn {
	w.t.Helper()
	token, err := w.signer.Sign(rpc.Claims{Issuer: cluster, Subject: subject, Roles: []rpc.Role{role}, Sources: sources, TTL: 24 * time.Hour}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := rpc.Dial(rpctest.Target("enqueue:7400"), rpc.DialConfig{Token: token, Dialer: w.network.Dial})
	if err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// ready waits until the replica is.
func (w *world) ready() {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := error(nil)
		for _, c := range w.service.Health() {
			if !c.OK {
				err = errors.Join(err, errors.New(c.Name+": "+c.Detail))
			}
		}
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatal("not ready: ", err)
		}
	}
}

// command appends to the control log and waits until the replica says that it acts on it.
func (w *world) command(c *logv1.Command) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	c.ExpectedRevision, c.Actor, c.Reason = controllog.AnyRevision, "anna", "test"
	sequence, err := w.control.Append(ctx, c)
	if err != nil {
		w.t.Fatal(err)
	}
	for w.lastBeat().GetAppliedSequence() < sequence {
		if ctx.Err() != nil {
			w.t.Fatal("the replica did not acknowledge the command")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// register puts a source into the control log: type tag, of service's, changed by change.
func (w *world) register(name string, change ...func(*automationv1.Source)) {
	w.t.Helper()
	s := &automationv1.Source{Name: name, Types: []string{"tag"}, Principals: []string{"service"}}
	for _, c := range change {
		c(s)
	}
	w.command(&logv1.Command{Act: &logv1.Command_PutSource{PutSource: &logv1.PutSource{Source: s}}})
}

func (w *world) switchOn(source string, verb automationv1.Verb) {
	w.t.Helper()
	w.command(&logv1.Command{Act: &logv1.Command_SetSwitch{SetSwitch: &logv1.SetSwitch{Switch: &automationv1.Switch{
		Scope: &automationv1.Scope{Scope: &automationv1.Scope_Source{Source: source}}, Verb: verb, Reason: "runs away", Actor: "anna",
	}}}})
}

// lastBeat is the replica's latest beat in status.
func (w *world) lastBeat() *logv1.Status {
	w.t.Helper()
	var last *logv1.Status
	for _, m := range w.read(topics.Status(), 0) {
		s := &logv1.Status{}
		if err := proto.Unmarshal(m.Value, s); err != nil {
			w.t.Fatal(err)
		}
		if s.GetKind() == logv1.ReplicaKind_REPLICA_KIND_ENQUEUE {
			last = s
		}
	}
	return last
}

// mark says, as a scheduler, what spills, and gives the replica time to hear of it.
func (w *world) mark(marks ...*logv1.SpillMark) {
	w.t.Helper()
	w.beat(&logv1.Status{Replica: "scheduler-0", Kind: logv1.ReplicaKind_REPLICA_KIND_SCHEDULER, Marks: marks, Full: true})
}

// beat writes the beat of another replica, and gives this one time to hear of it.
func (w *world) beat(s *logv1.Status) {
	w.t.Helper()
	s.At = timestamppb.Now()
	value, err := proto.Marshal(s)
	if err != nil {
		w.t.Fatal(err)
	}
	headers := []kafka.Header{envelope.VersionHeader()}
	if _, err := w.records.Produce(w.ctx, kafka.Record{Topic: topics.Status(), Key: []byte(s.GetReplica()), Value: value, Headers: headers}); err != nil {
		w.t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
}

// read returns all records of a partition.
func (w *world) read(topic string, partition int) []kafka.Message {
	w.t.Helper()
	ends, err := w.client.Ends(w.ctx, topic, []int{partition})
	if err != nil {
		w.t.Fatal(err)
	}
	var all []kafka.Message
	for next := ends[partition].First; next < ends[partition].Next; {
		batch, err := w.client.Fetch(w.ctx, topic, partition, next, 4<<20, 10*time.Millisecond)
		if err != nil {
			w.t.Fatal(err)
		}
		all = append(all, batch.Messages...)
		if n := len(all); n > 0 {
			next = all[n-1].Offset + 1
		}
	}
	return all
}

// jobs returns what was made durable, in all priority topics and lanes, by "topic/partition".
func (w *world) jobs() map[string][]kafka.Message {
	w.t.Helper()
	found := map[string][]kafka.Message{}
	add := func(topic, name string, partitions int) {
		for p := range partitions {
			if list := w.read(topic, p); len(list) > 0 {
				found[name+"/"+string(rune('0'+p))] = list
			}
		}
	}
	for _, p := range topics.Priorities() {
		add(topics.Jobs(p), p, shards)
	}
	add(topics.Spill(), "spill", shards*lanes)
	return found
}

func count(found map[string][]kafka.Message) (n int) {
	for _, list := range found {
		n += len(list)
	}
	return n
}

func spec(source string) *jobv1.JobSpec {
	return &jobv1.JobSpec{Source: source, Tenant: "t1", Type: "tag", Payload: []byte("payload")}
}

func (w *world) send(s *jobv1.JobSpec) (*enqueuev1.EnqueueResponse, error) {
	return w.enqueue.Enqueue(w.ctx, &enqueuev1.EnqueueRequest{Job: s})
}

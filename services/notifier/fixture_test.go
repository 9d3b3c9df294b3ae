package notifier_test

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
	"github.com/spillway/spillway/pkg/kafka/rights"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	"github.com/spillway/spillway/pkg/subscriber"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/services/notifier"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket/sockettest"
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
	layout = kafka.Layout{Topics: topics, Shards: shards, Lanes: lanes, Durability: kafka.Single}
)

// world is an installation in a bubble: a broker, a control log that the test writes, and one notifier replica that it talks to over gRPC.
type world struct {
	t        testing.TB
	ctx      context.Context
	broker   *kafkatest.Broker
	network  *rpctest.Network
	web      *sockettest.Listener
	signer   *rpc.Signer
	client   *kafka.Client
	records  *produce.Producer
	control  *controllog.Writer
	state    *controllog.Follower
	service  *notifier.Service
	ended    chan error // what Run returned
	stop     context.CancelFunc
	conn     *grpc.ClientConn
	notifier notifierv1.NotifierServiceClient
}

// setting changes what the replica is given.
type setting func(*notifier.Config, *notifier.Deps)

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
	return startOn(t, kafkatest.Start(t), kafka.Security{}, settings...)
}

// startOn makes a world on a broker where the test is admin.
func startOn(t testing.TB, broker *kafkatest.Broker, admin kafka.Security, settings ...setting) (w *world, end func()) {
	w = &world{t: t, network: rpctest.NewNetwork(), broker: broker, web: sockettest.Listen()}
	ctx, cancel := context.WithCancel(t.Context())
	w.ctx = ctx
	open := func(id string, topics ...string) *kafka.Client {
		c := broker.Config(id, topics...)
		c.Security = admin
		client, err := kafka.New(c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		return client
	}
	if err := kafka.Install(ctx, open("install"), layout); err != nil {
		t.Fatal(err)
	}
	if admin.Mechanism != "" {
		if _, err := rights.Grant(ctx, open("grant"), topics, rights.Defaults()); err != nil {
			t.Fatal(err)
		}
	}
	w.client = open("test", topics.All()...)
	w.records = produce.New(w.client, produce.Config{})
	w.state = controllog.NewFollower(open("test-control", topics.All()...), topics.Control(), macKey, slog.New(slog.DiscardHandler))
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
	cfg := notifier.Config{Replica: "notifier-0", Prefix: topics.Prefix, Durability: kafka.Single, Concurrency: 8, Ring: 4 << 20, Sessions: 100, Inflight: 16 << 20}
	deps := notifier.Deps{
		Log:   slog.New(slog.DiscardHandler),
		Kafka: func(id string) (*kafka.Client, error) { return kafka.New(w.broker.Config(id, topics.All()...)) },
		Verifier: func(issuer func() string) (*rpc.Verifier, error) {
			return rpc.NewVerifier(w.signer.JWKS(), issuer, time.Now())
		},
		MACKey: macKey, Listener: w.network.Listen("notifier:7420"), Web: w.web, Dial: w.network.Dial,
	}
	for _, set := range settings {
		set(&cfg, &deps)
	}
	if w.service, err = notifier.New(cfg, deps); err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(ctx)
	w.stop, w.ended = stop, make(chan error, 1)
	go func() { w.ended <- w.service.Run(serving) }()
	w.conn = w.dial("service", rpc.RolePublish)
	w.notifier = notifierv1.NewNotifierServiceClient(w.conn)
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
	conn, err := rpc.Dial(rpctest.Target("notifier:7420"), rpc.DialConfig{Token: token, Dialer: w.network.Dial})
	if err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// subscribe connects a user of a tenant, who may hear its own and the tenant's channels and asks for these.
func (w *world) subscribe(user, tenant, cursor string, channels ...string) (*subscriber.Session, error) {
	w.t.Helper()
	token, err := w.signer.SignSubscriber(rpc.SubscriberClaims{
		Issuer: cluster, Subject: user, Tenant: tenant, Channels: []string{"tenant:" + tenant, "user:" + tenant + ":" + user, "topic:" + tenant + ":*"}, TTL: 10 * time.Minute,
	}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
	defer cancel()
	return subscriber.Dial(ctx, "ws://notifier/v1/ws", subscriber.Config{Token: token, Channels: channels, Cursor: cursor, Dial: w.web.DialContext})
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

// register puts a source into the control log, of service's, changed by change.
func (w *world) register(name string, change ...func(*automationv1.Source)) {
	w.t.Helper()
	s := &automationv1.Source{Name: name, Types: []string{"notify"}, Principals: []string{"service"}}
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
		if s.GetKind() == logv1.ReplicaKind_REPLICA_KIND_NOTIFIER {
			last = s
		}
	}
	return last
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

// log returns what was made durable, by partition.
func (w *world) log() map[int][]kafka.Message {
	w.t.Helper()
	found := map[int][]kafka.Message{}
	for p := range shards {
		if list := w.read(topics.Notifications(), p); len(list) > 0 {
			found[p] = list
		}
	}
	return found
}

// written is how many notifications were made durable.
func (w *world) written() (n int) {
	w.t.Helper()
	for _, list := range w.log() {
		n += len(list)
	}
	return n
}

// request is a notification of a source to its tenant t1, changed by change.
func request(source string, change ...func(*notifierv1.PublishRequest)) *notifierv1.PublishRequest {
	r := &notifierv1.PublishRequest{
		Channel: "user:t1:anna", Class: notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT, Data: []byte(`{"text":"hello"}`), Source: source, Tenant: "t1",
	}
	for _, c := range change {
		c(r)
	}
	return r
}

func (w *world) publish(r *notifierv1.PublishRequest) (*notifierv1.PublishResponse, error) {
	return w.notifier.Publish(w.ctx, r)
}

// Package system runs the product whole, in one process and in virtual time: the real services, SDKs and broker protocol over networks in
// memory, in a testing/synctest bubble each. Minutes of traffic take a second, and every wait is exact.
package system

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/produce"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	"github.com/spillway/spillway/pkg/telemetry"
	"github.com/spillway/spillway/pkg/worker"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/enqueue"
	"github.com/spillway/spillway/services/scheduler"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	cluster = "5f0c1f0e-0000-4000-8000-000000000001"
	shards  = 4
	lanes   = 4
)

var (
	topics = kafka.Topics{Prefix: "spillway."}
	macKey = []byte("0123456789abcdef0123456789abcdef")
)

// world is an installation in a bubble.
type world struct {
	t         *testing.T
	ctx       context.Context
	broker    *kafkatest.Broker
	network   *rpctest.Network
	signer    *rpc.Signer
	client    *kafka.Client // the test's own, to read logs
	control   *controllog.Writer
	telemetry *telemetry.Telemetry
	log       *slog.Logger
	running   sync.WaitGroup
}

// process is one part of the product that can be stopped.
type process struct {
	stop func() error
}

// bubble runs f in a world with a broker, its topics and the first record of its control log.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, network: rpctest.NewNetwork(), broker: kafkatest.Start(t), log: slog.New(slog.DiscardHandler)}
		if os.Getenv("TEST_LOG") != "" {
			w.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		ctx, cancel := context.WithCancel(t.Context())
		w.ctx = ctx
		w.broker.Install(t, kafka.Layout{Topics: topics, Shards: shards, Lanes: lanes, Durability: kafka.Single})
		w.client = w.broker.Client(t, "test", topics.All()...)
		records := produce.New(w.client, produce.Config{})
		state := controllog.NewFollower(w.broker.Client(t, "test-control", topics.All()...), topics.Control(), macKey, w.log)
		w.control = controllog.NewWriter(records, state, topics.Control(), macKey)
		w.running.Go(func() { _ = records.Run(ctx) })
		w.running.Go(func() { _ = state.Run(ctx) })
		w.command(&logv1.Command{Act: &logv1.Command_ClusterConfig{ClusterConfig: &logv1.ClusterConfig{
			ClusterId: cluster, FormatVersion: controllog.Format, Shards: shards, Lanes: lanes, Prefix: topics.Prefix,
		}}})
		var err error
		if w.signer, err = rpc.OpenSigner(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		f(t, w)
		cancel()
		w.running.Wait()
	})
}

// command appends to the control log.
func (w *world) command(c *logv1.Command) int64 {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	if c.GetClusterConfig() == nil {
		c.ExpectedRevision = controllog.AnyRevision
	}
	c.Actor, c.Reason = "anna", "test"
	sequence, err := w.control.Append(ctx, c)
	if err != nil {
		w.t.Fatal(err)
	}
	return sequence
}

// register puts a source with type tag into the control log.
func (w *world) register(name string, change ...func(*automationv1.Source)) {
	w.t.Helper()
	s := &automationv1.Source{Name: name, Types: []string{"tag"}, Principals: []string{"*"}}
	for _, c := range change {
		c(s)
	}
	w.command(&logv1.Command{Act: &logv1.Command_PutSource{PutSource: &logv1.PutSource{Source: s}}})
}

func scopeOf(source string) *automationv1.Scope {
	return &automationv1.Scope{Scope: &automationv1.Scope_Source{Source: source}}
}

func (w *world) kafka(id string) (*kafka.Client, error) {
	return kafka.New(w.broker.Config(id, topics.All()...))
}

func (w *world) verifier(issuer func() string) (*rpc.Verifier, error) {
	return rpc.NewVerifier(w.signer.JWKS(), issuer, time.Now())
}

// token signs a token that outlives the bubble.
func (w *world) token(role rpc.Role) string {
	w.t.Helper()
	token, err := w.signer.Sign(rpc.Claims{Issuer: cluster, Subject: string(role), Roles: []rpc.Role{role}, TTL: 240 * time.Hour}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	return token
}

// start runs a service until it is stopped, or the bubble ends.
func (w *world) start(name string, run func(context.Context) error) *process {
	ctx, cancel := context.WithCancel(w.ctx)
	ended := make(chan error, 1)
	w.running.Go(func() {
		err := run(ctx)
		if err != nil && ctx.Err() == nil {
			w.t.Errorf("%s: %v", name, err)
		}
		ended <- err
	})
	return &process{stop: func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}}
}

// enqueue starts a replica of enqueue.
func (w *world) enqueue(n int) *process {
	w.t.Helper()
	s, err := enqueue.New(enqueue.Config{
		Replica: fmt.Sprintf("enqueue-%d", n), Prefix: topics.Prefix, Durability: kafka.Single, Payload: 256 << 10, Inflight: 32 << 20, Keys: 8 << 20,
	}, enqueue.Deps{
		Log: w.log, Telemetry: w.telemetry, Kafka: w.kafka, Verifier: w.verifier, MACKey: macKey, Listener: w.network.Listen(fmt.Sprintf("enqueue-%d:7400", n)), Dial: w.network.Dial,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	p := w.start("enqueue", s.Run)
	w.healthy(s.Health)
	return p
}

// scheduler starts a replica of scheduler and waits until it has its shards.
func (w *world) scheduler(n int) *process {
	w.t.Helper()
	address := fmt.Sprintf("scheduler-%d:7410", n)
	s, err := scheduler.New(scheduler.Config{
		Replica: fmt.Sprintf("scheduler-%d", n), Address: rpctest.Target(address), Prefix: topics.Prefix, Durability: kafka.Single, Memory: 64 << 20, Reserve: 0.7,
	}, scheduler.Deps{
		Log: w.log, Telemetry: w.telemetry, Kafka: w.kafka, Verifier: w.verifier, MACKey: macKey, Listener: w.network.Listen(address),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	p := w.start("scheduler", s.Run)
	w.healthy(s.Health)
	return p
}

// healthy waits until every check passes.
func (w *world) healthy(health func() []rpc.Check) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		failing := ""
		for _, c := range health() {
			if !c.OK {
				failing += c.Name + ": " + c.Detail + "; "
			}
		}
		if failing == "" {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatal("not ready: ", failing)
		}
	}
}

// worker runs handler for type tag in slots.
func (w *world) worker(slots int, handler worker.Handler) *process {
	w.t.Helper()
	k, err := worker.New(worker.Config{
		Schedulers: rpctest.Target("scheduler-0:7410"), Concurrency: slots, Token: w.token(rpc.RoleWorker), Log: w.log, Telemetry: w.telemetry,
		DialOptions: []grpc.DialOption{grpc.WithContextDialer(w.network.Dial)},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	k.Handle("tag", handler)
	return w.start("worker", k.Run)
}

// caller is an SDK client of the first enqueue replica; it is closed at the end of the bubble.
func (w *world) caller() *client.Client {
	w.t.Helper()
	c, err := client.Dial(rpctest.Target("enqueue-0:7400"), client.WithToken(w.token(rpc.RoleEnqueue)), client.WithTelemetry(w.telemetry),
		client.WithDialOptions(grpc.WithContextDialer(w.network.Dial)))
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// events reads all of outcomes.
func (w *world) events() (settled map[string][]*logv1.Settled, attempts map[string]int) {
	w.t.Helper()
	settled, attempts = map[string][]*logv1.Settled{}, map[string]int{}
	for partition := range shards {
		for _, m := range w.read(topics.Outcomes(), partition) {
			event := &logv1.JobEvent{}
			if err := proto.Unmarshal(m.Value, event); err != nil {
				w.t.Fatal(err)
			}
			if s := event.GetSettled(); s != nil {
				settled[s.GetJobId()] = append(settled[s.GetJobId()], s)
			}
			if a := event.GetAttempt(); a != nil {
				attempts[a.GetJobId()]++
			}
		}
	}
	return settled, attempts
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

// until waits for a condition.
func (w *world) until(what string, within time.Duration, holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(within); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not within %v", what, within)
		}
	}
}

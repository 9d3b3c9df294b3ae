// Package system runs the product whole, in one process and in virtual time: the real services, SDKs and broker protocol over networks in
// memory, in a testing/synctest bubble each. Minutes of traffic take a second, and every wait is exact.
package system

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/produce"
	"github.com/spillway/spillway/pkg/offsets"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	"github.com/spillway/spillway/pkg/status"
	"github.com/spillway/spillway/pkg/telemetry"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
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
	status    *status.Reader
	telemetry *telemetry.Telemetry
	log       *slog.Logger
	ledger    *ledger // as read so far
	running   sync.WaitGroup
	strays    int // written by strayOf
}

// bubble runs f in a world with a broker, its topics and the first record of its control log.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel() // a bubble keeps one core busy at most
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, network: rpctest.NewNetwork(), broker: kafkatest.Start(t), log: slog.New(slog.DiscardHandler)}
		if os.Getenv("TEST_LOG") != "" {
			w.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}
		ctx, cancel := context.WithCancel(t.Context())
		w.ctx = ctx
		defer func() { // also when f fails
			cancel()
			w.running.Wait()
		}()
		w.broker.Install(t, kafka.Layout{Topics: topics, Shards: shards, Lanes: lanes, Durability: kafka.Single})
		w.client = w.broker.Client(t, "test", topics.All()...)
		records := produce.New(w.client, produce.Config{})
		state := controllog.NewFollower(w.broker.Client(t, "test-control", topics.All()...), topics.Control(), macKey, w.log)
		w.control = controllog.NewWriter(records, state, topics.Control(), macKey)
		w.running.Go(func() { _ = records.Run(ctx) })
		w.running.Go(func() { _ = state.Run(ctx) })
		w.status = status.NewReader(w.broker.Client(t, "test-status", topics.All()...), topics.Status(), w.log)
		w.running.Go(func() { _ = w.status.Run(ctx) })
		w.command(&logv1.Command{Act: &logv1.Command_ClusterConfig{ClusterConfig: &logv1.ClusterConfig{
			ClusterId: cluster, FormatVersion: controllog.Format, Shards: shards, Lanes: lanes, Prefix: topics.Prefix,
		}}})
		var err error
		if w.signer, err = rpc.OpenSigner(t.TempDir()); err != nil {
			t.Fatal(err)
		}
		f(t, w)
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
	c.Actor, c.Reason, c.At = "anna", "test", timestamppb.Now()
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

// hold and resume throw the switches of a source.
func (w *world) hold(source string) {
	w.t.Helper()
	w.command(&logv1.Command{Act: &logv1.Command_SetSwitch{SetSwitch: &logv1.SetSwitch{Switch: &automationv1.Switch{
		Scope: scopeOf(source), Verb: automationv1.Verb_VERB_HOLD, Reason: "test", Actor: "anna",
	}}}})
}

func (w *world) resume(source string) {
	w.t.Helper()
	w.command(&logv1.Command{Act: &logv1.Command_ClearSwitch{ClearSwitch: &logv1.ClearSwitch{Scope: scopeOf(source)}}})
}

// attempts is how often jobs of a source are tried, a second apart at most.
func attempts(n int32) func(*automationv1.Source) {
	return func(s *automationv1.Source) {
		s.Retry = &automationv1.RetryPolicy{MaxAttempts: n, Max: durationpb.New(time.Second)}
	}
}

// payload is what a job carries.
func payload(text string) func(*client.Job) { return func(j *client.Job) { j.Payload = []byte(text) } }

func scopeOf(source string) *automationv1.Scope {
	return &automationv1.Scope{Scope: &automationv1.Scope_Source{Source: source}}
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

// ledger is what outcomes say, by the reader's rule.
type ledger struct {
	settled  map[string][]*logv1.Settled // by job id
	attempts map[string]int
	late     int // terminal events of an epoch older than the last fence before them: they do not count
	fences   int
	next     [shards]int64 // read up to here
	fence    [shards]int64 // the last fence
}

// outcomes reads outcomes on, and returns all that they say so far.
func (w *world) outcomes() *ledger {
	w.t.Helper()
	if w.ledger == nil {
		w.ledger = &ledger{settled: map[string][]*logv1.Settled{}, attempts: map[string]int{}, fence: [shards]int64{-1, -1, -1, -1}}
	}
	l := w.ledger
	for partition := range shards {
		for _, m := range w.readFrom(topics.Outcomes(), partition, l.next[partition]) {
			l.next[partition] = m.Offset + 1
			event := &logv1.JobEvent{}
			if err := proto.Unmarshal(m.Value, event); err != nil {
				w.t.Fatal(err)
			}
			switch e := event.GetEvent().(type) {
			case *logv1.JobEvent_Fence:
				l.fence[partition] = m.Offset
				l.fences++
			case *logv1.JobEvent_Settled:
				if event.GetEpoch() < l.fence[partition] {
					l.late++
					continue
				}
				l.settled[e.Settled.GetJobId()] = append(l.settled[e.Settled.GetJobId()], e.Settled)
			case *logv1.JobEvent_Attempt:
				l.attempts[e.Attempt.GetJobId()]++
			}
		}
	}
	return l
}

// events is outcomes for those who ask for no more.
func (w *world) events() (settled map[string][]*logv1.Settled, attempts map[string]int) {
	w.t.Helper()
	l := w.outcomes()
	return l.settled, l.attempts
}

// owners are the shards of each live scheduler that has any, by its name.
func (w *world) owners() map[string][]int32 {
	owners := map[string][]int32{}
	for _, r := range w.status.Live(logv1.ReplicaKind_REPLICA_KIND_SCHEDULER) {
		if len(r.Shards) > 0 {
			owners[r.Replica[:len("scheduler-0")]] = r.Shards
		}
	}
	return owners
}

// committed is the group's position in a partition.
func (w *world) committed(topic string, partition int) offsets.Position {
	w.t.Helper()
	found, err := w.client.Committed(w.ctx, topics.Group(), topic, []int{partition})
	if err != nil {
		w.t.Fatal(err)
	}
	meta, err := offsets.DecodeMetadata(found[partition].Metadata)
	if err != nil {
		w.t.Fatal(err)
	}
	return offsets.Position{Offset: found[partition].Offset, Meta: meta}
}

// read returns all records of a partition.
func (w *world) read(topic string, partition int) []kafka.Message {
	w.t.Helper()
	return w.readFrom(topic, partition, 0)
}

// readFrom returns the records of a partition from an offset on, or from the first that is left.
func (w *world) readFrom(topic string, partition int, from int64) (all []kafka.Message) {
	w.t.Helper()
	r := w.ends(topic, partition)
	for next := max(from, r.First); next < r.Next; {
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

// ends is what there is of a partition.
func (w *world) ends(topic string, partition int) kafka.Range {
	w.t.Helper()
	ends, err := w.client.Ends(w.ctx, topic, []int{partition})
	if err != nil {
		w.t.Fatal(err)
	}
	return ends[partition]
}

// spilled is how many records were ever written to lanes.
func (w *world) spilled() (n int) {
	w.t.Helper()
	for p := range shards * lanes {
		n += int(w.ends(topics.Spill(), p).Next)
	}
	return n
}

// until waits for a condition.
func (w *world) until(what string, within time.Duration, holds func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(within); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not within %v", what, within)
		}
	}
}

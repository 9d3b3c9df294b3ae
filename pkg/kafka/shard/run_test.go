package shard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"reflect"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/shard"
)

var layout = kafka.Layout{Topics: kafka.Topics{Prefix: "t."}, Shards: 4, Lanes: 2, Durability: kafka.Single}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// owner is one replica; it notes its generations.
type owner struct {
	t      *testing.T
	broker *kafkatest.Broker
	stop   context.CancelFunc
	done   chan error

	mu     sync.Mutex
	now    *shard.Generation // nil between generations
	begun  []*shard.Generation
	causes []error
	// drain, if not nil, runs when a generation has ended, before own returns.
	drain func(ctx context.Context, g *shard.Generation)
}

func join(t *testing.T, broker *kafkatest.Broker, name string) *owner {
	t.Helper()
	return joinBy(t, broker, name, broker.Dial)
}

// joinBy is join by a way of its own to the broker.
func joinBy(t *testing.T, broker *kafkatest.Broker, name string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *owner {
	t.Helper()
	reach := broker.Config(name, layout.Scheduled()...)
	reach.Dial = dial
	client, err := kafka.New(reach)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	ctx, cancel := context.WithCancel(t.Context())
	o := &owner{t: t, broker: broker, stop: cancel, done: make(chan error, 1)}
	config := shard.Config{
		Client: client, Topics: layout.Topics, Shards: layout.Shards, Replica: name, Log: quiet,
	}
	go func() { o.done <- shard.Run(ctx, config, o.own) }()
	t.Cleanup(func() {
		cancel()
		if o.done != nil {
			o.wait()
		}
	})
	return o
}

func (o *owner) own(ctx context.Context, g *shard.Generation) error {
	o.mu.Lock()
	o.now = g
	o.begun = append(o.begun, g)
	o.mu.Unlock()
	<-ctx.Done()
	if o.drain != nil {
		o.drain(context.WithoutCancel(ctx), g)
	}
	o.mu.Lock()
	o.now = nil
	o.causes = append(o.causes, context.Cause(ctx))
	o.mu.Unlock()
	return ctx.Err()
}

func (o *owner) wait() {
	o.t.Helper()
	if err := <-o.done; err != nil {
		o.t.Errorf("Run: %v", err)
	}
	o.done = nil
}

func (o *owner) generation() *shard.Generation {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

func (o *owner) shards() []int {
	if g := o.generation(); g != nil {
		return g.Shards()
	}
	return nil
}

func (o *owner) lastCause() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.causes) == 0 {
		return nil
	}
	return o.causes[len(o.causes)-1]
}

// eventually waits on the bubble's clock and returns how long it took.
func eventually(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		if ok() {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			t.Fatalf("after %s still not: %s", limit, what)
		}
	}
}

func bubble(t *testing.T, f func(t *testing.T, broker *kafkatest.Broker)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		broker := kafkatest.Start(t)
		broker.Install(t, layout)
		f(t, broker)
	})
}

func TestShardsAreDealtByName(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		b := join(t, broker, "b")
		eventually(t, 5*time.Second, "alone it owns all", func() bool { return reflect.DeepEqual(b.shards(), []int{0, 1, 2, 3}) })
		a := join(t, broker, "a")
		dealt := func() bool {
			return reflect.DeepEqual(a.shards(), []int{0, 2}) && reflect.DeepEqual(b.shards(), []int{1, 3})
		}
		took := eventually(t, 5*time.Second, "two share", dealt)
		if took > 2*shard.HeartbeatInterval {
			t.Errorf("a join took %s", took)
		}
		if cause := b.lastCause(); !errors.Is(cause, shard.ErrRebalance) {
			t.Errorf("the generation before ended with %v", cause)
		}
		g := a.generation()
		if !g.Alive(time.Now()) {
			t.Error("a new generation is not alive")
		}
		if got := g.Partitions(layout.Spill(), 2); !reflect.DeepEqual(got, []int{2, 6}) {
			t.Errorf("partitions of spill in shard 2: %v", got)
		}
		b.stop()
		b.wait()
		took = eventually(t, 5*time.Second, "the one left owns all", func() bool { return len(a.shards()) == 4 })
		if took > 2*shard.HeartbeatInterval {
			t.Errorf("a leave took %s", took)
		}
	})
}

// More replicas than shards: the last ones own nothing and are members still.
func TestMoreReplicasThanShards(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		var all []*owner
		for i := range layout.Shards + 1 {
			all = append(all, join(t, broker, fmt.Sprintf("replica-%d", i)))
		}
		eventually(t, 20*time.Second, "four own one each, the fifth none", func() bool {
			for i, o := range all {
				want := []int{i}
				if i == layout.Shards {
					want = []int{}
				}
				if !reflect.DeepEqual(o.shards(), want) {
					return false
				}
			}
			return true
		})
	})
}

// A broker that is away for less than LostAfter: nothing may be granted after
// AliveFor, and the same generation goes on as soon as the broker answers.
func TestBrokerAway(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		a, b := join(t, broker, "a"), join(t, broker, "b")
		both := func() bool { return len(a.shards()) == 2 && len(b.shards()) == 2 }
		eventually(t, 10*time.Second, "two share", both)
		g, h := a.generation(), b.generation()
		broker.Stop()
		time.Sleep(shard.AliveFor + shard.HeartbeatInterval)
		if g.Alive(time.Now()) || h.Alive(time.Now()) {
			t.Error("alive without a heartbeat")
		}
		time.Sleep(2 * time.Second) // in all less than the session, or the broker would forget them
		broker.Resume()
		took := eventually(t, time.Second, "both are alive again", func() bool { return g.Alive(time.Now()) && h.Alive(time.Now()) })
		t.Logf("alive %s after the broker came back", took)
		if a.generation() != g || b.generation() != h {
			t.Errorf("the generation did not last: %v, %v", a.lastCause(), b.lastCause())
		}
	})
}

// A coordinator that is away for longer: own is told, and when the coordinator is
// back and still knows the member, the generation is its own again, without a
// rebalance.
func TestLostGenerationGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		w := &wire{broker: broker, conns: make(map[net.Conn]struct{})}
		a := joinBy(t, broker, "a", w.dial)
		eventually(t, 5*time.Second, "a owns", func() bool { return a.generation() != nil })
		g := a.generation()
		joins := broker.Count(kafkatest.JoinGroup)
		w.cut(true)
		// A coordinator that is away lets no session end.
		beats, stop := context.WithCancel(t.Context())
		defer stop()
		go keepSession(beats, broker.Client(t, "keeper", layout.Scheduled()...), "a", g.ID())
		eventually(t, shard.LostAfter+5*time.Second, "a lost it", func() bool { return a.generation() == nil })
		if cause := a.lastCause(); !errors.Is(cause, shard.ErrLost) {
			t.Errorf("the generation ended with %v", cause)
		}
		time.Sleep(time.Second)
		w.cut(false)
		took := eventually(t, 10*time.Second, "a owns again", func() bool { return a.generation() != nil })
		again := a.generation()
		if n := joins.Load(); n != 0 || again.ID() != g.ID() || !errors.Is(again.Former(), shard.ErrLost) || took > time.Second {
			t.Errorf("after %s and %d joins generation %d, before %d; the former ended with %v", took, n, again.ID(), g.ID(), again.Former())
		}
	})
}

// keepSession sends heartbeats for the members of a client id.
func keepSession(ctx context.Context, client *kafka.Client, clientID string, generation int32) {
	for ctx.Err() == nil {
		described, err := client.Kafka().DescribeGroups(ctx, &kafkago.DescribeGroupsRequest{GroupIDs: []string{layout.Group()}})
		if err == nil {
			for _, m := range described.Groups[0].Members {
				if m.ClientID == clientID {
					_ = client.Heartbeat(ctx, kafka.Member{Group: layout.Group(), ID: m.MemberID, Generation: generation})
				}
			}
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// wire is one client's way to the broker.
type wire struct {
	broker *kafkatest.Broker

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]struct{}
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := w.broker.Dial(ctx, network, address)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil && w.down {
		conn.Close()
		err = syscall.ECONNREFUSED
	}
	if err != nil {
		return nil, err
	}
	w.conns[conn] = struct{}{}
	return conn, nil
}

func (w *wire) cut(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = down
	for c := range w.conns {
		c.Close()
	}
	clear(w.conns)
}

// The member id survives connections: no rebalance waits for a member that is
// nobody.
func TestNoGhost(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		a := join(t, broker, "a")
		eventually(t, 5*time.Second, "a owns", func() bool { return a.generation() != nil })
		for seed := range 20 {
			broker.Cut()
			b := join(t, broker, "b") // a rebalance, and more cuts in the midst of it
			for range 5 {
				time.Sleep(time.Duration(rand.N(50)) * time.Millisecond)
				broker.Cut()
			}
			took := eventually(t, 10*time.Second, "two share", func() bool { return len(a.shards()) == 2 && len(b.shards()) == 2 })
			if took > shard.RebalanceTimeout {
				t.Errorf("round %d: two shared after %s", seed, took)
			}
			b.stop()
			b.wait()
			eventually(t, 10*time.Second, "a owns all", func() bool { return len(a.shards()) == 4 })
		}
	})
}

// The coordinator has lost its memory of the group, as the embedded broker does:
// all come back in one generation with the shards that they had, none takes the
// others' first.
func TestForgottenMembersComeBackTogether(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		names := []string{"a", "b", "c"}
		members := make([]*owner, len(names))
		for i, name := range names {
			members[i] = join(t, broker, name)
			time.Sleep(time.Duration(rand.N(500)) * time.Millisecond) // heartbeats out of step
		}
		all := func() bool {
			for _, m := range members {
				if g := m.generation(); g == nil || len(g.Replicas()) != len(names) {
					return false
				}
			}
			return true
		}
		eventually(t, 10*time.Second, "three share", all)
		time.Sleep(time.Second)
		before := make(map[string][]int)
		for i, m := range members {
			before[names[i]] = m.shards()
		}
		for _, m := range members {
			m.begun = nil
		}
		forget(t, broker)
		eventually(t, 10*time.Second, "forgotten", func() bool { return !all() })
		took := eventually(t, 10*time.Second, "three share again", all)
		t.Logf("together again after %s", took)
		for i, m := range members {
			if !reflect.DeepEqual(m.shards(), before[names[i]]) || len(m.begun) != 1 {
				t.Errorf("%s had %v, has %v in generation %d of its", names[i], before[names[i]], m.shards(), len(m.begun))
			}
			if former := m.generation().Former(); !errors.Is(former, shard.ErrForgotten) {
				t.Errorf("%s: the former generation ended with %v", names[i], former)
			}
		}
		// Who has died meanwhile is not waited for twice.
		members[2].stop()
		members[2].wait()
		members = members[:2]
		names = names[:2]
		eventually(t, 10*time.Second, "two share", all)
		forget(t, broker)
		eventually(t, 10*time.Second, "forgotten", func() bool { return !all() })
		if took := eventually(t, 10*time.Second, "two share again", all); took > time.Second {
			t.Errorf("two waited %s", took)
		}
	})
}

// forget makes the broker forget the group's members at one moment.
func forget(t *testing.T, broker *kafkatest.Broker) {
	t.Helper()
	client := broker.Client(t, "forget", layout.Scheduled()...)
	described, err := client.Kafka().DescribeGroups(t.Context(), &kafkago.DescribeGroupsRequest{GroupIDs: []string{layout.Group()}})
	if err != nil || len(described.Groups) != 1 {
		t.Fatalf("describe: %v", err)
	}
	for _, m := range described.Groups[0].Members {
		if err := client.LeaveGroup(t.Context(), layout.Group(), m.MemberID); err != nil {
			t.Fatal(err)
		}
	}
}

// Several brokers: one coordinates the group, and heartbeats must go to it.
func TestCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := kafkatest.StartCluster(t, 3)
		broker.Install(t, layout)
		a, b := join(t, broker, "a"), join(t, broker, "b")
		eventually(t, 10*time.Second, "two share", func() bool { return len(a.shards()) == 2 && len(b.shards()) == 2 })
		g := a.generation()
		time.Sleep(time.Minute)
		if a.generation() != g || !g.Alive(time.Now()) {
			t.Errorf("the generation did not last a quiet minute: %v", a.lastCause())
		}
		if _, err := g.Committed(t.Context(), layout.Spill(), g.Partitions(layout.Spill(), g.Shards()[0])); err != nil {
			t.Error(err)
		}
		if err := g.Commit(t.Context(), []kafka.Commit{{Topic: layout.Spill(), Partition: 1, Offset: 3, Metadata: "1;;-;-;"}}); err != nil {
			t.Error(err)
		}
	})
}

func TestOwnErrorEndsRun(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		broken := errors.New("broken")
		config := shard.Config{
			Client: broker.Client(t, "a", layout.Scheduled()...), Topics: layout.Topics, Shards: layout.Shards, Replica: "a", Log: quiet,
		}
		if err := shard.Run(t.Context(), config, func(context.Context, *shard.Generation) error { return broken }); !errors.Is(err, broken) {
			t.Errorf("Run: %v", err)
		}
		// It has left: the next one need not wait for the session to end.
		b := join(t, broker, "b")
		if took := eventually(t, 10*time.Second, "b owns all", func() bool { return len(b.shards()) == 4 }); took > time.Second {
			t.Errorf("b waited %s", took)
		}
	})
}

// A broker that hiccups while an owner attaches its shards must not end the process.
func TestPassingErrorOfOwnJoinsAnew(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		config := shard.Config{
			Client: broker.Client(t, "a", layout.Scheduled()...), Topics: layout.Topics, Shards: layout.Shards, Replica: "a", Log: quiet,
		}
		passing := []error{io.ErrUnexpectedEOF, fmt.Errorf("fence: %w", kafka.ErrUnsent), kafka.ErrFateUnknown}
		calls := 0
		err := shard.Run(ctx, config, func(ctx context.Context, g *shard.Generation) error {
			if calls++; calls <= len(passing) {
				return passing[calls-1]
			}
			cancel()
			return nil
		})
		if err != nil || calls != len(passing)+1 {
			t.Errorf("%d generations, %v", calls, err)
		}
	})
}

func TestOwnReturningIsCalledAgain(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		config := shard.Config{
			Client: broker.Client(t, "a", layout.Scheduled()...), Topics: layout.Topics, Shards: layout.Shards, Replica: "a", Log: quiet,
		}
		var ids []int32
		err := shard.Run(ctx, config, func(ctx context.Context, g *shard.Generation) error {
			if ids = append(ids, g.ID()); len(ids) == 3 {
				cancel()
			}
			return nil
		})
		if err != nil || len(ids) != 3 || ids[0] != ids[1] || ids[1] != ids[2] {
			t.Errorf("generations %v, %v: the others have no part in it", ids, err)
		}
	})
}

func TestRunRefusesATopicOfAnotherShape(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		config := shard.Config{
			Client: broker.Client(t, "a", layout.Scheduled()...), Topics: layout.Topics, Shards: 3, Replica: "a", Log: quiet,
		}
		err := shard.Run(t.Context(), config, func(context.Context, *shard.Generation) error { return nil })
		if err == nil {
			t.Error("3 shards over 4 partitions were accepted")
		}
	})
}

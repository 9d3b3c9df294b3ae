package shard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
	causes []error
	// drain, if not nil, runs when a generation has ended, before own returns.
	drain func(ctx context.Context, g *shard.Generation)
}

func join(t *testing.T, broker *kafkatest.Broker, name string) *owner {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	o := &owner{t: t, broker: broker, stop: cancel, done: make(chan error, 1)}
	config := shard.Config{
		Client: broker.Client(t, name, layout.Scheduled()...), Topics: layout.Topics, Shards: layout.Shards, Replica: name, Log: quiet,
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

// A broker that cannot be reached: after AliveFor nothing may be granted, the
// generation ends as lost, and the same shards come back.
func TestBrokerAway(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		a, b := join(t, broker, "a"), join(t, broker, "b")
		both := func() bool { return len(a.shards()) == 2 && len(b.shards()) == 2 }
		eventually(t, 10*time.Second, "two share", both)
		before, g := a.shards(), a.generation()
		broker.Stop()
		time.Sleep(shard.AliveFor + shard.HeartbeatInterval)
		if g.Alive(time.Now()) {
			t.Error("alive without a heartbeat")
		}
		if cause := a.lastCause(); !errors.Is(cause, shard.ErrLost) {
			t.Errorf("the generation ended with %v", cause)
		}
		time.Sleep(4 * time.Second)
		broker.Resume()
		took := eventually(t, 20*time.Second, "two share again", both)
		t.Logf("new generation %s after the broker came back", took)
		if after := a.shards(); !reflect.DeepEqual(before, after) {
			t.Errorf("shards %v came back as %v", before, after)
		}
	})
}

// The coordinator still knows the member whose connection was cut; without its
// leave the next generation would wait a whole RebalanceTimeout for it.
func TestGhostIsMadeToLeave(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		a := join(t, broker, "a")
		eventually(t, 5*time.Second, "a owns", func() bool { return a.generation() != nil })
		broker.Stop()
		eventually(t, 5*time.Second, "a lost it", func() bool { return a.generation() == nil })
		time.Sleep(shard.HeartbeatInterval) // a join has failed, the library has dropped its id
		broker.Resume()
		if took := eventually(t, 10*time.Second, "a owns again", func() bool { return a.generation() != nil }); took > time.Second {
			t.Errorf("the next generation came %s after the broker", took)
		}
	})
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

func TestOwnReturningJoinsAnew(t *testing.T) {
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
		if err != nil || len(ids) != 3 || ids[0] >= ids[1] || ids[1] >= ids[2] {
			t.Errorf("generations %v, %v", ids, err)
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

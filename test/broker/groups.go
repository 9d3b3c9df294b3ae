package broker

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/shard"
)

// owner is a replica within the test's process that does no work.
type owner struct {
	stop func() // ends it and waits

	mu  sync.Mutex
	now *shard.Generation // nil between generations
}

func (s *suite) join(t *testing.T, name string) *owner {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	o := &owner{}
	config := shard.Config{
		Client: s.target.client(t, name, s.layout.Scheduled()...), Topics: s.layout.Topics, Shards: shards, Replica: name,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	done := make(chan error, 1)
	go func() {
		done <- shard.Run(ctx, config, func(ctx context.Context, g *shard.Generation) error {
			o.set(g)
			defer o.set(nil)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	o.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	t.Cleanup(o.stop)
	return o
}

func (o *owner) set(g *shard.Generation) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.now = g
}

func (o *owner) generation() *shard.Generation {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.now
}

// owns reports whether exactly these shards are owned now.
func (o *owner) owns(list ...int) bool {
	g := o.generation()
	return g != nil && slices.Equal(g.Shards(), list)
}

// fence: who may commit, and how everybody else learns that he may not.
func (s *suite) fence(t *testing.T) {
	topic := s.layout.Jobs("low")
	commit := func(offset int64) []kafka.Commit {
		return []kafka.Commit{{Topic: topic, Partition: 2, Offset: offset, Metadata: kafka.FirstMetadata}}
	}
	ctx := s.context(t)
	a := s.join(t, "a")
	eventually(t, 15*time.Second, "a owns all", func() bool { return a.owns(0, 1, 2, 3) })
	first := a.generation()
	if err := first.Commit(ctx, commit(1)); err != nil {
		t.Errorf("the member: %v", err)
	}
	// A topic of which the group knows nothing still shares its fence.
	if err := first.Commit(ctx, []kafka.Commit{{Topic: s.layout.Notifications(), Offset: 1}}); err != nil {
		t.Errorf("a topic that is not subscribed: %v", err)
	}
	for name, member := range map[string]kafka.Member{
		"nobody, while there are members": {Group: s.layout.Group(), Generation: -1},
		"a member that never joined":      {Group: s.layout.Group(), ID: "stranger", Generation: first.ID()},
	} {
		if err := s.client.CommitOffsets(ctx, member, commit(99)); !errors.Is(err, kafka.ErrFenced) {
			t.Errorf("commit of %s: %v", name, err)
		}
	}
	stranger := kafka.Member{Group: s.layout.Group(), ID: "stranger", Generation: first.ID()}
	if err := s.client.Heartbeat(ctx, stranger); !kafka.Fenced(err) {
		t.Errorf("heartbeat of a stranger: %v", err) // the code that the library hides
	}
	if err := s.client.LeaveGroup(ctx, s.layout.Group(), stranger.ID); err != nil {
		t.Errorf("leave of a stranger, who is not there as asked: %v", err)
	}
	b := s.join(t, "b")
	eventually(t, 15*time.Second, "b owns a half", func() bool { return a.owns(0, 2) && b.owns(1, 3) })
	if err := first.Commit(ctx, commit(99)); !errors.Is(err, kafka.ErrFenced) {
		t.Errorf("commit of the generation before: %v", err)
	}
	second := b.generation()
	b.stop()
	eventually(t, 15*time.Second, "a owns all again", func() bool { return a.owns(0, 1, 2, 3) })
	if err := second.Commit(ctx, commit(99)); !errors.Is(err, kafka.ErrFenced) {
		t.Errorf("commit of a member that left: %v", err)
	}
	if got := s.committed(t, topic, 2); got.Offset != 1 {
		t.Errorf("after all of it the commit is %+v", got)
	}
}

func (s *suite) membership(t *testing.T) {
	a := s.join(t, "a")
	first := eventually(t, 15*time.Second, "a owns all", func() bool { return a.owns(0, 1, 2, 3) })
	b := s.join(t, "b")
	second := eventually(t, 15*time.Second, "b owns a half", func() bool { return a.owns(0, 2) && b.owns(1, 3) })
	c := s.join(t, "c")
	third := eventually(t, 15*time.Second, "c owns a part", func() bool { return a.owns(0, 2) && b.owns(1) && c.owns(3) })
	g := b.generation()
	time.Sleep(3 * shard.HeartbeatInterval)
	if b.generation() != g || !g.Alive(time.Now()) || time.Since(g.Heartbeat()) > 2*shard.HeartbeatInterval {
		t.Errorf("a quiet generation does not last: last heartbeat %s ago", time.Since(g.Heartbeat()))
	}
	b.stop()
	left := eventually(t, 15*time.Second, "the others share", func() bool { return a.owns(0, 2) && c.owns(1, 3) })
	t.Logf("1st, 2nd, 3rd joined in %s, %s, %s; a leave took %s",
		first.Round(time.Millisecond), second.Round(time.Millisecond), third.Round(time.Millisecond), left.Round(time.Millisecond))
	for _, took := range []time.Duration{second, third, left} {
		if took > shard.RebalanceTimeout {
			t.Errorf("a rebalance of live members took %s", took)
		}
	}
}

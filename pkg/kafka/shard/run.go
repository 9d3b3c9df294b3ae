package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/spillway/spillway/pkg/kafka"
)

// The times of membership work only together; the reasons are measurements of
// brokers that died.
const (
	// HeartbeatInterval bounds how late we learn of a rebalance.
	HeartbeatInterval = 500 * time.Millisecond
	// SessionTimeout is how long a silent member keeps its shards. 6 s is the
	// least that brokers accept by default.
	SessionTimeout = 6 * time.Second
	// RebalanceTimeout is how long a rebalance waits for members that do not
	// rejoin. Above 3 s members that are killed while joining can keep the
	// embedded broker's group from ever forming.
	RebalanceTimeout = 3 * time.Second
	// DrainTime is what own has, once its context has ended, to stop, commit and
	// return: less than RebalanceTimeout, with room for joining again.
	DrainTime = 2 * time.Second

	// LostAfter is how long a generation lasts whose coordinator does not answer.
	// Its end matters only to who wants to be told: it may begin anew. It leaves
	// an owner time to drain before it must not even renew leases any more.
	LostAfter = 10 * time.Second

	// joinTime bounds one attempt to join, or to hear of the assignments: others
	// may take a RebalanceTimeout to come, and a first generation of a group
	// whose broker waits for more members (3 s by default) as long.
	joinTime = RebalanceTimeout + 2*time.Second
	// regroupTime is how long a leader waits for members that a broker without a
	// memory has forgotten. They find out by their next heartbeat, which follows
	// within HeartbeatInterval, or within milliseconds if the last one failed.
	regroupTime = time.Second
	firstPause  = 10 * time.Millisecond  // after a join that came to nothing
	joinBackoff = 300 * time.Millisecond // the longest pause between two joins
	leaveTime   = RebalanceTimeout       // for leaving
	// beatTimeout bounds one heartbeat. A broker that is slower than this cannot
	// keep us alive: AliveFor counts from when a heartbeat was sent.
	beatTimeout = 2 * time.Second
	firstBeat   = 250 * time.Millisecond // the heartbeat before own
	beatPause   = 100 * time.Millisecond // after a heartbeat that failed
	errorLogGap = 10 * time.Second       // between two log lines of the same trouble
)

// Config says whose shards to own.
type Config struct {
	// Client reaches the broker; its cluster view must include Topics.Scheduled.
	Client *kafka.Client
	// Topics names the installation's topics and group.
	Topics kafka.Topics
	// Shards is P; the partition counts of the scheduler topics are multiples.
	Shards int
	// Replica is a name that this replica keeps over restarts. Shards stay with
	// those who have them; those that nobody has are dealt in the order of these
	// names, so that a group that begins anew is dealt as before.
	Replica string
	// Log receives one line when a generation begins and one when it ends.
	Log *slog.Logger
}

// Run is a member of the group until ctx ends. It calls own for each generation,
// one at a time; own's context ends when the generation does (context.Cause says
// why) or when ctx does, and own must then stop, make its final commits and
// return within DrainTime. State that should survive a generation is own's to
// keep between calls.
//
// A coordinator that does not answer, or moves, does not end a generation before
// LostAfter: Alive is false meanwhile, and true again as soon as the coordinator
// confirms that nobody else was given our shards. When it comes back later than
// that and still knows us, own is called again with the same generation.
//
// An error of own ends Run, which leaves the group and returns the error, unless it
// may pass (kafka.Retriable, or a record that was not or perhaps not written): then
// it is logged. After such an error, and when own returns nil before its context
// has ended, own is called again after a pause, with the same generation if that
// still stands. A context that ended is no error: Run returns nil after own has
// returned and the group was told that we leave (without an answer it waits 3 s).
// Run returns an error at once if a topic's partition count is no multiple of P.
func Run(ctx context.Context, config Config, own func(ctx context.Context, g *Generation) error) error {
	if config.Shards < 1 {
		return fmt.Errorf("shard: %d shards", config.Shards)
	}
	counts, err := partitionCounts(ctx, config)
	if err != nil || ctx.Err() != nil {
		return err
	}
	m := &membership{
		member: member{config: config, counts: counts, had: claim{Replica: config.Replica}},
		own:    own,
		failed: complaint{message: "owning failed in a way that may pass, owning again"},
	}
	return m.run(ctx)
}

// partitionCounts asks how many partitions the scheduler topics have.
func partitionCounts(ctx context.Context, config Config) (map[string]int, error) {
	counts := make(map[string]int)
	trouble := complaint{message: "topics of the group are not known yet"}
	wait := newBackoff(joinBackoff, 2*time.Second)
	for _, topic := range config.Topics.Scheduled() {
		for {
			n, err := config.Client.Partitions(ctx, topic)
			if ctx.Err() != nil {
				return nil, nil
			}
			if err == nil && n%config.Shards != 0 {
				return nil, fmt.Errorf("shard: topic %s has %d partitions, which is no multiple of %d shards", topic, n, config.Shards)
			}
			if err == nil {
				counts[topic] = n
				break
			}
			if !kafka.Retriable(err) {
				return nil, fmt.Errorf("shard: topic %s: %w", topic, err)
			}
			trouble.about(config.Log, err)
			if !wait.sleep(ctx) {
				return nil, nil
			}
		}
	}
	return counts, nil
}

// membership is one Run.
type membership struct {
	member
	own    func(context.Context, *Generation) error
	failed complaint
	ended  error // why the generation before ended
}

func (m *membership) run(ctx context.Context) error {
	defer m.leave()
	for {
		g := m.join(ctx)
		if g == nil {
			return nil
		}
		for g != nil {
			g.former = m.ended
			if err := m.generation(ctx, g); err != nil || ctx.Err() != nil {
				return err
			}
			g = m.again(ctx, g)
		}
	}
}

// generation runs own for one generation and returns when own has.
func (m *membership) generation(ctx context.Context, g *Generation) error {
	own, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g.log, g.cancel = m.config.Log, cancel
	// Ask at once whether the generation stands, so that own finds it alive.
	if cause := verdict(g.heartbeat(own, firstBeat)); cause != nil {
		g.end(cause)
	}
	var beside sync.WaitGroup
	var stopped time.Time // when own was told to stop
	beside.Go(func() {
		g.beat(own)
		stopped = time.Now()
	})

	began := time.Now()
	args := []any{"generation", g.ID(), "shards", g.shards, "replicas", g.replicas}
	if g.former != nil {
		args = append(args, "former_ended", g.former.Error())
	}
	m.config.Log.Info("generation began", args...)
	err := m.own(own, g)
	returned := time.Now()
	cancel(errReturned)
	beside.Wait()
	cause := context.Cause(own)
	drained := max(0, returned.Sub(stopped))
	m.config.Log.Info("generation ended", "generation", g.ID(), "cause", cause.Error(),
		"lasted", returned.Sub(began), "drained_in", drained)
	if drained > DrainTime {
		m.config.Log.Warn("draining took longer than a rebalance waits", "generation", g.ID(), "drained_in", drained)
	}
	m.ended = cause
	if errors.Is(err, context.Canceled) || errors.Is(err, cause) || errors.Is(err, kafka.ErrFenced) {
		err = nil // own says that it was told to stop
	}
	if err != nil && MayPass(err) {
		m.failed.about(m.config.Log, err)
		err = nil
	}
	if err != nil {
		return fmt.Errorf("shard: generation %d: %w", g.ID(), err)
	}
	return nil
}

// MayPass reports whether Run calls own again after it has returned err.
func MayPass(err error) bool {
	return err == nil || errors.Is(err, context.Canceled) || errors.Is(err, kafka.ErrFenced) ||
		kafka.Retriable(err) || errors.Is(err, kafka.ErrUnsent) || errors.Is(err, kafka.ErrFateUnknown)
}

// again returns the generation that own has left, to be owned once more, if it
// still stands: the coordinator was away, or own has returned by itself. Else it
// returns nil, and it is time to join.
func (m *membership) again(ctx context.Context, g *Generation) *Generation {
	switch {
	case errors.Is(m.ended, ErrForgotten):
		m.forget()
		return nil
	case errors.Is(m.ended, ErrRebalance), errors.Is(m.ended, kafka.ErrFenced):
		return nil
	case errors.Is(m.ended, errReturned):
		sleep(ctx, joinBackoff)
	}
	next := &Generation{
		client: g.client, member: g.member, shards: g.shards, total: g.total, counts: g.counts, replicas: g.replicas,
	}
	next.confirmed.Store(g.confirmed.Load())
	for ctx.Err() == nil {
		err := next.heartbeat(ctx, beatTimeout)
		if err == nil {
			return next
		}
		if errors.Is(err, kafkago.UnknownMemberId) {
			m.forget()
		}
		if cause := verdict(err); cause != nil {
			m.ended = fmt.Errorf("%w, then: %w", m.ended, cause)
			return nil
		}
		m.refresh(ctx)
		if !sleep(ctx, beatPause) {
			return nil
		}
	}
	return nil
}

// complaint logs a trouble that repeats itself many times a second, or comes to
// many at once. It is safe for concurrent use.
type complaint struct {
	message string

	mu    sync.Mutex
	last  time.Time
	count int
}

func (c *complaint) about(log *slog.Logger, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	if now := time.Now(); c.last.IsZero() || now.Sub(c.last) >= errorLogGap {
		log.Warn(c.message, "error", err.Error(), "times", c.count)
		c.last, c.count = now, 0
	}
}

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

	joinBackoff  = 300 * time.Millisecond // after a failed join; the default is 5 s
	groupTimeout = 5 * time.Second        // of the library's own calls
	leaveTime    = RebalanceTimeout       // for leaving; also a join in progress takes no longer
	ghostPause   = 100 * time.Millisecond // between attempts to make a ghost leave
	classifyTime = 250 * time.Millisecond // for asking why a generation ended
	errorLogGap  = 10 * time.Second       // between two log lines of the same trouble
)

// Config says whose shards to own.
type Config struct {
	// Client reaches the broker; its cluster view must include Topics.Scheduled.
	Client *kafka.Client
	// Topics names the installation's topics and group.
	Topics kafka.Topics
	// Shards is P; the partition counts of the scheduler topics are multiples.
	Shards int
	// Replica is a name that this replica keeps over restarts. Shards are dealt
	// in the order of these names, so the same replicas get the same shards back.
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
// An error of own ends Run, which leaves the group and returns the error, unless it
// may pass (kafka.Retriable, or a record that was not or perhaps not written): then
// it is logged and the replica joins anew after a pause, as it does at once when
// own returns nil before its context has ended. A context
// that ended is no error: Run returns nil after own has returned and the group
// was told that we leave (without an answer it waits 3 s). Run returns an error at once if a topic's partition
// count is no multiple of P.
func Run(ctx context.Context, config Config, own func(ctx context.Context, g *Generation) error) error {
	if config.Shards < 1 {
		return fmt.Errorf("shard: %d shards", config.Shards)
	}
	counts, err := partitionCounts(ctx, config)
	if err != nil || ctx.Err() != nil {
		return err
	}
	group, err := kafkago.NewConsumerGroup(kafkago.ConsumerGroupConfig{
		ID:                config.Topics.Group(),
		Brokers:           config.Client.Addresses(),
		Dialer:            config.Client.Dialer(),
		Topics:            config.Topics.Scheduled(),
		GroupBalancers:    []kafkago.GroupBalancer{balancer{config.Shards, config.Replica}},
		HeartbeatInterval: HeartbeatInterval,
		SessionTimeout:    SessionTimeout,
		RebalanceTimeout:  RebalanceTimeout,
		JoinGroupBackoff:  joinBackoff,
		Timeout:           groupTimeout,
		StartOffset:       kafkago.FirstOffset, // never used: positions come from Committed
		// WatchPartitionChanges stays off: a change, or a network error of the
		// watcher, would end the generation.
	})
	if err != nil {
		return fmt.Errorf("shard: %w", err)
	}
	m := &membership{
		config: config, group: group, counts: counts, own: own, closed: make(chan struct{}),
		failed: complaint{log: config.Log, message: "owning failed in a way that may pass, joining anew"},
	}
	defer m.exorcise()
	defer m.leave()
	return m.run(ctx)
}

// partitionCounts asks how many partitions the scheduler topics have.
func partitionCounts(ctx context.Context, config Config) (map[string]int, error) {
	counts := make(map[string]int)
	trouble := complaint{log: config.Log, message: "topics of the group are not known yet"}
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
			trouble.about(err)
			if !wait.sleep(ctx) {
				return nil, nil
			}
		}
	}
	return counts, nil
}

// membership is one Run.
type membership struct {
	config Config
	group  *kafkago.ConsumerGroup
	counts map[string]int
	own    func(context.Context, *Generation) error

	failed  complaint
	closing sync.Once
	closed  chan struct{} // the library has left the group and stopped

	// stopGhost ends the goroutine that makes a member of the past leave; nil
	// when there is none.
	stopGhost func()
}

func (m *membership) run(ctx context.Context) error {
	trouble := complaint{log: m.config.Log, message: "joining the group failed, trying again"}
	last := "" // our member id in the generation before, while it may be a ghost
	for {
		next, err := m.group.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, kafkago.ErrGroupClosed):
			return fmt.Errorf("shard: %w", err)
		case err != nil:
			trouble.about(err)
			if last != "" && !errors.Is(err, kafkago.RebalanceInProgress) {
				m.haunt(ctx, last)
				last = ""
			}
			continue
		}
		m.exorcise()
		last = next.MemberID
		if err := m.generation(ctx, next); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// generation runs own for one generation and returns when both are over; when
// ctx has ended it leaves the closing of the group to its caller.
func (m *membership) generation(ctx context.Context, next *kafkago.Generation) error {
	began := time.Now()
	own, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g := &Generation{
		client: m.config.Client,
		member: kafka.Member{Group: next.GroupID, ID: next.MemberID, Generation: next.ID},
		shards: shardsOf(next.Assignments, m.config.Shards),
		total:  m.config.Shards,
		counts: m.counts,
		cancel: cancel,
	}
	// The library ends its generation when the first function returns, and joins
	// again when all have: this one returns when own has.
	over := make(chan struct{})  // own has returned
	ended := make(chan struct{}) // the library's generation has ended
	next.Start(func(lib context.Context) {
		select {
		case <-lib.Done():
			close(ended)
			<-over
		case <-over:
		}
	})
	// Ask at once whether the generation stands, so that own finds it alive.
	if cause := verdict(g.heartbeat(own, classifyTime)); cause != nil {
		g.end(cause)
	}
	var beside sync.WaitGroup
	var stopped time.Time // when own was told to stop
	beside.Go(func() { g.beat(own) })
	beside.Go(func() {
		select {
		case <-ended:
			// The library does not say why: ask.
			cause := verdict(g.heartbeat(own, classifyTime))
			if cause == nil {
				cause = ErrLost
			}
			g.end(cause)
		case <-own.Done():
		}
		stopped = time.Now()
	})

	m.config.Log.Info("generation began", "generation", g.ID(), "shards", g.shards)
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
	if errors.Is(err, context.Canceled) || errors.Is(err, cause) || errors.Is(err, kafka.ErrFenced) {
		err = nil // own says that it was told to stop
	}
	if err != nil && (kafka.Retriable(err) || errors.Is(err, kafka.ErrUnsent) || errors.Is(err, kafka.ErrFateUnknown)) {
		m.failed.about(err)
		err = nil
		sleep(ctx, joinBackoff)
	}
	if err == nil && ctx.Err() == nil {
		close(over)
		return nil
	}
	// Run ends: close the group before own's function returns, or the library
	// would join again only to leave.
	m.close()
	<-ended
	close(over)
	if err != nil {
		return fmt.Errorf("shard: generation %d: %w", g.ID(), err)
	}
	return nil
}

// close begins to close the group: the library ends its generation, or its joining,
// and tells the coordinator that we leave.
func (m *membership) close() {
	m.closing.Do(func() {
		go func() {
			_ = m.group.Close() // always nil
			close(m.closed)
		}()
	})
}

// leave closes the group and waits for it, at most leaveTime. The library's calls
// cannot be interrupted: against a broker that hangs they end by their own
// deadlines, within groupTimeout and SessionTimeout, after Run has returned.
func (m *membership) leave() {
	m.close()
	select {
	case <-m.closed:
	case <-time.After(leaveTime):
		m.config.Log.Warn("left the group without an answer of the coordinator")
	}
}

// haunt makes the member of a lost connection leave: the library has forgotten
// its id, but the coordinator would wait a whole RebalanceTimeout for it.
func (m *membership) haunt(ctx context.Context, id string) {
	m.exorcise()
	ctx, cancel := context.WithCancel(ctx)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			attempt, stop := context.WithTimeout(ctx, callTimeout)
			err := m.config.Client.LeaveGroup(attempt, m.config.Topics.Group(), id)
			stop()
			if err == nil {
				return
			}
			refresh, stop := context.WithTimeout(ctx, callTimeout)
			_ = m.config.Client.Refresh(refresh) // the coordinator may have moved
			stop()
			if !sleep(ctx, ghostPause) {
				return
			}
		}
	})
	m.stopGhost = func() { cancel(); done.Wait() }
}

// exorcise ends what haunt began. A new generation means that the ghost is gone.
func (m *membership) exorcise() {
	if m.stopGhost != nil {
		m.stopGhost()
		m.stopGhost = nil
	}
}

// complaint logs a trouble that repeats itself many times a second.
type complaint struct {
	log     *slog.Logger
	message string
	last    time.Time
	count   int
}

func (c *complaint) about(err error) {
	c.count++
	if now := time.Now(); c.last.IsZero() || now.Sub(c.last) >= errorLogGap {
		c.log.Warn(c.message, "error", err.Error(), "times", c.count)
		c.last, c.count = now, 0
	}
}

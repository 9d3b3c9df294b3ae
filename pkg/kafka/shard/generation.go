package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/offsets"
)

const (
	// AliveFor is how long after a confirmed heartbeat an owner may still grant
	// and produce. It is half a session: long before the broker may give our
	// shards away, we have stopped by ourselves.
	AliveFor = 3 * time.Second

	// callTimeout bounds one attempt of a group call; it is a few milliseconds
	// of work, and the final commit must be tried twice within DrainTime.
	callTimeout = time.Second

	// commitBytes bounds one commit request. The coordinator writes a request
	// as one batch of its own topic, whose limit is 1 MiB by default.
	commitBytes = 256 << 10
)

// Why a generation ended: context.Cause of the context given to own. Besides
// these it is kafka.ErrFenced (the group moved on without us; no commit will be
// accepted) or the cause of Run's context.
var (
	// ErrRebalance: members joined or left. Commits are accepted until the
	// others have formed the next generation, at most RebalanceTimeout.
	ErrRebalance = errors.New("shard: the group rebalances")
	// ErrLost: the coordinator has not answered for LostAfter. The generation
	// may still stand; suspend rather than give up.
	ErrLost = errors.New("shard: lost the group's coordinator")
	// ErrForgotten: the coordinator does not know us. It has come back without
	// its memory of the group, as the embedded broker does, and then the others
	// are as forgotten and alive as we are; or we were silent for longer than
	// SessionTimeout. It is a kafka.ErrFenced.
	ErrForgotten = fmt.Errorf("shard: the coordinator does not know this member: %w", kafka.ErrFenced)
	// errReturned: own came back by itself.
	errReturned = errors.New("shard: the owner returned")
)

// Generation is our part of one generation of the group. It is safe for
// concurrent use, and its methods stay safe to call when it has ended.
type Generation struct {
	client *kafka.Client
	member kafka.Member
	shards []int
	total  int            // P
	counts map[string]int // partitions of each scheduler topic
	// replicas are the names of all members, former is why the generation before
	// has ended; set before own is called.
	replicas []string
	former   error
	log      *slog.Logger

	// confirmed is when the last heartbeat that the broker confirmed was sent;
	// nil before the first one.
	confirmed atomic.Pointer[time.Time]
	fenced    atomic.Bool // the broker said that the generation is over
	committer sync.Mutex  // one commit at a time: a late one must not undo a later one
	cancel    context.CancelCauseFunc
}

// Shards returns the shards that are ours, ascending; there may be none.
func (g *Generation) Shards() []int { return slices.Clone(g.shards) }

// ID is the generation's number. It grows, except that a broker which lost its
// memory of the group starts again at 1.
func (g *Generation) ID() int32 { return g.member.Generation }

// Replicas returns the names of all members of the generation, ascending: who is
// not among them is gone, or was out of the coordinator's sight when it began.
func (g *Generation) Replicas() []string { return slices.Clone(g.replicas) }

// Former is why our part of the generation before ended, nil if there was none:
// ErrRebalance, ErrLost, ErrForgotten, kafka.ErrFenced, or that own has returned.
// After ErrLost the number of the generation may be the same as before. An error
// that wraps both ErrLost and what the coordinator said in the end is possible.
func (g *Generation) Former() error { return g.former }

// Partitions returns the partitions of a scheduler topic that belong to shard,
// ascending; nil for a topic that is no scheduler topic.
func (g *Generation) Partitions(topic string, shard int) []int {
	if g.counts[topic] == 0 {
		return nil
	}
	return kafka.Owned(shard, g.total, g.counts[topic])
}

// Heartbeat is when the last heartbeat that the broker confirmed was sent, with
// a monotonic reading; zero before the first one.
func (g *Generation) Heartbeat() time.Time {
	if t := g.confirmed.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// Alive reports whether we may grant and produce at now: the last confirmed
// heartbeat was sent at most AliveFor ago and the broker has not said that the
// generation is over. It may still hold while own drains.
func (g *Generation) Alive(now time.Time) bool {
	t := g.confirmed.Load()
	return t != nil && !g.fenced.Load() && now.Sub(*t) <= AliveFor
}

// Committed reads the group's commits of topic's partitions, all of which must
// have one: a missing commit is kafka.ErrNoCommit, metadata that is not ours or
// of a later format an error of package offsets. Neither may be guessed around.
// Other failures are retried until ctx ends.
func (g *Generation) Committed(ctx context.Context, topic string, partitions []int) (map[int]offsets.Position, error) {
	var found map[int]kafka.Commit
	err := g.retry(ctx, func(ctx context.Context) (err error) {
		found, err = g.client.Committed(ctx, g.member.Group, topic, partitions)
		return err
	})
	if err != nil {
		return nil, err
	}
	positions := make(map[int]offsets.Position, len(partitions))
	for _, p := range partitions {
		c, ok := found[p]
		if !ok {
			return nil, fmt.Errorf("shard: %s/%d of group %s: %w", topic, p, g.member.Group, kafka.ErrNoCommit)
		}
		meta, err := offsets.DecodeMetadata(c.Metadata)
		if err != nil {
			return nil, fmt.Errorf("shard: commit of %s/%d: %w", topic, p, err)
		}
		positions[p] = offsets.Position{Offset: c.Offset, Meta: meta}
	}
	return positions, nil
}

// Commit commits positions under the generation's fence and retries until ctx
// ends. kafka.ErrFenced: the partitions are not ours any more; drop the commit
// and never repeat it under another generation. On every other error some of
// the commits may be in place, which is harmless.
//
// Commits take effect in the order of the list: when the list is too long for
// one request, no later one is in place without the earlier ones. Calls are
// served one after the other, and a request on its way is waited for (at most
// callTimeout) even when ctx ends: it must not overtake the final commit.
func (g *Generation) Commit(ctx context.Context, commits []kafka.Commit) error {
	g.committer.Lock()
	defer g.committer.Unlock()
	for len(commits) > 0 {
		n, size := 0, 0
		for n < len(commits) && (n == 0 || size < commitBytes) {
			size += len(commits[n].Topic) + len(commits[n].Metadata) + 64
			n++
		}
		err := g.retry(ctx, func(ctx context.Context) error {
			if g.fenced.Load() {
				return fmt.Errorf("shard: commit: %w", kafka.ErrFenced)
			}
			err := g.client.CommitOffsets(ctx, g.member, commits[:n])
			if errors.Is(err, kafkago.RebalanceInProgress) {
				// The next generation is being formed without our rejoining.
				err = fmt.Errorf("%w: %w", kafka.ErrFenced, err)
			}
			if kafka.Fenced(err) {
				g.end(kafka.ErrFenced)
			}
			return err
		})
		if err != nil {
			return err
		}
		commits = commits[n:]
	}
	return nil
}

// retry repeats call, each attempt within callTimeout, until it succeeds, fails
// for good or ctx ends.
func (g *Generation) retry(ctx context.Context, call func(context.Context) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for wait := newBackoff(20*time.Millisecond, 200*time.Millisecond); ; {
		attempt, cancel := within(ctx, callTimeout)
		err := call(attempt)
		cancel()
		if err == nil || kafka.Fenced(err) || !kafka.Retriable(err) {
			return err
		}
		refresh, cancel := context.WithTimeout(ctx, callTimeout)
		_ = g.client.Refresh(refresh) // "asked", not "changed": the retry tells
		cancel()
		if !wait.sleep(ctx) {
			return fmt.Errorf("%w (last: %w)", context.Cause(ctx), err)
		}
	}
}

// within returns a context for a request that is seen through: it ends after d
// or at the deadline of ctx, not when ctx is cancelled.
func within(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok {
		d = min(d, time.Until(deadline))
	}
	return context.WithTimeout(context.WithoutCancel(ctx), d)
}

// end ends the generation's context for the first cause given.
func (g *Generation) end(cause error) {
	if errors.Is(cause, kafka.ErrFenced) {
		g.fenced.Store(true)
	}
	g.cancel(cause)
}

// heartbeat asks the broker once whether the generation stands.
func (g *Generation) heartbeat(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	sent := time.Now()
	err := g.client.Heartbeat(ctx, g.member)
	if err == nil {
		g.confirmed.Store(&sent)
	}
	return err
}

// verdict translates an answer to a heartbeat into the end that it means, nil
// when it means none.
func verdict(err error) error {
	switch {
	case errors.Is(err, kafkago.UnknownMemberId):
		return ErrForgotten
	case kafka.Fenced(err):
		return kafka.ErrFenced
	case errors.Is(err, kafkago.RebalanceInProgress):
		return ErrRebalance
	}
	return nil
}

// beat sends heartbeats until ctx ends, and ends the generation as soon as the
// broker says that it is over, or when it has said nothing for LostAfter.
func (g *Generation) beat(ctx context.Context) {
	silent := time.Time{} // since when; zero: the last heartbeat was confirmed
	said := false         // that nothing may be granted
	began := time.Now()
	for {
		due := time.Now().Add(HeartbeatInterval)
		err := g.heartbeat(ctx, beatTimeout)
		if cause := verdict(err); cause != nil {
			g.end(cause)
			return
		}
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			if said {
				g.log.Info("the group's coordinator answers again", "generation", g.ID(), "away", now.Sub(silent))
			}
			silent, said = time.Time{}, false
		default:
			if silent.IsZero() {
				silent = began
				if t := g.Heartbeat(); !t.IsZero() {
					silent = t
				}
			}
			if !said && !g.Alive(now) {
				g.log.Warn("the group's coordinator does not answer: nothing is granted until it does", "generation", g.ID(), "error", err.Error())
				said = true
			}
			if now.Sub(silent) >= LostAfter {
				g.end(ErrLost)
				return
			}
			refresh, cancel := context.WithTimeout(ctx, HeartbeatInterval)
			_ = g.client.Refresh(refresh) // the coordinator may have moved
			cancel()
			due = time.Now().Add(rand.N(beatPause))
		}
		if !sleep(ctx, time.Until(due)) {
			return
		}
	}
}

// backoff doubles a pause from first to limit; each is shortened by a random
// part of up to a half, so that callers who failed together do not come back
// together.
type backoff struct{ next, first, limit time.Duration }

func newBackoff(first, limit time.Duration) *backoff { return &backoff{first, first, limit} }

func (b *backoff) reset() { b.next = b.first }

// sleep pauses and reports whether ctx is still alive.
func (b *backoff) sleep(ctx context.Context) bool {
	d := b.next - rand.N(b.next/2)
	b.next = min(2*b.next, b.limit)
	return sleep(ctx, d)
}

// sleep waits d and reports whether ctx is still alive after it.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

package shard

import (
	"context"
	"errors"
	"slices"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/spillway/spillway/pkg/kafka"
)

// member is our place in the group, over all generations. It is used by one
// goroutine.
//
//	            no id                      id                     all have joined
//	──▶ absent ───────▶ join: told an id ─────▶ join: waits for all ─────▶ sync ─┐
//	      ▲                                      ▲    ▲                         │
//	      │ the coordinator does not know the id │    │ rebalance, connection   ▼
//	      └──────────────────────────────────────┴────┴───────────────── generation
//
// The id survives every error but one: a lost connection leaves no member that
// nobody is, for which a rebalance would have to wait.
type member struct {
	config Config
	counts map[string]int // partitions of each scheduler topic

	id string
	// had is what we claim: our part of the last generation.
	had claim
	// peers are the replicas of the last generation. forgotten is when we found
	// out that the coordinator does not know us any more, zero if it does: then
	// it has perhaps forgotten all of us, and the others must have the time to
	// find out too.
	peers     []string
	forgotten time.Time
}

// join makes us part of the next generation; nil when ctx has ended.
func (m *member) join(ctx context.Context) *Generation {
	trouble := complaint{message: "joining the group failed, trying again"}
	wait := newBackoff(firstPause, joinBackoff)
	for {
		g, err := m.attempt(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			m.forgotten = time.Time{}
			return g
		case errors.Is(err, kafkago.UnknownMemberId):
			m.forget()
		case errors.Is(err, kafkago.RebalanceInProgress), errors.Is(err, kafkago.IllegalGeneration):
			// somebody else has come or gone meanwhile
		default:
			trouble.about(m.config.Log, err)
			m.refresh(ctx)
		}
		if !wait.sleep(ctx) {
			return nil
		}
	}
}

// forget drops an id that the coordinator does not know.
func (m *member) forget() {
	m.id = ""
	if m.forgotten.IsZero() {
		m.forgotten = time.Now()
	}
}

// leave takes us out of the group, so that the others need not wait for the end
// of our session. It gives up after leaveTime.
func (m *member) leave() {
	if m.id == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	for {
		call, stop := context.WithTimeout(ctx, callTimeout)
		err := m.config.Client.LeaveGroup(call, m.config.Topics.Group(), m.id)
		stop()
		if err == nil {
			return
		}
		m.refresh(ctx) // the coordinator may have moved
		if !sleep(ctx, beatPause) {
			m.config.Log.Warn("left the group without an answer of the coordinator", "error", err.Error())
			return
		}
	}
}

// attempt joins once.
func (m *member) attempt(ctx context.Context) (*Generation, error) {
	call, cancel := context.WithTimeout(ctx, joinTime)
	joined, err := m.config.Client.JoinGroup(call, kafka.Join{
		Group: m.config.Topics.Group(), ID: m.id, Protocol: rule(m.config.Shards), Topics: m.config.Topics.Scheduled(),
		UserData: m.had.encode(), Session: SessionTimeout, Rebalance: RebalanceTimeout,
	})
	cancel()
	m.id = joined.ID
	if err != nil {
		return nil, err
	}
	var assignments map[string]kafka.Assignment
	if joined.Leader {
		if err := m.regroup(ctx, joined); err != nil {
			return nil, err
		}
		assignments = assign(joined.Members, m.config.Shards, m.counts)
	}
	ours, err := m.sync(ctx, joined.Member, assignments)
	if err != nil {
		return nil, err
	}
	g := &Generation{
		client: m.config.Client, member: joined.Member, shards: shardsOf(ours.Partitions, m.config.Shards),
		total: m.config.Shards, counts: m.counts, replicas: decodeShare(ours.UserData).Replicas,
	}
	m.had = claim{Replica: m.config.Replica, Generation: g.ID(), Shards: g.shards}
	m.peers = g.replicas
	return g, nil
}

// sync gives and takes the assignments. An answer that was lost can be asked for
// again: the coordinator keeps it for the generation.
func (m *member) sync(ctx context.Context, self kafka.Member, assignments map[string]kafka.Assignment) (kafka.Assignment, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	for wait := newBackoff(firstPause, joinBackoff); ; {
		ours, err := m.config.Client.SyncGroup(ctx, self, rule(m.config.Shards), assignments)
		if err == nil || verdict(err) != nil || !kafka.Retriable(err) {
			return ours, err
		}
		m.refresh(ctx)
		if !wait.sleep(ctx) {
			return ours, err
		}
	}
}

// regroup holds the assignments back while replicas that were with us in the last
// generation are missing, for as long as they need to find out that a coordinator
// without a memory has forgotten them too. Else the first to come would take
// their shards from them. Those who come make the coordinator begin again, so an
// error is no failure.
func (m *member) regroup(ctx context.Context, joined kafka.Joined) error {
	missing := slices.Clone(m.peers)
	for _, a := range joined.Members {
		if i := slices.Index(missing, decodeClaim(a.UserData).Replica); i >= 0 {
			missing = slices.Delete(missing, i, i+1)
		}
	}
	if len(missing) == 0 || m.forgotten.IsZero() {
		return nil
	}
	for m.forgotten.Add(regroupTime).After(time.Now()) {
		if !sleep(ctx, beatPause) {
			return ctx.Err()
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := m.config.Client.Heartbeat(call, joined.Member)
		cancel()
		if verdict(err) != nil {
			return err
		}
	}
	m.config.Log.Warn("going on without replicas that were in the group before the broker forgot it", "missing", missing)
	return nil
}

func (m *member) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_ = m.config.Client.Refresh(ctx) // "asked", not "changed": the retry tells
}

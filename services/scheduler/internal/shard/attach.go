package shard

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/kafka"
	group "github.com/spillway/spillway/pkg/kafka/shard"
	"github.com/spillway/spillway/pkg/offsets"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/lane"
)

const (
	// attachTogether bounds how many shards read their history at the same time.
	attachTogether = 4
	// rememberTogether is how many settled jobs are told under one lock of the engine: a millisecond or two.
	rememberTogether = 4096
)

// settleIn lets go of shards that went to others, keeps those that came back and attaches the new ones. Those in later are better left alone for
// now: their owner may be about to come back to them.
func (o *Owner) settleIn(ctx context.Context, g *group.Generation) (later []int, err error) {
	if err := o.forgetting.take(ctx); err != nil {
		return nil, err
	}
	defer o.forgetting.give()
	var fresh []int
	var gone []int32
	given := g.Shards()
	for _, s := range o.all() {
		keep := slices.Contains(given, int(s.id))
		if keep {
			fenced, err := s.fenced(ctx, o.deps.Kafka, o.cfg.MACKey, o.cfg.Topics.Outcomes())
			if err != nil {
				return nil, err
			}
			keep = !fenced
		}
		if !keep {
			gone = append(gone, s.id)
		}
	}
	o.forgetShards(gone)
	// Only now may records be written again: what was decided about the shards that are gone is not, under whatever epoch (H5).
	o.mu.Lock()
	o.gen, o.life = g, ctx
	o.mu.Unlock()
	for _, id := range given {
		if o.shard(int32(id)) == nil {
			fresh = append(fresh, id)
		}
	}
	return o.attach(ctx, g, fresh, time.Now().Before(o.patience))
}

// attach takes shards: commits, ends, fence, history, then the engine. A patient owner leaves those that were not handed over for later.
func (o *Owner) attach(ctx context.Context, g *group.Generation, ids []int, patient bool) (later []int, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	positions, ends, err := o.positions(ctx, g, ids)
	if err != nil {
		return nil, err
	}
	if patient {
		handed := func(id int) bool { return positions[partition{o.cfg.Topics.Outcomes(), id}].Meta.Drained }
		later = slices.DeleteFunc(slices.Clone(ids), handed)
		ids = slices.DeleteFunc(slices.Clone(ids), func(id int) bool { return !handed(id) })
	}
	attached := make([]*owned, len(ids))
	inherited := 0
	for first := 0; first < len(ids); first += attachTogether { // what one lot remembers is the engine's before the next is read
		lot := ids[first:min(first+attachTogether, len(ids))]
		var work errgroup.Group
		for i, id := range lot {
			work.Go(func() (err error) {
				attached[first+i], err = o.take(ctx, g, id, min(maxRememberedOf, maxRemembered/int64(len(ids))), positions, ends)
				return err
			})
		}
		if err := work.Wait(); err != nil {
			o.deps.Engine.Do(func(_ time.Time, e *core.Engine) {
				for _, s := range attached[:first] {
					e.Detach(s.id)
				}
			})
			return nil, err
		}
		for _, s := range attached[first : first+len(lot)] {
			inherited += len(s.inherited)
			o.tellEngine(s)
		}
	}
	o.mu.Lock()
	for _, s := range attached {
		o.shards[s.id] = s
	}
	o.mu.Unlock()
	o.deps.Log.Info("shards taken", "shards", ids, "generation", g.ID(), "leases_inherited", inherited)
	return later, nil
}

// tellEngine attaches a shard to the engine. What it remembers is told in parts, because the engine's lock is short of time.
func (o *Owner) tellEngine(s *owned) {
	o.deps.Engine.Do(func(now time.Time, e *core.Engine) {
		e.Attach(now, s.id, s.epoch)
		for _, h := range s.inherited {
			e.Expect(now, h)
		}
		for number, w := range s.spill {
			if owner, taken := s.lanes.Owner(number); taken {
				e.Lane(now, core.LaneState{Shard: s.id, Source: owner.Source, Type: owner.Type, BacklogJobs: w.end - w.tracker.Next()})
			}
		}
	})
	for part := range slices.Chunk(s.recent, rememberTogether) {
		o.deps.Engine.Do(func(now time.Time, e *core.Engine) {
			for _, r := range part {
				e.Remember(now, s.id, r.source, r.id, r.digest, time.Unix(0, r.at))
			}
		})
	}
	s.recent, s.recentBelow, s.inherited = nil, 0, nil
}

type partition struct {
	topic  string
	number int
}

// positions reads the commits and the ends of all partitions of the shards.
func (o *Owner) positions(ctx context.Context, g *group.Generation, ids []int) (map[partition]offsets.Position, map[partition]kafka.Range, error) {
	topics := []string{o.cfg.Topics.Outcomes(), o.cfg.Topics.Spill()}
	for p := range core.Priorities {
		topics = append(topics, o.cfg.Topics.Jobs(core.Priority(p).String()))
	}
	positions, ranges := make(map[partition]offsets.Position), make(map[partition]kafka.Range)
	for _, topic := range topics {
		var numbers []int
		for _, id := range ids {
			numbers = append(numbers, g.Partitions(topic, id)...)
		}
		committed, err := g.Committed(ctx, topic, numbers)
		if err != nil {
			return nil, nil, err
		}
		ends, err := o.deps.Kafka.Ends(ctx, topic, numbers)
		if err != nil {
			return nil, nil, err
		}
		for number, position := range committed {
			r := ends[number]
			if position.Offset < r.First || position.Offset > r.Next {
				// Trimmed below us, or a log that lost its end or was made anew: read all that is there, never skip (C.2.7, H26).
				o.deps.Log.Error("a committed offset is outside of its log: reading the log from its start", "topic", topic,
					"partition", number, "committed", position.Offset, "first", r.First, "next", r.Next)
				position.Offset, position.Meta.Done = r.First, nil
			}
			positions[partition{topic, number}], ranges[partition{topic, number}] = position, r
		}
	}
	return positions, ranges, nil
}

// take fences one shard and reads its history, with so many settled jobs to remember at most beyond what commits need.
func (o *Owner) take(ctx context.Context, g *group.Generation, id int, remember int64, positions map[partition]offsets.Position, ends map[partition]kafka.Range) (*owned, error) {
	topic, now := o.cfg.Topics.Outcomes(), time.Now()
	fence, err := o.append(ctx, id, &logv1.JobEvent{Event: &logv1.JobEvent_Fence{Fence: &logv1.OwnerFence{Replica: o.cfg.Replica, At: timestamppb.New(now)}}})
	if err != nil {
		return nil, fmt.Errorf("fence of shard %d: %w", id, err)
	}
	committed := positions[partition{topic, id}]
	counts, err := offsets.ParseCounts(committed.Meta.Counts)
	if err != nil {
		return nil, fmt.Errorf("commit of %s/%d: %w", topic, id, err)
	}
	s := &owned{
		id: int32(id), shards: o.total, epoch: fence, ours: fence + 1, since: now, laning: newTurn(), lanes: lane.New(len(g.Partitions(o.cfg.Topics.Spill(), id))),
		byJob: make(map[core.JobID][]int64), history: make(map[core.JobID]core.Past),
		events: events{next: committed.Offset, counts: counts},
	}
	if counts.Fence > 0 {
		s.events.fenced(counts.Fence)
	}
	for p := range core.Priorities {
		s.priorities[p] = o.newWindow(s, o.cfg.Topics.Jobs(core.Priority(p).String()), core.Topic(p), id, positions, ends)
	}
	for number, part := range g.Partitions(o.cfg.Topics.Spill(), id) {
		w := o.newWindow(s, o.cfg.Topics.Spill(), core.TopicSpill, part, positions, ends)
		s.spill = append(s.spill, w)
		if meta := w.committed.Meta; meta.Source != "" && !s.lanes.Restore(number, lane.Key{Source: meta.Source, Type: meta.Type}) {
			w.dirty++ // what is in there is read as a stranger's
		}
		w.strays = w.tracker.Next() < w.end
		w.spilled = w.strays
	}
	from, err := o.deps.Kafka.OffsetAt(ctx, topic, id, now.Add(-remembered))
	if err != nil {
		return nil, err
	}
	from = max(min(from, committed.Offset), committed.Offset-remember, ends[partition{topic, id}].First)
	forged, err := s.fold(ctx, o.deps.Kafka, o.cfg.MACKey, topic, from, committed.Offset, counts.Fence, fence)
	if err != nil {
		return nil, err
	}
	s.inherit(committed.Meta.Drained, o.cfg.Topics.Prefix, now)
	if forged > 0 {
		o.deps.Log.Error("events in outcomes that no scheduler of this installation has written were ignored", "shard", id, "events", forged)
	}
	s.events.add(fence, jobv1.Outcome_OUTCOME_UNSPECIFIED)
	s.events.done(fence)
	s.events.fenced(fence)
	return s, nil
}

func (o *Owner) newWindow(s *owned, topic string, kind core.Topic, number int, positions map[partition]offsets.Position, ends map[partition]kafka.Range) *Window {
	position, end := positions[partition{topic, number}], ends[partition{topic, number}].Next
	return &Window{
		Topic: topic, Kind: kind, Partition: number, Shard: s.id, owned: s,
		tracker: offsets.New(position.Offset, position.Meta.Done, offsets.Limit), committed: position,
		inFlight: make(map[int64]reading), room: make(chan struct{}, 1), takeover: end, end: end, trimmed: ends[partition{topic, number}].First,
	}
}

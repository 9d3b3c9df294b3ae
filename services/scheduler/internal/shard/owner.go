package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/produce"
	group "github.com/spillway/spillway/pkg/kafka/shard"
	"github.com/spillway/spillway/pkg/offsets"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/lane"
)

// Quarantine is how long a record that a former owner may have granted waits before it is granted again: the lease's TTL of 20 s,
// what the former owner may have renewed it for after its last heartbeat, and a margin (architecture §6).
const Quarantine = 29 * time.Second

// attachTogether bounds how many shards read their history at the same time.
const attachTogether = 4

// Config is what the owner needs to know of its installation.
type Config struct {
	Topics  kafka.Topics
	Name    string // of the replica, kept over restarts: shards are dealt by it
	Replica string // unique for the life of the process: fences carry it
	MACKey  []byte
}

// Deps are what is around.
type Deps struct {
	Log     *slog.Logger
	Kafka   *kafka.Client
	Records Records
	Engine  Engine
	Inputs  Inputs
	// Idle reports whether no lease of the engine is running, for the final commit.
	Idle func() bool
	// Changed is called when the owned shards or their epochs have changed.
	Changed func()
}

// Owner owns the shards of this replica. New makes one; Run does the work.
type Owner struct {
	cfg  Config
	deps Deps

	total    int // P, from Run on
	commitMu sync.Mutex
	mu       sync.RWMutex
	shards   map[int32]*owned
	gen      *group.Generation // nil: suspended
	open     bool              // all shards of the generation are attached
}

// New returns an owner of nothing.
func New(cfg Config, deps Deps) *Owner {
	return &Owner{cfg: cfg, deps: deps, shards: make(map[int32]*owned)}
}

// Run joins the group and owns what it is given of the installation's shards, until ctx ends.
func (o *Owner) Run(ctx context.Context, shards int) error {
	o.total = shards
	return group.Run(ctx, group.Config{
		Client: o.deps.Kafka, Topics: o.cfg.Topics, Shards: shards, Replica: o.cfg.Name, Log: o.deps.Log,
	}, func(generation context.Context, g *group.Generation) error { return o.own(generation, ctx, g) })
}

// own is one generation: ctx ends with it, service with the service.
func (o *Owner) own(ctx, service context.Context, g *group.Generation) error {
	o.mu.Lock()
	o.gen = g
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		o.gen, o.open = nil, false
		o.mu.Unlock()
	}()
	if err := o.settleIn(ctx, g); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	// A commit that says drained must not outlive the first grant: whoever takes over from us would grant again what is running.
	if err := o.commitAll(ctx, false); err != nil {
		if ctx.Err() != nil || errors.Is(err, kafka.ErrFenced) {
			return nil
		}
		return err
	}
	o.mu.Lock()
	o.open = true
	o.mu.Unlock()
	o.deps.Changed()

	inputs, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	failed := make(chan error, 1)
	start := func(read func(context.Context, *Window) error, w *Window) {
		running.Go(func() {
			if err := read(inputs, w); err != nil && inputs.Err() == nil {
				select {
				case failed <- fmt.Errorf("reading %s/%d: %w", w.Topic, w.Partition, err):
				default:
				}
			}
		})
	}
	for _, s := range o.all() {
		for _, w := range s.priorities {
			start(o.deps.Inputs.ReadPriority, w)
		}
		for _, w := range s.spill {
			start(o.deps.Inputs.ReadLane, w)
		}
	}
	running.Go(func() { o.keepCommitted(inputs) })
	running.Go(func() { o.watchLanes(inputs) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	o.mu.Lock()
	o.open = false // nothing is granted from here on
	o.mu.Unlock()
	stop()
	running.Wait()
	final, cancel := context.WithTimeout(context.WithoutCancel(ctx), group.DrainTime/2)
	defer cancel()
	drained := service.Err() != nil && o.deps.Idle()
	if cerr := o.commitAll(final, drained); cerr != nil && !errors.Is(cerr, kafka.ErrFenced) {
		o.deps.Log.Warn("final commit failed: what was done since the last one may run again", "error", cerr)
	}
	return err
}

// settleIn lets go of shards that went to others, resumes those that came back and attaches the new ones.
func (o *Owner) settleIn(ctx context.Context, g *group.Generation) error {
	var fresh []int
	given := g.Shards()
	for _, s := range o.all() {
		keep := slices.Contains(given, int(s.id))
		if keep {
			fenced, err := s.foreign(ctx, o.deps.Kafka, o.cfg.Topics.Outcomes(), o.cfg.Replica)
			if err != nil {
				return err
			}
			keep = !fenced
		}
		if !keep {
			o.mu.Lock()
			delete(o.shards, s.id)
			o.mu.Unlock()
			o.deps.Engine.Do(func(_ time.Time, e *core.Engine) { e.Detach(s.id) })
		}
	}
	for _, id := range given {
		if o.shard(int32(id)) == nil {
			fresh = append(fresh, id)
		}
	}
	return o.attach(ctx, g, fresh)
}

// attach takes shards: fence, commits, ends, history, then the engine.
func (o *Owner) attach(ctx context.Context, g *group.Generation, ids []int) error {
	if len(ids) == 0 {
		return nil
	}
	positions, ends, err := o.positions(ctx, g, ids)
	if err != nil {
		return err
	}
	attached := make([]*owned, len(ids))
	var work errgroup.Group
	work.SetLimit(attachTogether)
	for i, id := range ids {
		work.Go(func() (err error) {
			attached[i], err = o.take(ctx, g, id, positions, ends)
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	o.deps.Engine.Do(func(now time.Time, e *core.Engine) {
		for _, s := range attached {
			e.Attach(now, s.id, s.epoch)
			for _, o := range s.recent {
				e.Remember(now, s.id, o.source, o.id, o.digest, o.at)
			}
			s.recent = nil
			for number, w := range s.spill {
				if owner, taken := s.lanes.Owner(number); taken {
					e.Lane(now, core.LaneState{Shard: s.id, Source: owner.Source, Type: owner.Type, BacklogJobs: w.end - w.tracker.Next()})
				}
			}
		}
	})
	o.mu.Lock()
	for _, s := range attached {
		o.shards[s.id] = s
	}
	o.mu.Unlock()
	o.deps.Log.Info("shards taken", "shards", ids, "generation", g.ID())
	return nil
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

// take fences one shard and reads its history.
func (o *Owner) take(ctx context.Context, g *group.Generation, id int, positions map[partition]offsets.Position, ends map[partition]kafka.Range) (*owned, error) {
	topic, now := o.cfg.Topics.Outcomes(), time.Now()
	value, err := proto.Marshal(&logv1.JobEvent{Event: &logv1.JobEvent_Fence{Fence: &logv1.OwnerFence{Replica: o.cfg.Replica, At: timestamppb.New(now)}}})
	if err != nil {
		return nil, err
	}
	fence, err := o.deps.Records.Produce(ctx, produce.Record{Topic: topic, Partition: id, Value: value, Headers: []kafka.Header{
		{Key: envelope.HeaderVersion, Value: []byte(envelope.Version)},
		{Key: envelope.HeaderMAC, Value: envelope.MAC(o.cfg.MACKey, topic, value, nil)},
	}})
	if err != nil {
		return nil, fmt.Errorf("fence of shard %d: %w", id, err)
	}
	committed := positions[partition{topic, id}]
	counts, err := ParseCounts(committed.Meta.Counts)
	if err != nil {
		return nil, err
	}
	s := &owned{
		id: int32(id), shards: o.total, epoch: fence, since: now, lanes: lane.New(len(g.Partitions(o.cfg.Topics.Spill(), id))),
		byJob: make(map[core.JobID][]int64), history: make(map[core.JobID]core.Past),
		events: events{next: committed.Offset, counts: counts},
	}
	if !committed.Meta.Drained {
		s.quarantine = now.Add(Quarantine)
	}
	for p := range core.Priorities {
		s.priorities[p] = o.newWindow(s, o.cfg.Topics.Jobs(core.Priority(p).String()), core.Topic(p), id, positions, ends)
	}
	for number, part := range g.Partitions(o.cfg.Topics.Spill(), id) {
		w := o.newWindow(s, o.cfg.Topics.Spill(), core.TopicSpill, part, positions, ends)
		s.spill = append(s.spill, w)
		if meta := w.committed.Meta; meta.Source != "" && !s.lanes.Restore(number, lane.Key{Source: meta.Source, Type: meta.Type}) {
			w.dirty = true // what is in there is read as a stranger's
		}
		w.strays = w.tracker.Next() < w.end
	}
	from, err := o.deps.Kafka.OffsetAt(ctx, topic, id, now.Add(-remembered))
	if err != nil {
		return nil, err
	}
	from = max(min(from, committed.Offset), committed.Offset-maxRemembered, ends[partition{topic, id}].First)
	forged, err := s.fold(ctx, o.deps.Kafka, o.cfg.MACKey, topic, from, committed.Offset, fence)
	if err != nil {
		return nil, err
	}
	if forged > 0 {
		o.deps.Log.Error("events in outcomes that no scheduler of this installation has written were ignored", "shard", id, "events", forged)
	}
	s.events.add(fence, jobv1.Outcome_OUTCOME_UNSPECIFIED)
	s.events.done(fence)
	return s, nil
}

func (o *Owner) newWindow(s *owned, topic string, kind core.Topic, number int, positions map[partition]offsets.Position, ends map[partition]kafka.Range) *Window {
	position, end := positions[partition{topic, number}], ends[partition{topic, number}].Next
	return &Window{
		Topic: topic, Kind: kind, Partition: number, Shard: s.id, owned: s,
		tracker: offsets.New(position.Offset, position.Meta.Done, offsets.Limit), committed: position,
		inFlight: make(map[int64]reading), room: make(chan struct{}, 1), takeover: end, end: end,
	}
}

// Open reports whether jobs may be granted as far as ownership goes: every shard is attached and the broker has confirmed the
// generation within the last 3 s (H5).
func (o *Owner) Open(now time.Time) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.open && o.gen.Alive(now)
}

// MayProduce is nil while records may be written under this replica's epochs; the log's client asks before each request.
func (o *Owner) MayProduce() error {
	if g := o.current(); g == nil || !g.Alive(time.Now()) {
		return errNoGeneration
	}
	return nil
}

// Joined reports whether the replica is in a generation, be it one without shards.
func (o *Owner) Joined() bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.open
}

// Shards returns the owned shards and their epochs, ascending.
func (o *Owner) Shards() (ids []int32, epochs []int64) {
	for _, s := range o.all() {
		ids, epochs = append(ids, s.id), append(epochs, s.epoch)
	}
	return ids, epochs
}

// Epoch returns the epoch under which this replica owns the shard. See settle.Homes.
func (o *Owner) Epoch(shard int32) (int64, bool) {
	if s := o.shard(shard); s != nil {
		return s.epoch, true
	}
	return 0, false
}

// Event takes an event that is durable. See settle.Homes.
func (o *Owner) Event(shard int32, id core.JobID, offset int64, outcome jobv1.Outcome) {
	if s := o.shard(shard); s != nil {
		s.event(id, offset, outcome)
	}
}

// Complete takes a record that is done with. See settle.Homes.
func (o *Owner) Complete(shard int32, id core.JobID, home core.Home) {
	if s := o.shard(shard); s != nil {
		s.complete(id, home)
	}
}

func (o *Owner) current() *group.Generation {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.gen
}

func (o *Owner) shard(id int32) *owned {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.shards[id]
}

// all returns the owned shards by number.
func (o *Owner) all() []*owned {
	o.mu.RLock()
	defer o.mu.RUnlock()
	list := make([]*owned, 0, len(o.shards))
	for _, s := range o.shards {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *owned) int { return int(a.id - b.id) })
	return list
}

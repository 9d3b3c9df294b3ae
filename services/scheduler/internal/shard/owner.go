package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	group "github.com/spillway/spillway/pkg/kafka/shard"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// Quarantine is how long a record that a former owner may have granted waits before it is granted again: the lease's TTL of 20 s,
// what the former owner may have renewed it for after its last heartbeat, and a margin (architecture §6).
const Quarantine = 29 * time.Second

// Suspended is how long a replica without a generation keeps its shards after its last heartbeat, and renews their leases: longer than a broker's
// failover (H34). Quarantine is as long as it is because of it.
const Suspended = 15 * time.Second

// Config is what the owner needs to know of its installation.
type Config struct {
	Topics  kafka.Topics
	Name    string // of the replica, kept over restarts: shards are dealt by it
	Replica string // unique for the life of the process: fences carry it
	MACKey  []byte
	// TrimEvery is how often the space below the commits is given back, at least 1 s; 0 is 1 min.
	TrimEvery time.Duration
}

// Deps are what is around.
type Deps struct {
	Log     *slog.Logger
	Kafka   *kafka.Client
	Records Records
	Engine  Engine
	Inputs  Inputs
	// Idle reports whether nothing of a shard is running, for the final commit.
	Idle func(shard int32) bool
	// Changed is called when the owned shards or their epochs have changed.
	Changed func()
}

// Owner owns the shards of this replica. New makes one; Run does the work.
type Owner struct {
	cfg  Config
	deps Deps

	total int // P, from Run on
	// commits is whose turn it is to commit: what a commit releases is released in the order of the commits.
	commits turn
	// forgetting is held by whoever attaches or detaches shards.
	forgetting turn

	mu     sync.RWMutex
	shards map[int32]*owned
	gen    *group.Generation // nil: suspended
	life   context.Context   // of gen
	open   bool              // all shards of the generation are attached
}

// New returns an owner of nothing.
func New(cfg Config, deps Deps) *Owner {
	if cfg.TrimEvery <= 0 {
		cfg.TrimEvery = time.Minute
	}
	return &Owner{cfg: cfg, deps: deps, commits: newTurn(), forgetting: newTurn(), shards: make(map[int32]*owned)}
}

// Run joins the group and owns what it is given of the installation's shards, until ctx ends.
func (o *Owner) Run(ctx context.Context, shards int) error {
	o.total = shards
	var suspension *time.Timer // runs from the end of a generation to the beginning of the next
	var alive time.Time        // the last heartbeat that the broker confirmed
	err := group.Run(ctx, group.Config{
		Client: o.deps.Kafka, Topics: o.cfg.Topics, Shards: shards, Replica: o.cfg.Name, Log: o.deps.Log,
	}, func(generation context.Context, g *group.Generation) error {
		if suspension != nil {
			suspension.Stop()
		}
		err := o.own(generation, ctx, g)
		if g.Heartbeat().After(alive) {
			alive = g.Heartbeat()
		}
		suspension = time.AfterFunc(time.Until(alive.Add(Suspended)), func() { o.abandon(ctx) })
		return err
	})
	if suspension != nil {
		suspension.Stop()
	}
	return err
}

// abandon ends a suspension: the shards are forgotten, so that nobody renews leases that the next owner is about to grant again. Workers keep
// their results and announce what they run to that owner, be it this replica.
func (o *Owner) abandon(ctx context.Context) {
	if o.forgetting.take(ctx) != nil {
		return
	}
	defer o.forgetting.give()
	if o.current() != nil || ctx.Err() != nil {
		return // there is a generation again, or everything ends
	}
	if ids, _ := o.Shards(); len(ids) > 0 {
		o.deps.Log.Warn("suspended for too long: the shards are forgotten until the group gives them back", "shards", ids)
		o.forgetShards(ids)
	}
}

// forgetShards detaches shards, after workers were told: what they report from then on is not refused, they keep it for the next owner.
func (o *Owner) forgetShards(ids []int32) {
	if len(ids) == 0 {
		return
	}
	o.mu.Lock()
	for _, id := range ids {
		delete(o.shards, id)
	}
	o.mu.Unlock()
	o.deps.Changed()
	o.deps.Engine.Do(func(_ time.Time, e *core.Engine) {
		for _, id := range ids {
			e.Detach(id)
		}
	})
}

// own is one generation: ctx ends with it, service with the service.
func (o *Owner) own(ctx, service context.Context, g *group.Generation) error {
	defer func() {
		o.mu.Lock()
		o.gen, o.life, o.open = nil, nil, false
		o.mu.Unlock()
	}()
	if err := o.settleIn(ctx, g); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	// A commit that says drained must not outlive the first grant: whoever takes over from us would grant again what is running.
	if err := o.commitAll(ctx, nil); err != nil {
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
	var drained func(*owned) bool
	if service.Err() != nil {
		now := time.Now()
		drained = func(s *owned) bool { return !s.quarantined(now) && o.deps.Idle(s.id) }
	}
	if cerr := o.commitAll(final, drained); cerr != nil && !errors.Is(cerr, kafka.ErrFenced) {
		o.deps.Log.Warn("final commit failed: what was done since the last one may run again", "error", cerr)
	}
	return err
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

// under returns the shard if it is owned under the epoch, else nil.
func (o *Owner) under(id int32, epoch int64) *owned {
	if s := o.shard(id); s != nil && s.epoch == epoch {
		return s
	}
	return nil
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

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

// Quarantine is how long a record that a former owner may have granted waits before it is granted again: what the former owner may have renewed
// leases for after its last heartbeat, and their TTL of 20 s. A takeover may follow that heartbeat at once, when others join or the coordinator
// has lost its memory of the group: so the time that a session lasts is not counted on (docs/adr/0006-suspension-and-quarantine.md).
const Quarantine = 29 * time.Second

// Suspended is how long after its last heartbeat a replica renews leases: with the 16 s of a handler's context, and a renewal every 5 s, no running
// job is cancelled by a broker that is back within 20 s (H34). Its shards it keeps for as long as nobody else has fenced them.
const Suspended = 9 * time.Second

// rejoin is how long a replica that has lost the coordinator leaves shards alone that others had, when it comes back: they have lost it, too, and
// come back to their shards, if they can, within the group's RebalanceTimeout and a pause between two attempts to join.
const rejoin = group.RebalanceTimeout + time.Second

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
	// HandOver ends, in one step, all that is done here for the shards' leases, and names those that are left. See dispatch.Loop.
	HandOver func(shards []int32) map[int32][]core.Held
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
	open   bool              // the shards of the generation are attached
	alive  time.Time         // the last heartbeat that the broker confirmed, before gen

	patience time.Time // until then shards that others may come back to are left alone. Only Run's goroutine uses it.
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
	lost := false // the generation before did not end in order
	return group.Run(ctx, group.Config{
		Client: o.deps.Kafka, Topics: o.cfg.Topics, Shards: shards, Replica: o.cfg.Name, Log: o.deps.Log,
	}, func(generation context.Context, g *group.Generation) error {
		if lost {
			o.patience = time.Now().Add(rejoin)
		}
		err := o.own(generation, ctx, g)
		cause := context.Cause(generation)
		lost = cause != nil && ctx.Err() == nil && !errors.Is(cause, group.ErrRebalance)
		return err
	})
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
		if t := g.Heartbeat(); t.After(o.alive) {
			o.alive = t
		}
		o.gen, o.life, o.open = nil, nil, false
		o.mu.Unlock()
	}()
	later, err := o.settleIn(ctx, g)
	if err == nil {
		err = o.begin(ctx)
	}
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, kafka.ErrFenced) {
			return nil
		}
		return err
	}
	o.mu.Lock()
	o.open = true
	o.mu.Unlock()
	err = o.work(ctx, g, later)
	o.mu.Lock()
	o.open = false // nothing is granted from here on
	o.mu.Unlock()
	// While members come and go commits are still accepted; when the coordinator is lost or has fenced us they are not. In a generation that goes on
	// nothing would fence a drained commit that is late, so that it could come after the one that takes it back.
	if cause := context.Cause(ctx); service.Err() != nil || errors.Is(cause, group.ErrRebalance) || cause == nil && !group.MayPass(err) {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), group.DrainTime)
		o.giveUp(last)
		cancel()
	}
	if service.Err() != nil {
		ids, _ := o.Shards()
		o.forgetShards(ids) // or leases would be renewed after the group was left
	}
	return err
}

// begin takes commits back that say drained, and then goes on with what was handed over and came back: such a commit must not outlive the first
// grant, or whoever takes over from us would grant again what is running.
func (o *Owner) begin(ctx context.Context) error {
	if err := o.commitAll(ctx, nil); err != nil {
		return err
	}
	o.resume()
	o.deps.Changed()
	return nil
}

// work runs the inputs of all shards, commits, and takes the shards that were left for later, until ctx ends or an input fails.
func (o *Owner) work(ctx context.Context, g *group.Generation, later []int) error {
	inputs, stop := context.WithCancel(ctx)
	defer stop()
	var running sync.WaitGroup
	failed := make(chan error, 1)
	fail := func(err error) {
		if inputs.Err() != nil {
			return
		}
		select {
		case failed <- err:
		default:
		}
	}
	start := func(read func(context.Context, *Window) error, w *Window) {
		running.Go(func() {
			if err := read(inputs, w); err != nil {
				fail(fmt.Errorf("reading %s/%d: %w", w.Topic, w.Partition, err))
			}
		})
	}
	startAll := func(shards []*owned) {
		for _, s := range shards {
			for _, w := range s.priorities {
				start(o.deps.Inputs.ReadPriority, w)
			}
			for _, w := range s.spill {
				start(o.deps.Inputs.ReadLane, w)
			}
		}
	}
	startAll(o.all())
	running.Go(func() { o.keepCommitted(inputs) })
	running.Go(func() {
		if err := o.keepApart(inputs); err != nil {
			fail(err)
		}
	})
	running.Go(func() { o.watchLanes(inputs) })
	if len(later) > 0 {
		o.deps.Log.Info("shards of replicas that may come back are left alone for a while", "shards", later, "until", o.patience)
		running.Go(func() {
			select {
			case <-inputs.Done():
				return
			case <-time.After(time.Until(o.patience)):
			}
			had := o.all()
			if err := o.takeLater(inputs, g, later); err != nil {
				fail(err)
				return
			}
			startAll(slices.DeleteFunc(o.all(), func(s *owned) bool { return slices.Contains(had, s) }))
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	stop()
	running.Wait()
	return err
}

// takeLater takes shards whose owners have not come back.
func (o *Owner) takeLater(ctx context.Context, g *group.Generation, ids []int) error {
	if err := o.forgetting.take(ctx); err != nil {
		return err
	}
	defer o.forgetting.give()
	if _, err := o.attach(ctx, g, ids, false); err != nil {
		return err
	}
	return o.begin(ctx)
}

// Open reports whether jobs may be granted as far as ownership goes: every shard is attached and the broker has confirmed the
// generation within the last 3 s (H5).
func (o *Owner) Open(now time.Time) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	return o.open && o.gen.Alive(now)
}

// Renews reports whether leases may be renewed: the broker has confirmed a heartbeat within Suspended, be it of a generation that is over. It
// goes by the clock and not by a timer: a process that was stopped finds out before it renews anything.
func (o *Owner) Renews(now time.Time) bool {
	o.mu.RLock()
	defer o.mu.RUnlock()
	alive := o.alive
	if o.gen != nil && o.gen.Heartbeat().After(alive) {
		alive = o.gen.Heartbeat()
	}
	return now.Sub(alive) <= Suspended
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

// Epochs returns the shards whose leases this replica renews and settles, with their epochs: those that are owned and not handed over.
func (o *Owner) Epochs() map[int32]int64 {
	epochs := make(map[int32]int64)
	for _, s := range o.all() {
		s.mu.Lock()
		if !s.handover.over {
			epochs[s.id] = s.epoch
		}
		s.mu.Unlock()
	}
	return epochs
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

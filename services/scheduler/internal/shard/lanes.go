package shard

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/lane"
)

const (
	// lookEvery is how often the ends of taken lanes are asked for: enqueue writes to them without telling us.
	lookEvery = 100 * time.Millisecond
	// lookAtAll is in how many of those rounds all lanes are looked at: a freed lane may still be written to by a replica of enqueue
	// with an old mark (H36).
	lookAtAll = 20
)

// errNotOwned: the shard went to another replica meanwhile.
var errNotOwned = errors.New("shard: not owned any more")

// Lane returns the partition of spill that a (source, type) writes to, and counts one copy as coming until Landed. See settle.Homes.
func (o *Owner) Lane(ctx context.Context, shard int32, epoch int64, source, typ string) (int32, error) {
	s := o.under(shard, epoch)
	if s == nil {
		return 0, errNotOwned
	}
	owner := lane.Key{Source: source, Type: typ}
	s.mu.Lock()
	if number, has := s.lanes.Of(owner); has && s.spill[number].names(owner) {
		number, _ = s.lanes.Take(owner) // it is in use again
		s.spill[number].coming++
		s.mu.Unlock()
		return int32(s.spill[number].Partition), nil
	}
	s.mu.Unlock()

	ctx, cancel := o.within(ctx)
	defer cancel()
	if err := s.laning.take(ctx); err != nil {
		return 0, err
	}
	defer s.laning.give()
	s.mu.Lock()
	number, fresh := s.lanes.Take(owner)
	w := s.spill[number]
	if fresh {
		w.dirty++
	}
	s.mu.Unlock()
	if fresh {
		if err := o.commit(ctx, []*Window{w}); err != nil {
			s.mu.Lock()
			s.lanes.Free(number)
			w.dirty++
			s.mu.Unlock()
			return 0, err
		}
		o.deps.Log.Info("lane taken", "source", source, "type", typ, "lane", w.Partition)
	}
	s.mu.Lock()
	w.coming++
	w.spilled = true
	s.mu.Unlock()
	return int32(w.Partition), nil
}

// within ends with the generation too: what waits for a commit under it waits in vain.
func (o *Owner) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	o.mu.RLock()
	life := o.life
	o.mu.RUnlock()
	if life == nil {
		cancel(errNoGeneration)
		return ctx, func() {}
	}
	stop := context.AfterFunc(life, func() { cancel(errNoGeneration) })
	return ctx, func() { stop(); cancel(nil) }
}

// Landed says that a copy is in its lane at offset, or will not come: -1. One that was counted under another epoch is not counted any more.
func (o *Owner) Landed(shard int32, epoch int64, partition int32, offset int64) {
	s := o.under(shard, epoch)
	if s == nil {
		return
	}
	w := s.window(core.Home{Topic: core.TopicSpill, Partition: partition})
	s.mu.Lock()
	defer s.mu.Unlock()
	w.coming--
	w.end = max(w.end, offset+1)
}

// LaneOf returns the partition of the lane that a (source, type) has.
func (o *Owner) LaneOf(shard int32, source, typ string) (partition int32, has bool) {
	s := o.shard(shard)
	if s == nil {
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	number, has := s.lanes.Of(lane.Key{Source: source, Type: typ})
	if !has {
		return 0, false
	}
	return int32(s.spill[number].Partition), true
}

// Exhausted reports whether no lane of the shard is free: what finds none is in the common lane.
func (o *Owner) Exhausted(shard int32) bool {
	s := o.shard(shard)
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, free := s.lanes.Count()
	return free == 0
}

// watchLanes keeps the engine informed of what lanes hold, until ctx ends.
func (o *Owner) watchLanes(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for round := 0; ; round++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var looked []*Window
		for _, s := range o.all() {
			s.mu.Lock()
			for number, w := range s.spill {
				if _, taken := s.lanes.Owner(number); taken || w.strays || round%lookAtAll == 0 {
					looked = append(looked, w)
				}
			}
			s.mu.Unlock()
		}
		if len(looked) == 0 {
			continue
		}
		partitions := make([]int, len(looked))
		for i, w := range looked {
			partitions[i] = w.Partition
		}
		call, cancel := context.WithTimeout(ctx, time.Second)
		ends, err := o.deps.Kafka.Ends(call, o.cfg.Topics.Spill(), partitions)
		cancel()
		if err != nil {
			continue // the next round asks again; commits report a broker that is away
		}
		o.look(ctx, looked, ends)
	}
}

// look takes the ends of lanes and tells the engine.
func (o *Owner) look(ctx context.Context, looked []*Window, ends map[int]kafka.Range) {
	now := time.Now()
	var states []core.LaneState
	var drained []lane.Key
	var common []*owned // whose common lane has been drained
	for _, w := range looked {
		s := w.owned
		s.mu.Lock()
		w.end = max(w.end, ends[w.Partition].Next)
		unread := w.end - w.tracker.Next()
		owner, taken := s.lanes.Owner(w.number())
		w.strays = !taken && unread > 0
		linger := s.lanes.Drained(now, w.number(), w.tracker.Low() >= w.end && unread == 0 && w.coming == 0)
		if taken {
			states = append(states, core.LaneState{Shard: s.id, Source: owner.Source, Type: owner.Type,
				BacklogJobs: unread, BacklogBytes: unread * int64(w.recordBytes())})
			if unread == 0 && w.coming == 0 {
				drained = append(drained, owner)
			}
		}
		if w.Common() && w.spilled && unread == 0 && w.coming == 0 {
			w.spilled = false
			common = append(common, s)
		}
		s.mu.Unlock()
		if linger {
			o.free(ctx, w)
		}
	}
	drained = append(drained, o.homeless(common)...)
	o.deps.Engine.Do(func(now time.Time, e *core.Engine) {
		for _, state := range states {
			e.Lane(now, state)
		}
		for _, owner := range drained {
			e.LaneDrained(now, owner.Source, owner.Type)
		}
	})
}

// homeless lists what spills and has no lane of its own, in shards whose common lane has been drained: nothing of it waits anywhere any more.
func (o *Owner) homeless(common []*owned) (list []lane.Key) {
	if len(common) == 0 {
		return nil
	}
	var marks []core.Mark
	o.deps.Engine.Do(func(_ time.Time, e *core.Engine) { marks = e.Spilling() })
	for _, m := range marks {
		if slices.ContainsFunc(common, func(s *owned) bool { return s.id == m.Shard }) {
			if _, has := o.LaneOf(m.Shard, m.Source, m.Type); !has {
				list = append(list, lane.Key{Source: m.Source, Type: m.Type})
			}
		}
	}
	return list
}

// free gives a lane back: its commit says so before another can take it.
func (o *Owner) free(ctx context.Context, w *Window) {
	s := w.owned
	if s.laning.take(ctx) != nil {
		return
	}
	defer s.laning.give()
	s.mu.Lock()
	owner, taken := s.lanes.Owner(w.number())
	if !taken || w.coming > 0 {
		s.mu.Unlock()
		return
	}
	s.lanes.Free(w.number())
	w.dirty++
	s.mu.Unlock()
	if err := o.commit(ctx, []*Window{w}); err != nil {
		s.mu.Lock()
		s.lanes.Restore(w.number(), owner)
		s.mu.Unlock()
		return
	}
	o.deps.Log.Info("lane freed", "source", owner.Source, "type", owner.Type, "lane", w.Partition)
}

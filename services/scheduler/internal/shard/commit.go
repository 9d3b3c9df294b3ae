package shard

import (
	"context"
	"errors"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/offsets"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

const (
	// commitEvery bounds how much runs twice after a crash, and costs one request.
	commitEvery = 200 * time.Millisecond
	// trimEvery is how often records below the commits are deleted. It is repeated because deleting is only a checkpoint (K2).
	trimEvery = time.Minute
	// pinsEvery is how often windows are searched for what holds them up.
	pinsEvery = time.Second
)

// errNoGeneration: the group has given this replica nothing to commit under.
var errNoGeneration = errors.New("shard: no generation")

// keepCommitted commits, trims and looks for pinned windows until ctx ends.
func (o *Owner) keepCommitted(ctx context.Context) {
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	var pinned, trimmed time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if err := o.commitAll(ctx, nil); err != nil && ctx.Err() == nil {
				o.deps.Log.Warn("commit failed and will be repeated", "error", err)
				continue
			}
			if now.Sub(pinned) >= pinsEvery {
				pinned = now
				o.lookForPins(now)
			}
			if trimmed.IsZero() {
				trimmed = now
			} else if now.Sub(trimmed) >= trimEvery {
				trimmed = now
				o.trim(ctx)
			}
		}
	}
}

// commitAll commits every window that has changed, and the positions in outcomes. drained says whether nothing of a shard can be running; nil: it
// can.
func (o *Owner) commitAll(ctx context.Context, drained func(*owned) bool) error {
	shards := o.all()
	var windows []*Window
	for _, s := range shards {
		windows = append(windows, s.windows()...)
	}
	if err := o.commit(ctx, windows); err != nil {
		return err
	}
	if err := o.commits.take(ctx); err != nil {
		return err
	}
	defer o.commits.give()
	g := o.current()
	if g == nil {
		return errNoGeneration
	}
	var commits []kafka.Commit
	for _, s := range shards {
		s.mu.Lock()
		low, counts := s.events.low(), s.events.account().String()
		s.mu.Unlock()
		text, err := offsets.Metadata{Drained: drained != nil && drained(s), Counts: counts}.Encode()
		if err != nil {
			return err
		}
		if c := (kafka.Commit{Topic: o.cfg.Topics.Outcomes(), Partition: int(s.id), Offset: low, Metadata: text}); c != s.outcomes {
			commits = append(commits, c)
		}
	}
	if len(commits) == 0 {
		return nil
	}
	if err := g.Commit(ctx, commits); err != nil {
		return err
	}
	for _, c := range commits {
		if s := o.shard(int32(c.Partition)); s != nil {
			s.outcomes = c
		}
	}
	return nil
}

// commit commits those of the windows that have changed.
func (o *Owner) commit(ctx context.Context, windows []*Window) error {
	if err := o.commits.take(ctx); err != nil {
		return err
	}
	defer o.commits.give()
	g := o.current()
	if g == nil {
		return errNoGeneration
	}
	var commits []kafka.Commit
	var stand []func()
	for _, w := range windows {
		w.owned.mu.Lock()
		if commit, stands, needed := w.commit(); needed {
			commits = append(commits, commit)
			stand = append(stand, func() {
				w.owned.mu.Lock()
				stands()
				w.owned.mu.Unlock()
			})
		}
		w.owned.mu.Unlock()
	}
	if len(commits) == 0 {
		return nil
	}
	if err := g.Commit(ctx, commits); err != nil {
		return err
	}
	for _, stands := range stand {
		stands()
	}
	return nil
}

// lookForPins tells the engine which jobs hold up windows, and lets go of history that nobody needs.
func (o *Owner) lookForPins(now time.Time) {
	var ids []core.JobID
	for _, s := range o.all() {
		s.mu.Lock()
		for _, w := range s.windows() {
			if w.Kind != core.TopicSpill {
				ids = append(ids, w.old(now)...)
			}
		}
		s.forget(now)
		s.mu.Unlock()
	}
	if len(ids) > 0 {
		o.deps.Engine.Do(func(now time.Time, e *core.Engine) { e.Pinned(now, ids) })
	}
}

// trim gives back the space below the commits, never the last record of a partition (K1).
func (o *Owner) trim(ctx context.Context) {
	below := make(map[string]map[int]int64)
	for _, s := range o.all() {
		s.mu.Lock()
		for _, w := range s.windows() {
			if w.committed.Offset > 0 {
				if below[w.Topic] == nil {
					below[w.Topic] = make(map[int]int64)
				}
				below[w.Topic][w.Partition] = w.committed.Offset
			}
		}
		s.mu.Unlock()
	}
	for topic, upTo := range below {
		if err := o.trimTopic(ctx, topic, upTo); err != nil && ctx.Err() == nil {
			o.deps.Log.Warn("trimming failed and will be repeated", "topic", topic, "error", err)
		}
	}
}

func (o *Owner) trimTopic(ctx context.Context, topic string, upTo map[int]int64) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	partitions := make([]int, 0, len(upTo))
	for p := range upTo {
		partitions = append(partitions, p)
	}
	ends, err := o.deps.Kafka.Ends(ctx, topic, partitions)
	if err != nil {
		return err
	}
	for p, r := range ends {
		if upTo[p] = min(upTo[p], r.Next-1); upTo[p] <= r.First {
			delete(upTo, p)
		}
	}
	if len(upTo) == 0 {
		return nil
	}
	return o.deps.Kafka.DeleteRecords(ctx, topic, upTo)
}

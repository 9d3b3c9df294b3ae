package shard

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/offsets"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

const (
	// commitEvery bounds how much runs twice after a crash, and costs one request.
	commitEvery = 200 * time.Millisecond
	// trimBytes is how much of a partition may go before it is trimmed without waiting for its time: a flood would fill the disk of the
	// embedded broker (1 GiB) within a minute.
	trimBytes = 32 << 20
	// trimAgain is how often what was trimmed is trimmed once more: a broker that was killed may bring records back (K2).
	trimAgain = time.Minute
	// trimLook is how often windows are looked at for trimBytes, and the least value of Config.TrimEvery.
	trimLook = time.Second
	// trimWithin bounds one call: a trim that fails is repeated with the next.
	trimWithin = 10 * time.Second
	// pinsEvery is how often windows are searched for what holds them up.
	pinsEvery = time.Second
)

// errNoGeneration: the group has given this replica nothing to commit under.
var errNoGeneration = errors.New("shard: no generation")

// keepCommitted commits, looks for pinned windows, and has the log trimmed, until ctx ends.
func (o *Owner) keepCommitted(ctx context.Context) {
	var trimming sync.WaitGroup // beside the commits: a broker that is away must not hold those up
	trimming.Go(func() { o.keepTrimmed(ctx) })
	defer trimming.Wait()
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	var pinned time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if err := o.commitAll(ctx, nil); err != nil && ctx.Err() == nil {
				o.deps.Log.Warn("commit failed and will be repeated", "error", err)
				continue
			}
			o.lookForCrowds()
			if now.Sub(pinned) >= pinsEvery {
				pinned = now
				o.lookForPins(now)
			}
		}
	}
}

// commitAll commits every window that has changed, and the positions in outcomes. drained says whether the commit at low says that a shard
// was handed over; nil: it was not.
func (o *Owner) commitAll(ctx context.Context, drained func(s *owned, low int64) bool) error {
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
		text, err := offsets.Metadata{Drained: drained != nil && drained(s, low), Counts: counts}.Encode()
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
	err := g.Commit(ctx, commits)
	for _, s := range shards {
		i := slices.IndexFunc(commits, func(c kafka.Commit) bool { return c.Partition == int(s.id) })
		switch {
		case i < 0:
		case err == nil:
			s.outcomes = commits[i]
		default: // it may stand all the same, one that says drained too: so the next time it is committed whatever it says
			s.outcomes = kafka.Commit{}
		}
	}
	return err
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

// lookForCrowds tells the engine which jobs have to be moved so that the commits can hold what is complete above them.
func (o *Owner) lookForCrowds() {
	var ids []core.JobID
	for _, s := range o.all() {
		s.mu.Lock()
		for _, w := range s.windows() {
			crowd := w.crowding()
			if len(crowd) > 0 && !w.crowdTold {
				o.deps.Log.Info("a commit has no room for all that is complete: the oldest jobs are moved to their lanes", "topic", w.Topic,
					"partition", w.Partition, "jobs", len(crowd))
			}
			w.crowdTold = len(crowd) > 0
			ids = append(ids, crowd...)
		}
		s.mu.Unlock()
	}
	if len(ids) > 0 {
		o.deps.Engine.Do(func(now time.Time, e *core.Engine) { e.Crowded(now, ids) })
	}
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
			if w.stuck(now) {
				oldest, _ := w.tracker.Oldest()
				o.deps.Log.Error("a partition is not read any more: its oldest record is neither settled nor moved", "topic", w.Topic,
					"partition", w.Partition, "offset", oldest, "job", envelope.JobID(w.inFlight[oldest].id).String(), "for", stuckFor)
			}
		}
		s.forget(now)
		s.mu.Unlock()
	}
	if len(ids) > 0 {
		o.deps.Engine.Do(func(now time.Time, e *core.Engine) { e.Pinned(now, ids) })
	}
}

// keepTrimmed gives back the space below the commits until ctx ends: of every partition once in Config.TrimEvery, and of one that has
// trimBytes to give back at once.
func (o *Owner) keepTrimmed(ctx context.Context) {
	tick := time.NewTicker(min(trimLook, o.cfg.TrimEvery))
	defer tick.Stop()
	trimmed, again := time.Now(), time.Now()
	for {
		var now time.Time
		select {
		case <-ctx.Done():
			return
		case now = <-tick.C:
		}
		least := int64(trimBytes)
		if now.Sub(trimmed) >= o.cfg.TrimEvery {
			trimmed, least = now, 0
		}
		repeat := now.Sub(again) >= trimAgain
		if repeat {
			again = now
		}
		o.trim(ctx, least, repeat)
	}
}

// trim deletes what lies below the commits, never the last record of a partition (K1), of windows that have more than least bytes to give
// back; repeat: also of those that have given it back before.
func (o *Owner) trim(ctx context.Context, least int64, repeat bool) {
	below, windows := make(map[string]map[int]int64), make(map[string][]*Window)
	for _, s := range o.all() {
		s.mu.Lock()
		for _, w := range s.windows() {
			upTo := w.spare()
			if records := upTo - w.trimmed; upTo <= 0 || !repeat && (records <= 0 || records*int64(w.recordBytes()) < least) {
				continue
			}
			if below[w.Topic] == nil {
				below[w.Topic] = make(map[int]int64)
			}
			below[w.Topic][w.Partition] = upTo
			windows[w.Topic] = append(windows[w.Topic], w)
		}
		s.mu.Unlock()
	}
	for topic, upTo := range below {
		call, cancel := context.WithTimeout(ctx, trimWithin)
		err := o.deps.Kafka.DeleteRecords(call, topic, upTo)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			o.deps.Log.Warn("trimming failed and will be repeated", "topic", topic, "error", err)
			continue
		}
		for _, w := range windows[topic] {
			w.owned.mu.Lock()
			w.trimmed = max(w.trimmed, upTo[w.Partition])
			w.owned.mu.Unlock()
		}
	}
}

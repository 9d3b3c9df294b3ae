package shard

import (
	"context"
	"slices"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/offsets"
	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/lane"
)

// Window is one partition of an owned shard: what was read of it, and what is done. Its methods may be called from any goroutine.
type Window struct {
	Topic     string // with the installation's prefix
	Kind      core.Topic
	Partition int
	Shard     int32
	owned     *owned

	// All below is guarded by owned.mu.
	tracker   *offsets.Tracker
	committed offsets.Position // as last committed
	version   uint64           // of the tracker, at the last commit
	// inFlight is what was read and is not complete: at most offsets.Limit.
	inFlight map[int64]reading
	// explained are the events that are not needed once the completions so far are committed.
	explained []int64
	// putBack are records in flight that nobody works on: they are read again when the partition is.
	putBack map[int64]bool
	room    chan struct{} // 1 deep; Full readers wait for it
	// takeover is the offset after the last record at the moment the shard was taken: former owners may have written about records below it.
	takeover int64
	// quarantined is the offset below which records may have been granted by a former owner; see owned.quarantine.
	quarantined int64
	end         int64 // the partition's next offset, as last seen
	coming      int   // copies on their way to this lane
	dirty       int   // changes of the lane's owner that are not committed
	strays      bool  // a free or common lane holds records
	spilled     bool  // of the common lane: jobs were copied to it since it was drained last
	bytes       int   // mean size of a record, as read; 0: none was
	remade      bool  // the log was: an offset from before says nothing about a record that was not read since (H26)
	stuckAt     int64 // low when stuck last saw it move
	stuckSince  time.Time
	// crowdedBelow, if not 0, is up to where all must be complete for a commit to hold what is complete above.
	crowdedBelow int64
	crowdTold    bool  // the log has heard of it
	trimmed      int64 // the log was asked to forget what is below, since the shard was taken
}

// reading is a record that is not complete.
type reading struct {
	id core.JobID
	at time.Time
}

// Place says which partition the window is of.
func (w *Window) Place() (topic string, kind core.Topic, partition int, shard int32) {
	return w.Topic, w.Kind, w.Partition, w.Shard
}

// Next is the offset to go on reading from.
func (w *Window) Next() int64 {
	w.owned.mu.Lock()
	defer w.owned.mu.Unlock()
	next := w.tracker.Next()
	for offset := range w.putBack {
		next = min(next, offset)
	}
	return next
}

// PutBack says that a record which Add let through was not worked on.
func (w *Window) PutBack(offset int64) {
	w.owned.mu.Lock()
	defer w.owned.mu.Unlock()
	if w.putBack == nil {
		w.putBack = make(map[int64]bool)
	}
	w.putBack[offset] = true
}

// Add says that the record at offset was read. It waits while the window has no room, and answers whether the record is to be worked on:
// not when it was done before. It fails only when ctx ends.
func (w *Window) Add(ctx context.Context, offset int64, id core.JobID) (fresh bool, err error) {
	for {
		w.owned.mu.Lock()
		if w.putBack[offset] {
			delete(w.putBack, offset)
			w.owned.mu.Unlock()
			return true, nil
		}
		verdict := w.tracker.Add(offset)
		if verdict == offsets.Fresh {
			w.inFlight[offset] = reading{id: id, at: time.Now()}
		}
		w.owned.mu.Unlock()
		if verdict != offsets.Full {
			return verdict == offsets.Fresh, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-w.room:
		}
	}
}

// Reset begins a new account at an offset that the log does hold: what was in flight is forgotten and read again.
func (w *Window) Reset(to int64) {
	w.owned.mu.Lock()
	defer w.owned.mu.Unlock()
	w.tracker = offsets.New(to, nil, offsets.Limit)
	w.inFlight, w.putBack = make(map[int64]reading), nil
	w.end, w.remade = to, true
	w.dirty++
}

// History is what former owners have recorded of the job at offset, and until when it must not be granted unless a worker announces that
// it runs it.
func (w *Window) History(id core.JobID, offset int64) core.Past {
	w.owned.mu.Lock()
	defer w.owned.mu.Unlock()
	past := w.owned.history[id]
	if offset < w.quarantined {
		past.Quarantine = w.owned.quarantine
	}
	return past
}

// Lane returns who the lane belongs to, and whether the common or a free lane holds records that somebody has to read.
func (w *Window) Lane() (owner lane.Key, taken, strays bool) {
	w.owned.mu.Lock()
	defer w.owned.mu.Unlock()
	owner, taken = w.owned.lanes.Owner(w.number())
	return owner, taken, w.strays && !taken
}

// Common reports whether this is the shard's common lane.
func (w *Window) Common() bool { return w.Kind == core.TopicSpill && w.number() == lane.Common }

// Sized says how large the records are that were read last, on average.
func (w *Window) Sized(recordBytes int) {
	w.owned.mu.Lock()
	w.bytes = recordBytes
	w.owned.mu.Unlock()
}

// names reports whether the committed metadata says that the lane is the owner's. owned.mu is held.
func (w *Window) names(owner lane.Key) bool {
	return w.committed.Meta.Source == owner.Source && w.committed.Meta.Type == owner.Type
}

// recordBytes is an estimate of a record's size. owned.mu is held.
func (w *Window) recordBytes() int {
	if w.bytes == 0 {
		return 512 // a small job with its headers
	}
	return w.bytes
}

// spare is the offset below which nothing is needed, short of the last record that was read: a partition must not become empty (K1).
// owned.mu is held.
func (w *Window) spare() int64 { return min(w.committed.Offset, w.tracker.Next()-1) }

// number is the lane's number in its shard: lanes p, p+P, p+2P, … belong to shard p.
func (w *Window) number() int { return w.Partition / w.owned.shards }

// complete marks the job's record as done and keeps the events that explain it until that is committed. owned.mu is held.
func (w *Window) complete(id core.JobID, offset int64, explained []int64) {
	w.explained = append(w.explained, explained...)
	if w.Kind == core.TopicSpill && offset >= w.tracker.Next() && offset < w.end && !w.remade {
		// The copy of a job that was running when it was moved here, and has ended before its lane was read as far.
		w.tracker.Skip(offset)
		return
	}
	if r, has := w.inFlight[offset]; has && r.id != id {
		return // the log was made anew since, and what is at the offset now is another job's (H26)
	}
	if !w.tracker.Done(offset) {
		return
	}
	delete(w.inFlight, offset)
	select {
	case w.room <- struct{}{}:
	default:
	}
}

// commit returns the position to commit if it differs from the last one, and what to do when the commit stands. owned.mu is held, for
// stands too.
func (w *Window) commit() (commit kafka.Commit, stands func(), needed bool) {
	version := w.tracker.Version()
	if version == w.version && w.dirty == 0 && len(w.explained) == 0 {
		return kafka.Commit{}, nil, false
	}
	position := offsets.Position{Offset: w.tracker.Low(), Meta: offsets.Metadata{Done: w.tracker.Ranges()}}
	if owner, taken := w.owned.lanes.Owner(w.number()); taken && w.Kind == core.TopicSpill {
		position.Meta.Source, position.Meta.Type = owner.Source, owner.Type
	}
	text, err := position.Meta.Encode()
	if err != nil {
		panic("shard: metadata of a tracker cannot be encoded: " + err.Error()) // Encode's contract
	}
	explained, changes := w.explained, w.dirty
	upTo, over := position.Meta.Overflow(position.Offset)
	if over {
		// The highest runs are left out. Their events stay needed, so that the next owner learns from those what is done; and what is
		// incomplete below upTo is moved, so that the next commit has them all.
		explained = nil
	}
	w.crowdedBelow = upTo
	return kafka.Commit{Topic: w.Topic, Partition: w.Partition, Offset: position.Offset, Metadata: text}, func() {
		w.committed, w.version = position, version
		w.dirty -= changes // what has changed since is committed next
		for _, offset := range explained {
			w.owned.events.done(offset)
		}
		w.explained = w.explained[len(explained):]
	}, true
}

// old returns the jobs that hold the window up: those read more than 30 s ago, or more than 1 s ago once the window is half full.
// owned.mu is held.
func (w *Window) old(now time.Time) []core.JobID {
	age := pinAge
	if w.tracker.Window() >= offsets.Limit/2 {
		age = pinAgeHalfFull
	}
	var ids []core.JobID
	for _, r := range w.inFlight {
		if now.Sub(r.at) > age {
			ids = append(ids, r.id)
		}
	}
	return ids
}

// crowding returns the jobs, oldest first, that keep a commit from saying all that is complete above them. owned.mu is held.
func (w *Window) crowding() []core.JobID {
	if w.crowdedBelow == 0 {
		return nil
	}
	var at []int64
	for offset := range w.inFlight {
		if offset < w.crowdedBelow {
			at = append(at, offset)
		}
	}
	slices.Sort(at)
	ids := make([]core.JobID, len(at))
	for i, offset := range at {
		ids[i] = w.inFlight[offset].id
	}
	return ids
}

// stuck reports, once each stuckFor, whether the window has been full for so long without its low moving: what holds it up is neither settled nor
// moved, and no record behind it is read (H16). owned.mu is held.
func (w *Window) stuck(now time.Time) bool {
	if low := w.tracker.Low(); low != w.stuckAt || w.stuckSince.IsZero() || w.tracker.Window() < offsets.Limit {
		w.stuckAt, w.stuckSince = low, now
		return false
	}
	if now.Sub(w.stuckSince) < stuckFor {
		return false
	}
	w.stuckSince = now
	return true
}

// stuckFor is longer than anything takes that moves a home while the log takes writes.
const stuckFor = time.Minute

// What holds a window up has its home moved (architecture §6.6).
const (
	pinAge         = 30 * time.Second
	pinAgeHalfFull = time.Second
)

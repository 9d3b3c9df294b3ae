package shard

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/produce"
	group "github.com/spillway/spillway/pkg/kafka/shard"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

const (
	// handoverBytes bounds one event of a handover: a quarter of the largest record, and 1,500 leases with the longest names.
	handoverBytes = 256 << 10
	// handoverRounds is how often a handover is tried: once more when another event of the shard came behind the first.
	handoverRounds = 2
	// partWithin bounds writing the handovers, and then committing: both fit what a rebalance waits for us, with what the inputs take to stop.
	partWithin = group.DrainTime / 3
)

// A shard's way from one owner to the next, when the first one lives:
//
//	owner                                        next owner
//	nothing is granted any more
//	HandOver: no renewal, no result              (workers keep their results)
//	Handover{leases} ──▶ outcomes
//	commit: drained, below the Handover
//	                      ── generation ──▶      fence, fold: the leases are inherited, all else is granted at once
//	                                             commit: not drained
//	                                             Ownership ──▶ workers ──▶ Hello: what they hold, renewals, results
//
// The drained commit is what makes a handover count. It is fenced by the generation, it is taken back before the first grant, and it is only
// written when all of the handover is durable: so whoever finds it knows that nobody has granted since, and that the latest handover is whole.
// Where it is missing, the next owner waits out the quarantine. An owner that gets the shard back goes on: it takes the commit back first.

// handover is the latest one of an owned shard. Guarded by owned.mu.
type handover struct {
	number int64 // in this epoch
	over   bool  // from before the first event is written until the drained commit is taken back: the leases are the next owner's
	whole  bool  // all events of it are durable
	first  int64 // the offset of the first of them
}

// drained reports whether a commit of low may say drained: the handover is whole, and is read by whoever reads on from low.
func (s *owned) drained(low int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.handover.over && s.handover.whole && low <= s.handover.first
}

// giveUp leaves the leases of all shards to whoever owns them next, and commits for the last time. If this replica gets a shard back, resume
// goes on with it. It ends with ctx, within what a rebalance waits for us.
func (o *Owner) giveUp(ctx context.Context) {
	left := o.all()
	for range handoverRounds {
		ids := make([]int32, len(left))
		for i, s := range left {
			ids[i] = s.id
			s.mu.Lock()
			s.handover = handover{number: s.handover.number + 1, over: true}
			s.mu.Unlock()
		}
		held := o.deps.HandOver(ids)
		o.leave(ctx, left, held)
		said := make(map[int32]bool, len(left))
		call, cancel := context.WithTimeout(ctx, partWithin)
		err := o.commitAll(call, func(s *owned, low int64) bool {
			said[s.id] = s.drained(low)
			return said[s.id]
		})
		cancel()
		if err != nil {
			if !errors.Is(err, kafka.ErrFenced) {
				o.deps.Log.Warn("final commit failed: what was done since the last one may run again, and what waits, late", "error", err)
			}
			return
		}
		again := left[:0:0]
		for _, s := range left {
			s.mu.Lock()
			if !said[s.id] && s.handover.over {
				again = append(again, s)
			}
			s.mu.Unlock()
		}
		if left = again; len(left) == 0 {
			return
		}
	}
}

// leave writes the handovers. A shard whose handover is not whole is not handed over: its leases are renewed for as long as those of any owner
// that has lost its generation.
func (o *Owner) leave(ctx context.Context, shards []*owned, held map[int32][]core.Held) {
	ctx, cancel := context.WithTimeout(ctx, partWithin)
	defer cancel()
	var work errgroup.Group
	for _, s := range shards {
		work.Go(func() error {
			first, err := o.announce(ctx, s, held[s.id])
			s.mu.Lock()
			defer s.mu.Unlock()
			s.handover.whole, s.handover.first = err == nil, first
			s.handover.over = err == nil
			return err
		})
	}
	if err := work.Wait(); err != nil {
		o.deps.Log.Warn("a shard was not handed over: what waits there may wait for the quarantine", "error", err)
		o.deps.Changed()
	}
}

// announce writes the events of one handover and returns the offset of the first.
func (o *Owner) announce(ctx context.Context, s *owned, held []core.Held) (first int64, err error) {
	now := time.Now()
	parts := []*logv1.Handover{{}}
	s.mu.Lock()
	number := s.handover.number
	if s.inQuarantine(now) {
		parts[0].Quarantine = durationpb.New(s.quarantine.Sub(now))
		for _, w := range s.windows() {
			if w.tracker.Low() < w.quarantined {
				parts[0].Quarantined = append(parts[0].Quarantined, &logv1.Home{
					Topic: strings.TrimPrefix(w.Topic, o.cfg.Topics.Prefix), Partition: int32(w.Partition), Offset: w.quarantined,
				})
			}
		}
	}
	s.mu.Unlock()
	size := 0
	for _, h := range held {
		lease := &logv1.HeldLease{
			JobId: envelope.JobID(h.JobID).String(), Source: h.Source, WorkerId: h.Worker, ExpiresIn: durationpb.New(h.ExpiresIn),
			Token: &jobv1.Token{Shard: h.Token.Shard, Epoch: h.Token.Epoch, Counter: h.Token.Counter},
		}
		n := proto.Size(lease) + 4
		if size += n; size > handoverBytes {
			parts, size = append(parts, &logv1.Handover{}), n
		}
		last := parts[len(parts)-1]
		last.Leases = append(last.Leases, lease)
	}
	for i, part := range parts {
		part.Number = number
		offset, err := o.append(ctx, int(s.id), &logv1.JobEvent{Epoch: s.epoch, Event: &logv1.JobEvent_Handover{Handover: part}})
		if err != nil {
			return 0, err
		}
		if i == 0 {
			first = offset
		}
	}
	return first, nil
}

// resume goes on with the shards that were handed over and came back. It is called when a commit says that they are not drained.
func (o *Owner) resume() {
	for _, s := range o.all() {
		s.mu.Lock()
		s.handover.over, s.handover.whole = false, false
		s.mu.Unlock()
	}
}

// append writes an event of a shard.
func (o *Owner) append(ctx context.Context, shard int, event *logv1.JobEvent) (int64, error) {
	topic := o.cfg.Topics.Outcomes()
	value, err := proto.Marshal(event)
	if err != nil {
		return 0, err
	}
	return o.deps.Records.Produce(ctx, produce.Record{Topic: topic, Partition: shard, Value: value, Headers: []kafka.Header{
		{Key: envelope.HeaderVersion, Value: []byte(envelope.Version)},
		{Key: envelope.HeaderMAC, Value: envelope.MAC(o.cfg.MACKey, topic, value, nil)},
	}})
}

// legacy is what the owners before have left: the latest handover.
type legacy struct {
	epoch, number int64
	leases        []core.Held
	quarantine    time.Duration       // how much longer, from the event
	below         map[partition]int64 // by topic without prefix
}

// take takes one event of a handover. Only those of the latest count; one that stands in the log twice changes nothing.
func (l *legacy) take(shard int32, epoch int64, h *logv1.Handover) {
	switch {
	case epoch < l.epoch, epoch == l.epoch && h.GetNumber() < l.number:
		return
	case epoch > l.epoch || h.GetNumber() > l.number:
		*l = legacy{epoch: epoch, number: h.GetNumber(), below: make(map[partition]int64)}
	}
	for _, lease := range h.GetLeases() {
		id, err := envelope.ParseJobID(lease.GetJobId())
		if err != nil {
			continue // no job: an owner of a later release knows more than this one
		}
		l.leases = append(l.leases, core.Held{
			JobID: core.JobID(id), Source: lease.GetSource(), Worker: lease.GetWorkerId(), ExpiresIn: lease.GetExpiresIn().AsDuration(),
			Token: core.Token{Shard: shard, Epoch: lease.GetToken().GetEpoch(), Counter: lease.GetToken().GetCounter()},
		})
	}
	if q := h.GetQuarantine().AsDuration(); q > l.quarantine {
		l.quarantine = q
	}
	for _, home := range h.GetQuarantined() {
		l.below[partition{home.GetTopic(), int(home.GetPartition())}] = home.GetOffset()
	}
}

// inherit is what a new owner makes of the history: which leases it goes on with, and which records wait because a former owner may have
// granted them. taken is from before the fence was written.
func (s *owned) inherit(drained bool, prefix string, taken time.Time) {
	left := s.legacy
	s.legacy = legacy{}
	switch {
	// A commit that says drained without a handover that counts proves nothing: the owner may have been fenced by one that never came to own, or
	// the log been made anew. Its leases are unknown then.
	case drained && left.number > 0:
		ended := make(map[core.JobID]bool, len(left.leases)) // there are far more settled jobs
		for _, h := range left.leases {
			ended[h.JobID] = false
		}
		for _, o := range s.recent {
			if _, named := ended[o.id]; named {
				ended[o.id] = true
			}
		}
		for _, h := range left.leases {
			if !ended[h.JobID] && s.history[h.JobID].Reported.Before(h.Token) {
				s.inherited = append(s.inherited, h)
			}
		}
		s.quarantine = taken.Add(left.quarantine)
		for _, w := range s.windows() {
			w.quarantined = min(left.below[partition{strings.TrimPrefix(w.Topic, prefix), w.Partition}], w.takeover)
		}
	case s.epoch > 0: // else there was no owner before: nothing was ever granted
		s.quarantine = taken.Add(Quarantine)
		for _, w := range s.windows() {
			w.quarantined = w.takeover
		}
	}
}

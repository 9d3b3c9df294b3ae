package shard

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
	"unique"

	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

const (
	// remembered is how far back settled ids are read at takeover, beyond what commits need: an SDK retries with the same key for
	// 2 minutes, plus 30 s of clock skew.
	remembered = 150 * time.Second
	// maxRemembered bounds that by number, for all shards of a takeover together: what the engine remembers at most (core.Config.Remembered),
	// and no shard needs more than maxRememberedOf.
	maxRemembered   = 1_300_000
	maxRememberedOf = 200_000

	fetchBytes = 1 << 20
	fetchWait  = 200 * time.Millisecond

	// lagFor is how long a partition may end below what it is known to hold. A leader that has just been elected does not know its end until the
	// other replicas have asked it for more, moments later; a log that was truncated or made anew never does.
	lagFor = 15 * time.Second
)

// reader reads outcomes; a kafka.Client is one.
type reader interface {
	Fetch(ctx context.Context, topic string, partition int, from int64, maxBytes int, maxWait time.Duration) (kafka.Batch, error)
	Ends(ctx context.Context, topic string, partitions []int) (map[int]kafka.Range, error)
}

// lag is a log that does not show yet what it is known to hold.
type lag struct{ since time.Time }

// over forgets it.
func (l *lag) over() { l.since = time.Time{} }

// wait pauses, and reports whether to ask again: not for longer than lagFor, nor when ctx has ended.
func (l *lag) wait(ctx context.Context) bool {
	now := time.Now()
	if l.since.IsZero() {
		l.since = now
	}
	if now.Sub(l.since) >= lagFor {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(fetchWait / 4):
		return true
	}
}

// outcomeOf is a job that a former owner settled, for the engine's dedupe window. There may be very many for a moment.
type outcomeOf struct {
	id     core.JobID
	source string // one string for all of a source
	digest uint32
	at     int64 // Unix nanoseconds
	epoch  int64 // under which it was written
}

// digest is what the engine tells payloads apart by: the first 32 bits of their hash.
func digest(sha []byte) uint32 {
	if len(sha) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(sha)
}

// fold reads a shard's outcomes from an offset up to the fence of the new owner, which is at fence. Events below committed only serve
// to recognise what has been settled; those above are still needed, and go into the account.
//
// A terminal event counts unless its epoch is older than the last fence before it, and the first one of a job counts: so every reader
// comes to the same result without trusting clocks. before is the last fence below committed, 0 if none is known. When it is not below
// from, the one that governs there is unknown until a fence is met; up to there the highest epoch of an event stands for it, which can
// only be wrong of an owner that wrote nothing.
func (s *owned) fold(ctx context.Context, client reader, macKey []byte, topic string, from, committed, before, fence int64) (forged int, err error) {
	defer s.firstOnly()
	last, early := int64(-1), int64(0) // the last fence; below early no fence was met and none is known
	if before < from {
		last = before
	} else {
		early = before
	}
	var behind lag
	for from < fence {
		batch, err := client.Fetch(ctx, topic, int(s.id), from, fetchBytes, fetchWait)
		if err != nil {
			return forged, err
		}
		for _, m := range batch.Messages {
			from = m.Offset + 1
			if m.Offset >= fence {
				break
			}
			event := &logv1.JobEvent{}
			mac, _ := envelope.Get(m.Headers, envelope.HeaderMAC)
			if !envelope.VerifyMAC(macKey, topic, m.Value, nil, mac) || proto.Unmarshal(m.Value, event) != nil {
				forged++
				continue
			}
			if event.GetFence() != nil {
				if m.Offset <= early {
					s.judge(last)
					early = 0
				}
				last = m.Offset
				s.events.fenced(last)
				continue
			}
			last = max(last, event.GetEpoch()) // there was a fence, be it before what is read here
			s.past(event, m.Offset, last, m.Offset >= committed)
		}
		if len(batch.Messages) > 0 || from < batch.HighWatermark {
			behind.over()
		} else if !behind.wait(ctx) {
			return forged, fmt.Errorf("shard: %s/%d ends at %d, below its fence at %d", topic, s.id, batch.HighWatermark, fence)
		}
	}
	return forged, nil
}

// judge takes back what was settled under an epoch before last, of all that was read so far, which is below the committed offset.
func (s *owned) judge(last int64) {
	s.recent = slices.DeleteFunc(s.recent, func(o outcomeOf) bool { return o.epoch < last })
	s.recentBelow = len(s.recent)
}

// firstOnly has a job that was settled below the committed offset, and once more above it, counted once: below it, it is. Such pairs come of
// a produce whose fate was unknown.
func (s *owned) firstOnly() {
	again := make(map[core.JobID]bool)
	for _, o := range s.recent[s.recentBelow:] {
		again[o.id] = true
	}
	for _, o := range s.recent[:s.recentBelow] {
		if again[o.id] {
			for _, offset := range s.byJob[o.id] {
				s.events.uncounted(offset)
			}
		}
	}
}

// past takes one event of a former owner.
func (s *owned) past(event *logv1.JobEvent, offset, fence int64, needed bool) {
	var id core.JobID
	switch e := event.GetEvent().(type) {
	case *logv1.JobEvent_Attempt:
		parsed, err := envelope.ParseJobID(e.Attempt.GetJobId())
		if err != nil || !needed {
			return
		}
		id = core.JobID(parsed)
		p := s.history[id]
		p.Attempts = max(p.Attempts, e.Attempt.GetAttempt().GetNumber())
		if t := (core.Token{Shard: s.id, Epoch: e.Attempt.GetToken().GetEpoch(), Counter: e.Attempt.GetToken().GetCounter()}); p.Reported.Before(t) {
			p.Reported = t
		}
		if at := e.Attempt.GetRetryAt(); at != nil {
			p.RetryAt = at.AsTime()
		}
		s.history[id] = p
		s.events.add(offset, jobv1.Outcome_OUTCOME_UNSPECIFIED)
	case *logv1.JobEvent_Settled:
		parsed, err := envelope.ParseJobID(e.Settled.GetJobId())
		if err != nil || event.GetEpoch() < fence {
			return
		}
		id = core.JobID(parsed)
		s.recent = append(s.recent, outcomeOf{
			id: id, source: unique.Make(e.Settled.GetSource()).Value(), digest: digest(e.Settled.GetPayloadSha256()),
			at: e.Settled.GetSettledAt().AsTime().UnixNano(), epoch: event.GetEpoch(),
		})
		if !needed { // its completion is committed, so no record asks for it; and there can be very many
			s.recentBelow = len(s.recent)
			return
		}
		p := s.history[id]
		outcome := e.Settled.GetOutcome()
		if p.Settled {
			outcome = jobv1.Outcome_OUTCOME_UNSPECIFIED // the first one counts
		}
		p.Settled = true
		s.history[id] = p
		s.events.add(offset, outcome)
	case *logv1.JobEvent_Handover:
		if needed && event.GetEpoch() >= fence {
			s.legacy.take(s.id, event.GetEpoch(), e.Handover)
		}
		return
	default:
		return
	}
	s.byJob[id] = append(s.byJob[id], offset)
}

// forget drops the history once every record that it may concern has been read and SDKs have stopped retrying. s.mu is held.
func (s *owned) forget(now time.Time) {
	if len(s.history) == 0 || now.Sub(s.since) < remembered {
		return
	}
	inFlight := make(map[core.JobID]bool)
	for _, w := range s.windows() {
		if w.tracker.Next() < w.takeover {
			return
		}
		for _, r := range w.inFlight {
			inFlight[r.id] = true
		}
	}
	for id := range s.history {
		if inFlight[id] {
			continue
		}
		for _, offset := range s.byJob[id] {
			s.events.done(offset)
		}
		delete(s.byJob, id)
	}
	s.history = nil
}

// apartEvery is how often the outcomes of a shard are looked at in which others' records were met among our own.
const apartEvery = time.Second

// keepApart looks who has written among our events, where there is a gap in them: mostly it was we, twice or a handover that came to nothing. What
// was looked at need not be read again at the next generation, when everybody waits. A fence that is not ours ends the generation here: the shard is
// taken once more. Its writer has lost the shard before it could own it, and its fence came late.
func (o *Owner) keepApart(ctx context.Context) error {
	tick := time.NewTicker(apartEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, s := range o.all() {
			s.mu.Lock()
			gap := s.events.next > s.ours
			s.mu.Unlock()
			if !gap {
				continue
			}
			fenced, err := s.fenced(ctx, o.deps.Kafka, o.cfg.MACKey, o.cfg.Topics.Outcomes())
			if err != nil {
				break // the next tick asks again; commits report a broker that is away
			}
			if fenced {
				return fmt.Errorf("shard %d: a fence lies above the one at %d: %w", s.id, s.epoch, kafka.ErrFenced)
			}
		}
	}
}

// fenced reports whether there is a fence above this owner's: then no reader counts what it writes. It is another owner's, or a copy of its own
// that was written twice and came late. It reads from the first record of outcomes on that may be another's: a late event of this owner may well lie
// above a foreign fence.
func (s *owned) fenced(ctx context.Context, client reader, macKey []byte, topic string) (bool, error) {
	s.mu.Lock()
	from := s.ours
	s.mu.Unlock()
	ends, err := client.Ends(ctx, topic, []int{int(s.id)})
	if err != nil {
		return false, err
	}
	from = max(from, ends[int(s.id)].First)
	var behind lag
	for from < ends[int(s.id)].Next {
		batch, err := client.Fetch(ctx, topic, int(s.id), from, fetchBytes, fetchWait)
		if err != nil {
			return false, err
		}
		if len(batch.Messages) > 0 {
			behind.over()
		} else if !behind.wait(ctx) { // not "no": what was not read may be a fence
			return false, fmt.Errorf("shard: %s/%d shows nothing at %d, and ends at %d", topic, s.id, from, ends[int(s.id)].Next)
		}
		for _, m := range batch.Messages {
			from = m.Offset + 1
			event := &logv1.JobEvent{}
			mac, _ := envelope.Get(m.Headers, envelope.HeaderMAC)
			// One that is forged is no fence to any reader; giving the shard up for it would cost its jobs a quarantine.
			if proto.Unmarshal(m.Value, event) == nil && event.GetFence() != nil && envelope.VerifyMAC(macKey, topic, m.Value, nil, mac) {
				return true, nil
			}
		}
	}
	s.mu.Lock()
	s.ours = max(s.ours, from)
	s.mu.Unlock()
	return false, nil
}

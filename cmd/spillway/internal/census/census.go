// Package census counts jobs in the logs, each distinct id once: where it is
// if it is unsettled, what its outcome is if it has one. It reads with a plain
// client, asks no service and trusts no counter, so it can contradict them.
//
// # Order of reading
//
// Logs move while they are read. What makes the count right all the same is
// that every writer makes the new place durable before it gives up the old one
// (outcome before commit, copy before completion), and that the census reads
// the other way round: first the commits, then the records, last the outcomes.
// So a job that was complete when the commits were read has its outcome or its
// copy in what is read later, and one that is complete and has neither has
// vanished: that is the loss that the ledger's difference shows.
//
// # Cost
//
// Some 50 bytes of memory for each distinct id, twice that if its record is
// complete and still there, and one pass over what the logs still hold.
package census

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/offsets"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// Place is where a job is.
type Place uint8

// The places. Absent: in no log. Vanished: its record is complete, and it has
// neither an outcome nor another home.
const (
	Absent Place = iota
	Vanished
	Waiting
	Spilled
	Delayed
	Succeeded
	Dead
	Expired
	Purged
	Cancelled
	Superseded
	places
)

// Settled reports whether the place is an outcome.
func (p Place) Settled() bool { return p >= Succeeded }

var outcomePlaces = map[jobv1.Outcome]Place{
	jobv1.Outcome_OUTCOME_SUCCEEDED:  Succeeded,
	jobv1.Outcome_OUTCOME_DEAD:       Dead,
	jobv1.Outcome_OUTCOME_EXPIRED:    Expired,
	jobv1.Outcome_OUTCOME_PURGED:     Purged,
	jobv1.Outcome_OUTCOME_CANCELLED:  Cancelled,
	jobv1.Outcome_OUTCOME_SUPERSEDED: Superseded,
}

// Config says what to count.
type Config struct {
	// Client must see all topics.
	Client *kafka.Client
	Topics kafka.Topics
	// From leaves out what was written before it; zero: everything.
	From time.Time
	// Only, if set, picks the ids that are counted.
	Only func(envelope.JobID) bool
	// MACKey, if set, is what events are verified with; one that fails is
	// counted as forged and otherwise ignored.
	MACKey []byte
}

// Census is one count. It is not safe for concurrent use.
type Census struct {
	cfg    Config
	jobs   map[envelope.JobID]Place
	events []*events // by partition of outcomes
	// parked are the records among the dead letters that nobody could read,
	// by the place where they were, as HeaderParkedFrom names it; passed are
	// the unreadable records that are complete, and must be among them.
	parked, passed map[string]bool
	// completed is when and where the record of a job was written that is
	// complete; see settledBefore.
	completed map[envelope.JobID]written
	// Unreadable are records and events that could not be decoded, Forged are
	// events with a wrong MAC.
	Unreadable, Forged int
}

// written is when and in which shard a record was written.
type written struct {
	at    time.Time
	shard int
}

// events is how far a partition of outcomes was read.
type events struct {
	first, next int64     // first is where reading began
	oldest      time.Time // of the first event that was read; zero before it
	fence       int64     // the last fence's offset, -1 if none is known
	trimmed     bool      // the log does not reach back to what was asked for
	// Outcomes below committed, as found in the log and as counted by the
	// owner: the latter include those that were trimmed.
	committed int64
	below     [places]int64
	counted   [places]int64
}

// New begins a count. Nothing is read before the first call of Outcomes or
// Homes.
func New(cfg Config) *Census {
	return &Census{cfg: cfg, jobs: make(map[envelope.JobID]Place), completed: make(map[envelope.JobID]written), parked: make(map[string]bool), passed: make(map[string]bool)}
}

// Place is where the count has a job so far.
func (c *Census) Place(id envelope.JobID) Place { return c.jobs[id] }

// Trimmed reports whether outcomes were read from a log that had already given
// up some that were asked for.
func (c *Census) Trimmed() bool {
	for _, e := range c.events {
		if e.trimmed {
			return true
		}
	}
	return false
}

// Outcomes reads the outcomes log from where it was left to its present end.
func (c *Census) Outcomes(ctx context.Context) error {
	topic := c.cfg.Topics.Outcomes()
	n, err := c.cfg.Client.Partitions(ctx, topic)
	if err != nil {
		return fmt.Errorf("count outcomes: %w", err)
	}
	if c.events == nil {
		if err := c.openEvents(ctx, topic, n); err != nil {
			return err
		}
	}
	ends, err := c.cfg.Client.Ends(ctx, topic, partitions(n))
	if err != nil {
		return fmt.Errorf("count outcomes: %w", err)
	}
	for q, e := range c.events {
		from := max(e.next, ends[q].First)
		err := read(ctx, c.cfg.Client, topic, q, from, ends[q].Next, func(m *kafka.Message) { c.event(e, m) })
		if err != nil {
			return fmt.Errorf("count outcomes: %w", err)
		}
		e.next = max(from, ends[q].Next)
	}
	return nil
}

func (c *Census) openEvents(ctx context.Context, topic string, n int) error {
	commits, err := c.cfg.Client.Committed(ctx, c.cfg.Topics.Group(), topic, partitions(n))
	if err != nil {
		return fmt.Errorf("count outcomes: %w", err)
	}
	ends, err := c.cfg.Client.Ends(ctx, topic, partitions(n))
	if err != nil {
		return fmt.Errorf("count outcomes: %w", err)
	}
	for q := range n {
		e := &events{first: ends[q].First, fence: -1, trimmed: ends[q].First > 0}
		if !c.cfg.From.IsZero() {
			at, err := c.cfg.Client.OffsetAt(ctx, topic, q, c.cfg.From)
			if err != nil {
				return fmt.Errorf("count outcomes: %w", err)
			}
			// The log reaches back far enough if something older is left.
			e.trimmed = e.trimmed && at <= e.first
			e.first = max(e.first, at)
		}
		e.next = e.first
		if commit, ok := commits[q]; ok {
			e.committed = commit.Offset
			meta, err := offsets.DecodeMetadata(commit.Metadata)
			if err != nil {
				return fmt.Errorf("count outcomes: commit of %s/%d: %w", topic, q, err)
			}
			counts, err := offsets.ParseCounts(meta.Counts)
			if err != nil {
				return fmt.Errorf("count outcomes: commit of %s/%d: %w", topic, q, err)
			}
			e.counted = byPlace(counts)
			if counts.Fence < e.first { // the log does not reach back to it
				e.fence = counts.Fence
			}
		}
		c.events = append(c.events, e)
	}
	return nil
}

// event follows the rule of every reader: the first terminal event of a job
// counts, and one of an owner older than the last fence before it does not.
func (c *Census) event(e *events, m *kafka.Message) {
	if c.cfg.MACKey != nil {
		mac, _ := envelope.Get(m.Headers, envelope.HeaderMAC)
		if !envelope.VerifyMAC(c.cfg.MACKey, m.Topic, m.Value, nil, mac) { // outcomes have no prev: one would let a value's end pass for it
			c.Forged++
			return
		}
	}
	var event logv1.JobEvent
	if err := proto.Unmarshal(m.Value, &event); err != nil {
		c.Unreadable++
		return
	}
	if e.oldest.IsZero() {
		e.oldest = timeOf(&event)
	}
	if event.GetFence() != nil {
		e.fence = m.Offset
		return
	}
	settled := event.GetSettled()
	if settled == nil || event.GetEpoch() < e.fence {
		return
	}
	id, err := envelope.ParseJobID(settled.GetJobId())
	place, known := outcomePlaces[settled.GetOutcome()]
	if err != nil || !known {
		c.Unreadable++
		return
	}
	if c.cfg.Only != nil && !c.cfg.Only(id) || c.jobs[id].Settled() {
		return
	}
	c.jobs[id] = place
	if m.Offset < e.committed {
		e.below[place]++
	}
}

// timeOf is when an event was written, by its scheduler's clock; zero if it does not say.
func timeOf(event *logv1.JobEvent) time.Time {
	switch {
	case event.GetFence().GetAt() != nil:
		return event.GetFence().GetAt().AsTime()
	case event.GetSettled().GetSettledAt() != nil:
		return event.GetSettled().GetSettledAt().AsTime()
	case event.GetAttempt().GetAttempt().GetEndedAt() != nil:
		return event.GetAttempt().GetAttempt().GetEndedAt().AsTime()
	}
	return time.Time{}
}

// skew is what the clocks of a broker and a scheduler may differ.
const skew = time.Minute

// settledBefore reports whether a job that is complete, and of which nothing else
// was found, may have its outcome among those that the log has given up: its
// record is older than all that is left of them. The last record of a partition
// is never given up, however old. Its owner has counted it.
func (c *Census) settledBefore(id envelope.JobID) bool {
	w, has := c.completed[id]
	if !has || w.shard >= len(c.events) {
		return false
	}
	e := c.events[w.shard]
	return e.trimmed && w.at.Before(e.oldest.Add(skew))
}

const (
	fetchBytes = 4 << 20
	// fetchWait is short: everything below a known end is there already.
	fetchWait = 100 * time.Millisecond
	// stuck is how often in a row a fetch may bring nothing below a known end.
	stuck = 50
)

// read visits the records of a partition from from (inclusive) to to
// (exclusive). What is trimmed meanwhile is skipped.
func read(ctx context.Context, client *kafka.Client, topic string, partition int, from, to int64, visit func(*kafka.Message)) error {
	empty := 0
	for from < to {
		batch, err := client.Fetch(ctx, topic, partition, from, fetchBytes, fetchWait)
		if kafka.OutOfRange(err) {
			ends, err := client.Ends(ctx, topic, []int{partition})
			if err != nil {
				return err
			}
			if ends[partition].First <= from {
				return fmt.Errorf("%s/%d: offset %d is above the end", topic, partition, from)
			}
			from = ends[partition].First
			continue
		}
		if err != nil {
			if ctx.Err() != nil || !kafka.Retriable(err) {
				return err
			}
			client.Refresh(ctx) // what it could not do shows at the next fetch
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(fetchWait):
			}
		}
		if len(batch.Messages) == 0 {
			if empty++; empty > stuck {
				return fmt.Errorf("%s/%d: nothing to read at offset %d of %d", topic, partition, from, to)
			}
			continue
		}
		empty = 0
		for i := range batch.Messages {
			m := &batch.Messages[i]
			if m.Offset >= to {
				return nil
			}
			visit(m)
			from = m.Offset + 1
		}
	}
	return nil
}

func partitions(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

package census

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/offsets"
)

// Homes reads the schedulers' commits and then every record that the logs still
// hold. Call Outcomes after it: jobs that were settled meanwhile count as
// unsettled, or as vanished, until then.
func (c *Census) Homes(ctx context.Context) error {
	var homes []home
	for _, p := range c.cfg.Topics.Priorities() {
		homes = append(homes, home{topic: c.cfg.Topics.Jobs(p), place: Waiting})
	}
	homes = append(homes, home{topic: c.cfg.Topics.Spill(), place: Spilled})
	for _, tier := range c.cfg.Topics.Tiers() {
		homes = append(homes, home{topic: c.cfg.Topics.Delay(tier), place: Delayed})
	}
	for i := range homes {
		if err := homes[i].open(ctx, c.cfg.Client, c.cfg.Topics.Group()); err != nil {
			return fmt.Errorf("count jobs: %w", err)
		}
	}
	shards, err := c.cfg.Client.Partitions(ctx, c.cfg.Topics.Outcomes())
	if err != nil {
		return fmt.Errorf("count jobs: %w", err)
	}
	for _, h := range homes {
		if err := c.home(ctx, h, shards); err != nil {
			return fmt.Errorf("count jobs: %w", err)
		}
	}
	if c.cfg.Only != nil || !c.cfg.From.IsZero() {
		return nil // nobody can tell whose the unreadable ones are
	}
	if err := c.deadLetters(ctx); err != nil {
		return fmt.Errorf("count dead letters: %w", err)
	}
	return nil
}

// readable returns a job's id if a scheduler of this release can give the job
// an outcome: of another version it cannot tell what the bytes mean.
func readable(m *kafka.Message) (id envelope.JobID, ok bool) {
	if envelope.CheckVersion(m.Headers) != nil {
		return id, false
	}
	fields, err := envelope.Scan(m.Value)
	return fields.ID, err == nil || errors.Is(err, envelope.ErrUnknownValue)
}

// deadLetters reads which unreadable records were parked. They are no jobs as
// far as this release can tell, so they are in no place, but none may be gone.
func (c *Census) deadLetters(ctx context.Context) error {
	topic := c.cfg.Topics.Dead()
	n, err := c.cfg.Client.Partitions(ctx, topic)
	if err != nil {
		return err
	}
	ends, err := c.cfg.Client.Ends(ctx, topic, partitions(n))
	if err != nil {
		return err
	}
	for q := range n {
		err := read(ctx, c.cfg.Client, topic, q, ends[q].First, ends[q].Next, func(m *kafka.Message) {
			from, parked := envelope.Get(m.Headers, envelope.HeaderParkedFrom)
			if _, ok := readable(m); parked && !ok {
				c.parked[string(from)] = true
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// home is one topic that holds unsettled jobs, with the schedulers' commits.
type home struct {
	topic   string
	place   Place
	commits []offsets.Position
}

func (h *home) open(ctx context.Context, client *kafka.Client, group string) error {
	n, err := client.Partitions(ctx, h.topic)
	if err != nil {
		return err
	}
	commits, err := client.Committed(ctx, group, h.topic, partitions(n))
	if err != nil {
		return err
	}
	for q := range n {
		commit, ok := commits[q]
		if !ok {
			return fmt.Errorf("%s/%d has no committed offset; was it installed?", h.topic, q)
		}
		meta, err := offsets.DecodeMetadata(commit.Metadata)
		if err != nil {
			return fmt.Errorf("commit of %s/%d: %w", h.topic, q, err)
		}
		h.commits = append(h.commits, offsets.Position{Offset: commit.Offset, Meta: meta})
	}
	return nil
}

func (c *Census) home(ctx context.Context, h home, shards int) error {
	ends, err := c.cfg.Client.Ends(ctx, h.topic, partitions(len(h.commits)))
	if err != nil {
		return err
	}
	for q, commit := range h.commits {
		from := ends[q].First
		if !c.cfg.From.IsZero() && from < ends[q].Next {
			at, err := c.cfg.Client.OffsetAt(ctx, h.topic, q, c.cfg.From)
			if err != nil {
				return err
			}
			from = max(from, at)
		}
		err := read(ctx, c.cfg.Client, h.topic, q, from, ends[q].Next, func(m *kafka.Message) {
			id, ok := readable(m)
			complete := m.Offset < commit.Offset || commit.Meta.Done.Contains(commit.Offset, m.Offset)
			if !ok {
				c.Unreadable++
				if complete {
					c.passed[fmt.Sprintf("%s/%d/%d", strings.TrimPrefix(h.topic, c.cfg.Topics.Prefix), q, m.Offset)] = true
				}
				return
			}
			if c.cfg.Only != nil && !c.cfg.Only(id) {
				return
			}
			place := h.place
			if complete {
				place = Vanished                      // unless another record or an outcome says otherwise
				if m.Time.After(c.completed[id].at) { // the youngest of its records decides
					c.completed[id] = written{m.Time, kafka.ShardOf(q, shards)}
				}
			}
			c.jobs[id] = max(c.jobs[id], place)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

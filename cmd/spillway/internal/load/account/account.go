// Package account closes the account of a run: it looks the generator's own ids up in the logs, once all is over.
package account

import (
	"context"
	"fmt"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/census"
	"github.com/spillway/spillway/cmd/spillway/internal/connect"
	"github.com/spillway/spillway/cmd/spillway/internal/load/send"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/config"
	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
)

const (
	// settleWait is how long outcomes of finished jobs may take to be durable
	// when the run is over, through a restart of the broker.
	settleWait = 15 * time.Second
	// settleEvery is how often they are looked for.
	settleEvery = 200 * time.Millisecond
	// clockSkew is what the broker's clock may differ from ours.
	clockSkew = 10 * time.Second
	// reconcileTimeout bounds reading the logs: a full store of 1 GiB takes
	// some seconds.
	reconcileTimeout = 2 * time.Minute
)

// Reconcile looks the ids of a run up in the logs.
func Reconcile(ctx context.Context, target readyfile.File, s *send.Sender) (ledger tally.Ledger, trimmed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, reconcileTimeout)
	defer cancel()
	client, err := connect.Reach(ctx, connect.Of(target.Broker), "load")
	if err != nil {
		return ledger, false, fmt.Errorf("read the logs: %w", err)
	}
	defer client.Close()
	topics := kafka.Topics{Prefix: target.Prefix}
	shards, err := client.Partitions(ctx, topics.Outcomes())
	if err != nil {
		return ledger, false, fmt.Errorf("read the logs: %w", err)
	}
	var macKey []byte
	if target.MACKeyFile != "" {
		if macKey, err = config.ReadMACKey(target.MACKeyFile); err != nil {
			return ledger, false, fmt.Errorf("read the logs: %w", err)
		}
	}

	own := make(map[envelope.JobID]bool)
	byName := make([][]envelope.JobID, len(s.Run.Flows))
	s.Book.Each(func(f tally.Fate) {
		source := s.Run.Flows[f.Flow].Name
		if byName[f.Flow] == nil {
			byName[f.Flow] = make([]envelope.JobID, s.Run.Schedules[f.Flow].Count())
		}
		j := envelope.KeyedJobID(source, s.Key(f.Flow, f.Seq), envelope.Shard(source, shards))
		byName[f.Flow][f.Seq], own[j] = j, true
	})
	id := func(f tally.Fate) envelope.JobID { return byName[f.Flow][f.Seq] }
	c := census.New(census.Config{
		Client: client, Topics: topics, From: s.Base.Add(-clockSkew), MACKey: macKey,
		Only: func(j envelope.JobID) bool { return own[j] },
	})
	if err := settleUntil(ctx, c, func() bool { return missing(s.Book, c, id) == 0 }); err != nil {
		return ledger, false, err
	}
	trimmed = c.Trimmed()
	if left := missing(s.Book, c, id); left > 0 || s.Book.Open() > 0 {
		if err := c.Homes(ctx); err != nil {
			return ledger, false, err
		}
		if err := c.Outcomes(ctx); err != nil {
			return ledger, false, err
		}
	}
	return s.Book.Ledger(func(f tally.Fate) tally.Outcome {
		place := c.Place(id(f))
		if trimmed && f.Finished && !place.Settled() {
			place = census.Succeeded
		}
		return outcomes[place]
	}), trimmed, nil
}

var outcomes = map[census.Place]tally.Outcome{
	census.Absent: tally.Absent, census.Vanished: tally.Absent,
	census.Waiting: tally.Waiting, census.Spilled: tally.Waiting, census.Delayed: tally.Waiting,
	census.Succeeded: tally.Succeeded, census.Dead: tally.Dead, census.Expired: tally.Expired,
	census.Purged: tally.Purged, census.Cancelled: tally.Cancelled, census.Superseded: tally.Superseded,
}

// missing counts the jobs that a handler finished and that have no outcome.
func missing(book *tally.Book, c *census.Census, id func(tally.Fate) envelope.JobID) int {
	n := 0
	book.Each(func(f tally.Fate) {
		if f.Finished && !c.Place(id(f)).Settled() {
			n++
		}
	})
	return n
}

// settleUntil reads outcomes until all are there, or for settleWait.
func settleUntil(ctx context.Context, c *census.Census, all func() bool) error {
	deadline := time.Now().Add(settleWait)
	for {
		if err := c.Outcomes(ctx); err != nil {
			return err
		}
		if all() || c.Trimmed() || !send.SleepUntil(ctx, time.Now().Add(settleEvery)) || time.Now().After(deadline) {
			return ctx.Err()
		}
	}
}

package intake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/shard"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

const (
	// together is how many jobs are offered under one lock of the engine.
	together = 256
	// unknownPoll is how often the control log's confirmation is looked at while a record waits for its source to become known.
	unknownPoll = 5 * time.Millisecond
)

// errUnregistered parks a job whose source or type is not in the control log.
var errUnregistered = errors.New("the source or its type is not registered")

// Deps are the rooms around.
type Deps struct {
	Log     *slog.Logger
	Fetch   shard.Fetcher
	Engine  Engine
	Homes   Homes
	Settler Settler
	Control Control
	// Budget bounds what all inputs have fetched and not offered.
	Budget *shard.Budget
}

// Reader reads partitions. New makes one.
type Reader struct {
	deps Deps

	mu    sync.Mutex
	lanes map[int32]*laneInput // by partition, while ReadLane runs
}

// New returns a reader of nothing.
func New(deps Deps) *Reader { return &Reader{deps: deps, lanes: make(map[int32]*laneInput)} }

// ReadPriority reads a partition of a priority topic until ctx ends.
func (r *Reader) ReadPriority(ctx context.Context, window Window) error {
	topic, _, partition, _ := window.Place()
	var loop *shard.Loop
	loop = shard.NewLoop(shard.LoopConfig{
		Fetch: r.deps.Fetch, Topic: topic, Partition: partition, From: window.Next(), Budget: r.deps.Budget, Log: r.deps.Log,
		Reset: func(_, to int64) { window.Reset(to) },
		Deliver: func(ctx context.Context, records []kafka.Message) (int, error) {
			_, err := r.offer(ctx, window, records)
			if err != nil {
				return 0, err
			}
			bytes := size(records)
			window.Sized(bytes / len(records))
			loop.Release(bytes)
			return len(records), nil
		},
	})
	return loop.Run(ctx)
}

func size(records []kafka.Message) int {
	n := 0
	for i := range records {
		n += records[i].Size()
	}
	return n
}

// returns counts the jobs of a lane that go to its tail: held, or without room or rate.
type returns struct{ held, full int }

// offer takes records through the window to the engine, and does with each what the engine says.
func (r *Reader) offer(ctx context.Context, window Window, records []kafka.Message) (returned returns, err error) {
	read := time.Now() // at the latest
	jobs := make([]*core.Job, 0, min(len(records), together))
	for i := range records {
		job, failed := r.admit(ctx, window, records[i], read)
		if job != nil {
			jobs = append(jobs, job)
		}
		if len(jobs) == together || i == len(records)-1 || failed != nil {
			n, err := r.give(ctx, window, jobs)
			returned.held, returned.full = returned.held+n.held, returned.full+n.full
			if err = errors.Join(failed, err); err != nil {
				return returned, err
			}
			jobs = jobs[:0]
		}
	}
	return returned, nil
}

// admit makes a job of a record that was read before read, or nil if there is nothing to run.
func (r *Reader) admit(ctx context.Context, window Window, m kafka.Message, read time.Time) (*core.Job, error) {
	_, kind, partition, shardID := window.Place()
	home := core.Home{Topic: kind, Partition: int32(partition), Offset: m.Offset}
	if err := r.deps.Settler.Room(ctx); err != nil {
		return nil, err
	}
	job, bad := decode(m, shardID, home)
	var id core.JobID
	if job != nil {
		id = job.ID
	}
	fresh, err := window.Add(ctx, m.Offset, id)
	if err != nil || !fresh {
		return nil, err
	}
	if bad == nil && !r.deps.Control.Knows(job.Source, job.Type) {
		if bad, err = r.unknown(ctx, job, read); err != nil {
			window.PutBack(m.Offset)
			return nil, err
		}
	}
	if bad != nil {
		r.deps.Settler.Park(shardID, m, home, job, bad)
		return nil, nil
	}
	past := window.History(id, m.Offset)
	if past.Settled {
		r.deps.Homes.Complete(shardID, id, home)
		return nil, nil
	}
	job.Attempts, job.ReadyAt = max(job.Attempts, past.Attempts), later(job.ReadyAt, past.RetryAt)
	job.Reported, job.Quarantine = past.Reported, later(job.Quarantine, past.Quarantine)
	if job.FromLane {
		// A job in a lane that is not its own was written by a replica of enqueue with an old mark, or is in the common lane: it is
		// judged like one from a priority topic (H36).
		own, has := r.deps.Homes.LaneOf(shardID, job.Source, job.Type)
		job.FromLane, job.Common = has && own == int32(partition), window.Common()
	}
	return job, nil
}

// unknown waits until the control log was confirmed after the record was read. It returns the reason to park the job, or nil. One confirmation
// serves all records that were read together: were each to wait for its own, many of a type that is no longer registered would hold up everybody
// else's in the partition.
func (r *Reader) unknown(ctx context.Context, job *core.Job, read time.Time) (park, err error) {
	for !r.deps.Control.Knows(job.Source, job.Type) {
		if r.deps.Control.Confirmed().After(read) && !r.deps.Control.Knows(job.Source, job.Type) {
			return fmt.Errorf("%w: %s/%s", errUnregistered, job.Source, job.Type), nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(unknownPoll):
		}
	}
	return nil, nil
}

// give offers jobs to the engine. A job that it does not take and that finds no way to its lane is put back into the window, to be read
// again when the shard goes on.
func (r *Reader) give(ctx context.Context, window Window, jobs []*core.Job) (returned returns, err error) {
	if len(jobs) == 0 {
		return returned, nil
	}
	verdicts := make([]core.Verdict, len(jobs))
	r.deps.Engine.Do(func(now time.Time, e *core.Engine) {
		for i, job := range jobs {
			verdicts[i] = e.Offer(now, job)
		}
	})
	for i, job := range jobs {
		switch verdicts[i].Kind {
		case core.Spill:
			switch {
			case job.Home.Topic != core.TopicSpill:
			case verdicts[i].Reason == core.ReasonHeld:
				returned.held++
			default:
				returned.full++
			}
			if err == nil {
				err = r.deps.Settler.Spill(ctx, job)
			}
			if err != nil {
				window.PutBack(job.Home.Offset)
			}
		case core.Expire:
			r.deps.Settler.Finish(job, jobv1.Outcome_OUTCOME_EXPIRED, verdicts[i].Reason)
		case core.Supersede:
			r.deps.Settler.Finish(job, jobv1.Outcome_OUTCOME_SUPERSEDED, verdicts[i].Reason)
		case core.Duplicate:
			r.deps.Homes.Complete(job.Shard, job.ID, job.Home)
		case core.Queue, core.Known, core.Foreign:
		}
	}
	return returned, err
}

package broker

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/shard"
	"github.com/spillway/spillway/pkg/offsets"
)

const (
	// memberEnv makes the test binary a member: its value is a Member as JSON.
	memberEnv = "SPILLWAY_CHURN_MEMBER"
	// memberWorkers settle records, 0 to 20 ms each.
	memberWorkers = 16
	// memberWindow is small, so that windows fill up and loops hold records back.
	memberWindow = 64
	commitEvery  = 200 * time.Millisecond
)

// spawn starts the test binary again as a member.
func spawn(m Member) (Process, error) {
	config, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(strings.TrimSuffix(m.Effects, ".effects") + ".log")
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), memberEnv+"="+string(config))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return child{cmd}, nil
}

type child struct{ *exec.Cmd }

func (c child) Signal(s os.Signal) error { return c.Process.Signal(s) }

// memberMain is the main function of a member process.
func memberMain(config string) error {
	var m Member
	if err := json.Unmarshal([]byte(config), &m); err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	effects, err := os.OpenFile(m.Effects, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer effects.Close()
	topics := kafka.Topics{Prefix: m.Prefix}
	client, err := kafka.New(kafka.Config{Addresses: m.Addresses, ClientID: m.Name, Topics: topics.Scheduled()})
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	w := &member{client: client, topics: topics, log: log, effects: effects, budget: shard.NewBudget(32 << 20), workers: make(chan struct{}, memberWorkers)}
	return shard.Run(ctx, shard.Config{Client: client, Topics: topics, Shards: churnShards, Replica: m.Name, Log: log}, w.own)
}

// member settles records: its effect is a line in a file, written before the
// offset is done, as an outcome is.
type member struct {
	client  *kafka.Client
	topics  kafka.Topics
	log     *slog.Logger
	effects *os.File
	budget  *shard.Budget
	workers chan struct{}
}

// partition is the account of one partition in one generation.
type partition struct {
	topic  string
	number int
	loop   *shard.Loop

	mu        sync.Mutex
	tracker   *offsets.Tracker
	committed uint64 // version of the last commit
	full      bool   // the loop waits for the window to move
}

func (m *member) own(ctx context.Context, g *shard.Generation) error {
	var owned []*partition
	var working sync.WaitGroup // records in flight
	for _, topic := range churnTopics(m.topics) {
		var numbers []int
		for _, s := range g.Shards() {
			numbers = append(numbers, g.Partitions(topic, s)...)
		}
		positions, err := g.Committed(ctx, topic, numbers)
		if err != nil {
			return err
		}
		for _, n := range numbers {
			p := &partition{topic: topic, number: n, tracker: offsets.New(positions[n].Offset, positions[n].Meta.Done, memberWindow)}
			p.loop = shard.NewLoop(shard.LoopConfig{
				Fetch: m.client, Topic: topic, Partition: n, From: positions[n].Offset, Budget: m.budget, Log: m.log,
				Deliver: func(ctx context.Context, records []kafka.Message) (int, error) {
					return m.take(ctx, p, records, &working)
				},
			})
			owned = append(owned, p)
		}
	}
	reading, stop := context.WithCancel(ctx)
	var loops sync.WaitGroup
	failed := make(chan error, len(owned))
	for _, p := range owned {
		loops.Go(func() {
			if err := p.loop.Run(reading); err != nil {
				failed <- err
				stop()
			}
		})
	}
	tick := time.NewTicker(commitEvery)
	defer tick.Stop()
	var broken error
	for reading.Err() == nil && broken == nil {
		select {
		case <-tick.C:
			broken = m.commit(ctx, g, owned)
		case <-reading.Done():
		}
	}
	stop()
	loops.Wait()
	working.Wait() // 20 ms
	final, cancel := context.WithTimeout(context.WithoutCancel(ctx), shard.DrainTime)
	defer cancel()
	err := m.commit(final, g, owned)
	close(failed)
	return errors.Join(<-failed, broken, err, ctx.Err())
}

// take starts work on records, as many as the window has room for.
func (m *member) take(ctx context.Context, p *partition, records []kafka.Message, working *sync.WaitGroup) (int, error) {
	for i := range records {
		r := &records[i]
		p.mu.Lock()
		verdict := p.tracker.Add(r.Offset)
		p.full = verdict == offsets.Full
		p.mu.Unlock()
		switch verdict {
		case offsets.Full:
			return i, nil
		case offsets.Fresh:
		default:
			p.loop.Release(r.Size())
			continue
		}
		select {
		case m.workers <- struct{}{}:
		case <-ctx.Done():
			p.loop.Release(r.Size()) // incomplete: the next owner runs it
			return i + 1, ctx.Err()
		}
		working.Go(func() {
			defer func() { <-m.workers }()
			time.Sleep(rand.N(20 * time.Millisecond))
			if _, err := m.effects.Write(append(r.Value, '\n')); err != nil {
				m.log.Error("effect", "error", err.Error())
				return
			}
			p.mu.Lock()
			p.tracker.Done(r.Offset)
			wake := p.full
			p.full = false
			p.mu.Unlock()
			p.loop.Release(r.Size())
			if wake {
				p.loop.Resume()
			}
		})
	}
	return len(records), nil
}

// commit commits every partition whose account has changed.
func (m *member) commit(ctx context.Context, g *shard.Generation, owned []*partition) error {
	var commits []kafka.Commit
	var versions []uint64
	var dirty []*partition
	for _, p := range owned {
		p.mu.Lock()
		version, low, done := p.tracker.Version(), p.tracker.Low(), offsets.Ranges(nil)
		if version != p.committed {
			done = p.tracker.Ranges()
		}
		p.mu.Unlock()
		if version == p.committed {
			continue
		}
		metadata, err := offsets.Metadata{Done: done}.Encode()
		if err != nil {
			return err
		}
		commits = append(commits, kafka.Commit{Topic: p.topic, Partition: p.number, Offset: low, Metadata: metadata})
		versions, dirty = append(versions, version), append(dirty, p)
	}
	if len(commits) == 0 {
		return nil
	}
	if err := g.Commit(ctx, commits); err != nil {
		return err
	}
	for i, p := range dirty {
		p.committed = versions[i]
	}
	return nil
}

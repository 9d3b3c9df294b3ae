package plain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/work"
	"github.com/spillway/spillway/cmd/spillway/internal/process"
	"github.com/spillway/spillway/cmd/spillway/internal/replay/judge"
)

// Command is the hidden subcommand of `spillway replay` whose main is Main.
const Command = "plain-worker"

// Variable carries the Config to the worker process.
const Variable = "SPILLWAY_REPLAY_PLAIN"

const (
	commitEvery   = 500 * time.Millisecond
	headerTimeout = 5 * time.Second
	maxBytes      = 4 << 20
	queue         = 1000
)

// Config is what the worker process is told.
type Config struct {
	Target
	// Listen is where websocket clients connect, host:port.
	Listen string `json:"listen"`
	Slots  int    `json:"slots"`
}

// Main is the main of the worker process: the group's only member.
func Main(ctx context.Context) error {
	var cfg Config
	if err := json.Unmarshal([]byte(os.Getenv(Variable)), &cfg); err != nil {
		return fmt.Errorf("this command is started by `spillway replay --without-spillway`: %w", err)
	}
	ctx, cancel := process.UntilParentEnds(ctx)
	defer cancel()
	return Run(ctx, cfg, work.NewReporter(os.Stdout))
}

// Run serves websockets and runs jobs until ctx ends.
func Run(ctx context.Context, cfg Config, to work.Events) error {
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for websockets: %w", err)
	}
	h := newHub()
	server := &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	err = consume(ctx, cfg, h, to)
	_ = server.Close() // hijacked connections end with the process
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// consume runs the jobs of the topic, at most cfg.Slots at a time.
func consume(ctx context.Context, cfg Config, h *hub, to work.Events) (err error) {
	dial, brokers := cfg.dial()
	reader := kafkago.NewReader(kafkago.ReaderConfig{
		Brokers: brokers, GroupID: cfg.Group, Topic: cfg.Topic, Dialer: &kafkago.Dialer{ClientID: "plain-worker", DialFunc: dial},
		MinBytes: 1, MaxBytes: maxBytes, MaxWait: time.Second, QueueCapacity: queue, StartOffset: kafkago.FirstOffset, CommitInterval: commitEvery,
	})
	defer func() { err = errors.Join(err, reader.Close()) }()
	jobs := make(chan kafkago.Message)
	done := &order{pending: make(map[int][]*job)}
	var slots sync.WaitGroup
	defer slots.Wait()
	defer close(jobs)
	for range cfg.Slots {
		slots.Go(func() {
			for m := range jobs {
				if !handle(ctx, m, h, to) {
					return // stopped: it is not done, and is not committed
				}
				// What is committed is done, and everything before it.
				if last, ok := done.finish(m.Partition, m.Offset); ok {
					m.Offset = last
					_ = reader.CommitMessages(context.WithoutCancel(ctx), m) // asynchronous: it only notes the offset
				}
			}
		})
	}
	for {
		m, err := reader.FetchMessage(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("fetch: %w", err)
		}
		done.begin(m.Partition, m.Offset)
		select {
		case jobs <- m:
		case <-ctx.Done():
			return nil
		}
	}
}

// handle does what a job asks for: it takes its time, then tells the tenant. It
// reports false for a job that was stopped before it was done.
func handle(ctx context.Context, m kafkago.Message, h *hub, to work.Events) bool {
	in, err := plan.ParsePayload(m.Value)
	if err != nil {
		return true // not of this replay
	}
	to.Started(in, time.Now())
	timer := time.NewTimer(in.Work)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	tenant := ""
	for _, header := range m.Headers {
		if header.Key == tenantHeader {
			tenant = string(header.Value)
		}
	}
	letter := judge.Letter{Run: in.Seed, Flow: in.Flow, Job: in.Seq, At: time.Now().UnixNano()}
	h.send(judge.Channel(tenant), letter.Write())
	to.Finished(in, time.Now())
	return true
}

// order knows which offsets of a partition are done without a hole.
type order struct {
	mu      sync.Mutex
	pending map[int][]*job // by partition, in order; at most what runs at a time and the one before it
}

type job struct {
	offset int64
	done   bool
}

func (o *order) begin(partition int, offset int64) {
	o.mu.Lock()
	o.pending[partition] = append(o.pending[partition], &job{offset: offset})
	o.mu.Unlock()
}

// finish notes that an offset is done, and returns the last one up to which
// everything is, if that has moved.
func (o *order) finish(partition int, offset int64) (last int64, moved bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := o.pending[partition]
	for _, j := range list {
		if j.offset == offset {
			j.done = true
			break
		}
	}
	for len(list) > 0 && list[0].done {
		last, moved = list[0].offset, true
		list = list[1:]
	}
	o.pending[partition] = list
	return last, moved
}

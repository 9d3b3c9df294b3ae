package shard

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/produce"
	"github.com/spillway/spillway/pkg/offsets"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	shards = 2
	lanes  = 3
)

var (
	topics = kafka.Topics{Prefix: "x."}
	macKey = []byte("0123456789abcdef0123456789abcdef")
)

// world is a broker in a bubble, and what an owner needs of its service.
type world struct {
	t         *testing.T
	broker    *kafkatest.Broker
	client    *kafka.Client
	held      map[int32][]core.Held // what HandOver names
	trimEvery time.Duration
}

func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, broker: kafkatest.Start(t), held: map[int32][]core.Held{}}
		w.broker.Install(t, kafka.Layout{Topics: topics, Shards: shards, Lanes: lanes, Durability: kafka.Single})
		w.client = w.broker.Client(t, "test", topics.All()...)
		f(t, w)
	})
}

// lockedEngine is an engine with its owner's lock.
type lockedEngine struct {
	mu     sync.Mutex
	engine *core.Engine
}

func (l *lockedEngine) Do(f func(time.Time, *core.Engine)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(time.Now(), l.engine)
}

// replica is an owner that runs.
type replica struct {
	*Owner
	t    *testing.T
	stop func()
	fail chan error // what an input fails with

	mu      sync.Mutex
	windows map[string]map[int]*Window // by topic and partition, while they are read
}

func (r *replica) read(ctx context.Context, w *Window) error {
	r.mu.Lock()
	if r.windows[w.Topic] == nil {
		r.windows[w.Topic] = map[int]*Window{}
	}
	r.windows[w.Topic][w.Partition] = w
	r.mu.Unlock()
	select {
	case err := <-r.fail:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (r *replica) ReadPriority(ctx context.Context, w *Window) error { return r.read(ctx, w) }
func (r *replica) ReadLane(ctx context.Context, w *Window) error     { return r.read(ctx, w) }

func (r *replica) window(topic string, partition int) *Window {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.windows[topic][partition]
}

// own starts a replica and waits until it has its shards. stop ends it in order.
func (w *world) own(name string) *replica {
	w.t.Helper()
	client, err := kafka.New(w.broker.Config(name, topics.All()...))
	if err != nil {
		w.t.Fatal(err)
	}
	r := &replica{t: w.t, fail: make(chan error), windows: map[string]map[int]*Window{}}
	records := produce.New(client, produce.Config{Deadline: 10 * time.Second, Gate: func() error { return r.MayProduce() }})
	r.Owner = New(Config{Topics: topics, Name: name, Replica: name + "-1", MACKey: macKey, TrimEvery: w.trimEvery}, Deps{
		Log: slog.New(slog.DiscardHandler), Kafka: client, Records: records, Engine: &lockedEngine{engine: core.New(core.Config{})}, Inputs: r,
		HandOver: func([]int32) map[int32][]core.Held { return w.held }, Changed: func() {},
	})
	below, end := context.WithCancel(context.Background())
	above, cancel := context.WithCancel(below)
	var running sync.WaitGroup
	running.Go(func() { _ = records.Run(below) })
	owning := make(chan error, 1)
	go func() { owning <- r.Run(above, shards) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-owning; err != nil {
			w.t.Error(err)
		}
		end()
		running.Wait()
		client.Close()
	})
	w.t.Cleanup(r.stop)
	for range 1000 {
		if r.Joined() {
			synctest.Wait()
			return r
		}
		time.Sleep(10 * time.Millisecond)
	}
	w.t.Fatal("not joined")
	return nil
}

// append writes records to a partition and returns the offset of the first.
func (w *world) append(topic string, partition int, records ...kafka.Record) int64 {
	w.t.Helper()
	offset, err := w.client.Append(w.t.Context(), topic, partition, records)
	if err != nil {
		w.t.Fatal(err)
	}
	return offset
}

// jobs appends n records that nobody will decode.
func (w *world) jobs(topic string, partition, n int) int64 {
	w.t.Helper()
	records := make([]kafka.Record, n)
	for i := range records {
		records[i] = kafka.Record{Value: []byte("job")}
	}
	return w.append(topic, partition, records...)
}

// event appends an event under an epoch, with a MAC under key.
func (w *world) event(shard int, epoch int64, key []byte, event *logv1.JobEvent) int64 {
	w.t.Helper()
	event.Epoch = epoch
	value, err := proto.Marshal(event)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.append(topics.Outcomes(), shard, kafka.Record{Value: value, Headers: []kafka.Header{
		envelope.VersionHeader(), {Key: envelope.HeaderMAC, Value: envelope.MAC(key, topics.Outcomes(), value, nil)},
	}})
}

func fenceOf(replica string) *logv1.JobEvent {
	return &logv1.JobEvent{Event: &logv1.JobEvent_Fence{Fence: &logv1.OwnerFence{Replica: replica}}}
}

// committed is the group's position in a partition.
func (w *world) committed(topic string, partition int) offsets.Position {
	w.t.Helper()
	found, err := w.client.Committed(w.t.Context(), topics.Group(), topic, []int{partition})
	if err != nil {
		w.t.Fatal(err)
	}
	meta, err := offsets.DecodeMetadata(found[partition].Metadata)
	if err != nil {
		w.t.Fatal(err)
	}
	return offsets.Position{Offset: found[partition].Offset, Meta: meta}
}

// add takes offsets into a window; all of them must be fresh.
func add(t *testing.T, w *Window, id core.JobID, offsets ...int64) {
	t.Helper()
	for _, offset := range offsets {
		if fresh, err := w.Add(t.Context(), offset, id); err != nil || !fresh {
			t.Fatalf("offset %d: fresh %v, %v", offset, fresh, err)
		}
	}
}

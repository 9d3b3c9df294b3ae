package controllog_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/spillway/spillway/pkg/controllog"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/produce"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const topic = "spillway.control"

var key = []byte("0123456789abcdef0123456789abcdef")

// world is a broker with a control log, a follower and a writer, in a bubble.
type world struct {
	t        *testing.T
	ctx      context.Context
	broker   *kafkatest.Broker
	producer *produce.Producer
	follower *controllog.Follower
	writer   *controllog.Writer
	running  sync.WaitGroup
}

func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, broker: kafkatest.Start(t)}
		ctx, cancel := context.WithCancel(t.Context())
		defer w.running.Wait()
		defer cancel()
		w.ctx = ctx
		w.broker.CreateTopic(t, topic, 1)
		w.producer = produce.New(w.broker.Client(t, "writes", topic), produce.Config{Deadline: 2 * time.Second})
		w.running.Go(func() { w.producer.Run(ctx) })
		w.follower = w.follow("control")
		w.writer = controllog.NewWriter(w.producer, w.follower, topic, key)
		<-w.follower.Folded()
		if err := w.follower.Ready(); err == nil {
			t.Error("ready without an installation")
		}
		w.append(&logv1.Command{Act: &logv1.Command_ClusterConfig{ClusterConfig: &logv1.ClusterConfig{ClusterId: "c", FormatVersion: 1, Shards: 8, Lanes: 16}}})
		f(t, w)
	})
}

func (w *world) follow(id string) *controllog.Follower {
	f := controllog.NewFollower(w.broker.Client(w.t, id, topic), topic, key, slog.New(slog.DiscardHandler))
	w.running.Go(func() { _ = f.Run(w.ctx) }) // what stopped it is seen in Ready
	return f
}

func (w *world) append(c *logv1.Command) int64 {
	w.t.Helper()
	sequence, err := w.try(c)
	if err != nil {
		w.t.Fatal(err)
	}
	return sequence
}

func (w *world) try(c *logv1.Command) (int64, error) {
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	return w.writer.Append(ctx, c)
}

func put(name string, expected int64) *logv1.Command {
	return &logv1.Command{ExpectedRevision: expected, Act: &logv1.Command_PutSource{PutSource: &logv1.PutSource{
		Source: &automationv1.Source{Name: name, Types: []string{"t"}},
	}}}
}

func TestWriterReadsBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		began := time.Now()
		sequence := w.append(put("a", controllog.NoRevision))
		if s, ok := w.follower.State().Source("a"); !ok || s.GetRevision() != sequence {
			t.Errorf("state after the answer: %v", s)
		}
		if took := time.Since(began); took > 20*time.Millisecond {
			t.Errorf("took %v", took)
		}
		_, err := w.try(put("a", controllog.NoRevision))
		refusal, ok := errors.AsType[*controllog.Refusal](err)
		if !ok || !errors.Is(err, controllog.ErrStaleRevision) || refusal.Current != sequence {
			t.Errorf("got %v", err)
		}
		other := w.follow("other")
		<-other.Folded()
		if string(other.State().Hash()) != string(w.follower.State().Hash()) || other.State().Sequence() != w.follower.State().Sequence() {
			t.Error("a second reader sees something else")
		}
	})
}

// TestConfirmed: while the broker answers, the state is never older than 250 ms; when it is away, it ages; both without a record.
func TestConfirmed(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		for range 1000 {
			time.Sleep(7 * time.Millisecond)
			if age := time.Since(w.follower.Confirmed()); age > 250*time.Millisecond {
				t.Fatalf("confirmed %v ago", age)
			}
		}
		w.broker.Stop()
		time.Sleep(time.Second)
		if age := time.Since(w.follower.Confirmed()); age < 800*time.Millisecond {
			t.Errorf("confirmed %v ago by a broker that is away", age)
		}
		if err := w.follower.Ready(); err != nil {
			t.Errorf("not ready after a second: %v", err)
		}
		time.Sleep(30 * time.Second)
		if w.follower.Ready() == nil {
			t.Error("ready after half a minute without the log")
		}
		w.broker.Resume()
		time.Sleep(time.Second)
		if age := time.Since(w.follower.Confirmed()); age > 250*time.Millisecond || w.follower.Ready() != nil {
			t.Errorf("after its return confirmed %v ago, %v", age, w.follower.Ready())
		}
	})
}

// late is a log whose answers arrive only after a pause, as if the process had been frozen in between.
type late struct {
	controllog.Log
	pause time.Duration
}

func (l *late) Fetch(ctx context.Context, topic string, partition int, from int64, maxBytes int, maxWait time.Duration) (kafka.Batch, error) {
	b, err := l.Log.Fetch(ctx, topic, partition, from, maxBytes, maxWait)
	time.Sleep(l.pause)
	return b, err
}

// TestOldAnswerDoesNotConfirm: what an answer proves is as old as the answer, not as its reading. Otherwise a scheduler that was frozen
// would grant, when it wakes, what was held in the meantime.
func TestOldAnswerDoesNotConfirm(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const pause = 10 * time.Second
		f := controllog.NewFollower(&late{w.broker.Client(t, "late", topic), pause}, topic, key, slog.New(slog.DiscardHandler))
		w.running.Go(func() { f.Run(w.ctx) })
		<-f.Folded()
		for range 3 {
			if age := time.Since(f.Confirmed()); age < pause {
				t.Errorf("an answer of %v ago confirmed the state %v ago", pause, age)
			}
			time.Sleep(pause + 150*time.Millisecond)
		}
	})
}

// TestFateUnknown: an answer that was lost is looked for in the log, and a copy that the producer wrote again is one command.
func TestFateUnknown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.broker.Fault(kafkatest.Produce, topic, 7, 1) // written, and answered with a timeout
		c := put("a", controllog.NoRevision)
		c.RequestId = "r1"
		sequence := w.append(c)
		if s, ok := w.follower.State().Source("a"); !ok || s.GetRevision() != sequence {
			t.Errorf("got %v at %d", s, sequence)
		}
		remove := w.broker.Fault(kafkatest.Produce, topic, 7, -1)
		c = put("b", controllog.NoRevision)
		c.RequestId = "r2"
		sequence = w.append(c)
		remove()
		if s, ok := w.follower.State().Source("b"); !ok || s.GetRevision() != sequence {
			t.Errorf("got %v at %d", s, sequence)
		}
		w.broker.Stop()
		if _, err := w.try(put("c", controllog.NoRevision)); !errors.Is(err, controllog.ErrNotConfirmed) {
			t.Errorf("broker dies during the call: %v", err)
		}
		if _, err := w.try(put("c", controllog.NoRevision)); !errors.Is(err, controllog.ErrUnavailable) {
			t.Errorf("broker away: %v", err)
		}
	})
}

func TestWaitAndChanged(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		next := w.follower.State().Sequence() + 1
		ctx, cancel := context.WithTimeout(w.ctx, time.Second)
		defer cancel()
		if _, err := w.follower.Wait(ctx, next); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for nothing: %v", err)
		}
		got := make(chan int64, 1)
		w.running.Go(func() {
			s, err := w.follower.Wait(w.ctx, next)
			if err != nil {
				t.Error(err)
				return
			}
			got <- s.Sequence()
		})
		changed := w.follower.Changed()
		w.append(put("a", controllog.NoRevision))
		<-changed
		if s := <-got; s != next {
			t.Errorf("got %d, want %d", s, next)
		}
	})
}

// TestStopIsLoud: a record of the future ends the following. The last state stays, and Ready says why.
func TestStopIsLoud(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.append(put("a", controllog.NoRevision))
		value := []byte{0x08, 99} // format 99
		stopped := w.follow("reader")
		<-stopped.Folded()
		waiting := make(chan error, 1)
		w.running.Go(func() {
			_, err := stopped.Wait(w.ctx, 100)
			waiting <- err
		})
		last := []byte{}
		if _, err := w.producer.Produce(w.ctx, kafka.Record{Topic: topic, Value: value, Headers: controllog.Seal(topic, key, value, last)}); err != nil {
			t.Fatal(err)
		}
		var stop *controllog.StopError
		if err := <-waiting; !errors.As(err, &stop) || !strings.Contains(stop.Reason, "99") {
			t.Errorf("got %v", err)
		}
		if err := stopped.Ready(); !errors.As(err, &stop) {
			t.Errorf("ready: %v", err)
		}
		if _, ok := stopped.State().Source("a"); !ok {
			t.Error("the last state is gone")
		}
		if _, err := w.try(put("b", controllog.NoRevision)); !errors.Is(err, controllog.ErrNotConfirmed) {
			t.Errorf("append after the stop: %v", err)
		}
	})
}

// TestManyWriters: commands that expect a revision are made one after the other, whoever writes; nothing is lost and nothing is made
// twice.
func TestManyWriters(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.append(put("a", controllog.NoRevision))
		const writers, changes = 4, 10
		var running sync.WaitGroup
		for i := range writers {
			f := w.follow(fmt.Sprint("control-", i))
			writer := controllog.NewWriter(w.producer, f, topic, key)
			running.Go(func() {
				<-f.Folded()
				for made := 0; made < changes; {
					s, _ := f.State().Source("a")
					switch _, err := writer.Append(w.ctx, put("a", s.GetRevision())); {
					case err == nil:
						made++
					case !errors.Is(err, controllog.ErrStaleRevision):
						t.Error(err)
						return
					}
				}
			})
		}
		running.Wait()
		ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
		defer cancel()
		if _, err := w.follower.Wait(ctx, 1+writers*changes); err != nil { // it follows on its own, and may be behind the writers'
			t.Errorf("only %d records: %v", w.follower.State().Sequence(), err)
		}
	})
}

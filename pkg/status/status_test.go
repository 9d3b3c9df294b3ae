package status_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/produce"
	"github.com/spillway/spillway/pkg/status"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	topic     = "spillway.status"
	scheduler = logv1.ReplicaKind_REPLICA_KIND_SCHEDULER
	enqueue   = logv1.ReplicaKind_REPLICA_KIND_ENQUEUE
)

type world struct {
	t        *testing.T
	ctx      context.Context
	broker   *kafkatest.Broker
	producer *produce.Producer
	reader   *status.Reader
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
		w.producer = produce.New(w.broker.Client(t, "writes", topic), produce.Config{Deadline: time.Second})
		w.running.Go(func() { w.producer.Run(ctx) })
		w.reader = w.read(nil)
		f(t, w)
	})
}

func (w *world) read(onSummary func(string, []*logv1.Summary)) *status.Reader {
	r := status.NewReader(w.broker.Client(w.t, "status", topic), topic, slog.New(slog.DiscardHandler))
	if onSummary != nil {
		r.OnSummary(onSummary)
	}
	w.running.Go(func() { r.Run(w.ctx) })
	return r
}

// replica is one that beats what its fields say.
type replica struct {
	*status.Writer
	name     string
	sequence atomic.Int64
	marks    atomic.Pointer[[]*logv1.SpillMark]
	stop     context.CancelFunc
}

func (w *world) replica(name string, kind logv1.ReplicaKind) *replica {
	r := &replica{name: name}
	ctx, stop := context.WithCancel(w.ctx)
	r.stop = stop
	r.Writer = status.NewWriter(w.producer, topic, func() *logv1.Status {
		s := &logv1.Status{Replica: name, Kind: kind, Address: name + ":7410", AppliedSequence: r.sequence.Load(), Shards: []int32{1}}
		if marks := r.marks.Load(); marks != nil {
			s.Marks = *marks
		}
		return s
	}, slog.New(slog.DiscardHandler))
	w.running.Go(func() { r.Run(ctx) })
	return r
}

func (r *replica) mark(marks ...*logv1.SpillMark) {
	r.marks.Store(&marks)
	r.Poke()
}

func names(replicas []*status.Replica) []string {
	var list []string
	for _, r := range replicas {
		list = append(list, r.Replica)
	}
	return list
}

func TestLive(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.replica("a", scheduler), w.replica("b", scheduler)
		w.replica("e", enqueue)
		time.Sleep(300 * time.Millisecond)
		if got := names(w.reader.Live(scheduler)); !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("schedulers %v", got)
		}
		if got := names(w.reader.Live(0)); !slices.Equal(got, []string{"a", "b", "e"}) {
			t.Errorf("all %v", got)
		}
		a.sequence.Store(7)
		began := time.Now()
		a.Poke()
		for changed := w.reader.Changed(); w.reader.Live(scheduler)[0].AppliedSequence != 7; changed = w.reader.Changed() {
			<-changed
		}
		if r := w.reader.Live(scheduler)[0]; r.AppliedSequence != 7 || r.Address != "a:7410" || !slices.Equal(r.Shards, []int32{1}) || time.Since(began) > 10*time.Millisecond {
			t.Errorf("after %v: %+v", time.Since(began), r)
		}
		synctest.Wait() // the writer has its answer too
		if age := time.Since(a.Beaten()); age > 10*time.Millisecond {
			t.Errorf("beaten %v ago", age)
		}
		b.stop()
		time.Sleep(1300 * time.Millisecond)
		if got := names(w.reader.Live(scheduler)); !slices.Equal(got, []string{"a"}) {
			t.Errorf("after the end of b: %v", got)
		}
		for range 100 { // an idle replica never drops out
			time.Sleep(33 * time.Millisecond)
			if got := names(w.reader.Live(scheduler)); !slices.Equal(got, []string{"a"}) {
				t.Fatalf("idle: %v", got)
			}
		}
	})
}

func TestMarks(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.replica("a", scheduler)
		lane := func(source, tenant string) int32 {
			m, ok := w.reader.Mark(source, tenant, "t")
			if !ok {
				return -2
			}
			return m.Lane
		}
		soon := func() { time.Sleep(20 * time.Millisecond) }
		soon()
		a.mark(&logv1.SpillMark{Source: "x", Type: "t", Tenant: "*", Lane: 3, BacklogJobs: 100})
		soon()
		if lane("x", "") != 3 || lane("x", "t1") != 3 || lane("y", "") != -2 {
			t.Errorf("lanes %d, %d, %d", lane("x", ""), lane("x", "t1"), lane("y", ""))
		}
		a.mark(&logv1.SpillMark{Source: "x", Type: "t", Tenant: "t1", Lane: 4}, &logv1.SpillMark{Source: "x", Type: "t", Tenant: "*", Lane: -1})
		soon()
		if lane("x", "t1") != 4 || lane("x", "t2") != -1 || len(w.reader.Marks()) != 2 {
			t.Errorf("lanes %d, %d", lane("x", "t1"), lane("x", "t2"))
		}
		late := w.read(nil) // a reader that starts now knows them at once
		soon()
		if _, ok := late.Mark("x", "t1", "t"); !ok {
			t.Error("a new reader does not know the marks")
		}
		a.mark()
		soon()
		if lane("x", "t1") != -2 || len(w.reader.Marks()) != 0 {
			t.Errorf("ended, but %v", w.reader.Marks())
		}
		// A new owner's mark is not ended by the old one's last words.
		a.mark(&logv1.SpillMark{Source: "x", Type: "t", Tenant: "*", Lane: 3})
		soon()
		b := w.replica("b", scheduler)
		b.mark(&logv1.SpillMark{Source: "x", Type: "t", Tenant: "*", Lane: 5})
		soon()
		a.mark()
		soon()
		if lane("x", "") != 5 {
			t.Errorf("lane %d after the old owner's end", lane("x", ""))
		}
		b.stop()
		time.Sleep(30 * time.Second)
		if lane("x", "") != 5 {
			t.Error("forgotten too early: a takeover may take that long")
		}
		time.Sleep(31 * time.Second)
		if lane("x", "") != -2 {
			t.Error("the mark of a replica that is gone stays for ever")
		}
	})
}

// TestMarksRecover: marks that were told while the broker was away, or lost on the way, are all there a moment after its return.
func TestMarksRecover(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.replica("a", scheduler)
		time.Sleep(time.Second)
		a.mark(&logv1.SpillMark{Source: "x", Type: "t", Tenant: "*", Lane: 3})
		time.Sleep(time.Second)
		w.broker.Stop()
		a.mark(&logv1.SpillMark{Source: "y", Type: "t", Tenant: "*", Lane: 4})
		time.Sleep(10 * time.Second)
		w.broker.Resume()
		time.Sleep(3 * time.Second)
		_, x := w.reader.Mark("x", "", "t")
		if _, y := w.reader.Mark("y", "", "t"); x || !y {
			t.Errorf("x %v, y %v", x, y)
		}
	})
}

func TestSummaries(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		type heard struct {
			replica string
			pool    string
			after   time.Duration
		}
		got := make(chan heard, 16)
		var sent atomic.Pointer[time.Time]
		w.read(func(replica string, list []*logv1.Summary) {
			got <- heard{replica, list[0].GetPool(), time.Since(*sent.Load())}
		})
		a := w.replica("a", scheduler)
		time.Sleep(2 * time.Second)
		for i := range 3 {
			now := time.Now()
			sent.Store(&now)
			a.Summarise(&logv1.Status{Replica: "a", Summaries: []*logv1.Summary{{Pool: fmt.Sprint(i)}}})
			if h := <-got; h.replica != "a" || h.pool != fmt.Sprint(i) || h.after > 10*time.Millisecond {
				t.Errorf("got %+v", h)
			}
		}
		if r := w.reader.Live(scheduler); len(r) != 1 || r[0].Kind != scheduler {
			t.Errorf("a summary beat took the replica's place: %+v", r)
		}
	})
}

// TestReaderLateBeats: beats that were written long before they are read make nobody live, and the view of the fleet says that it was
// interrupted.
func TestReaderLateBeats(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.replica("a", scheduler)
		time.Sleep(3 * time.Second)
		since, ok := w.reader.Since()
		if !ok || time.Since(since) < 2*time.Second || w.reader.Ready() != nil {
			t.Errorf("since %v, %v, %v", time.Since(since), ok, w.reader.Ready())
		}
		a.stop()
		time.Sleep(10 * time.Second)
		late := w.read(nil)
		time.Sleep(50 * time.Millisecond)
		if got := names(late.Live(0)); len(got) > 0 {
			t.Errorf("a reader that starts now finds %v live", got)
		}
		if late.Ready() == nil {
			t.Error("ready before it has watched for a second")
		}
		w.broker.Stop()
		time.Sleep(5 * time.Second)
		if _, ok := w.reader.Since(); ok {
			t.Error("an unbroken view of a broker that is away")
		}
		w.broker.Resume()
		time.Sleep(500 * time.Millisecond)
		if since, ok := w.reader.Since(); !ok || time.Since(since) > 500*time.Millisecond {
			t.Errorf("after its return since %v, %v", time.Since(since), ok)
		}
	})
}

// TestBeatsAreBounded: marks that change all the time cost a bounded number of records.
func TestBeatsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.replica("a", scheduler)
		time.Sleep(time.Second)
		client := w.broker.Client(t, "count", topic)
		count := func() int64 {
			ends, err := client.Ends(w.ctx, topic, []int{0})
			if err != nil {
				t.Fatal(err)
			}
			return ends[0].Next
		}
		before := count()
		time.Sleep(10 * time.Second)
		idle := count() - before
		if idle < 38 || idle > 42 {
			t.Errorf("%d idle beats in 10 s, want 40", idle)
		}
		before = count()
		for i := range 1000 {
			a.mark(&logv1.SpillMark{Source: "x", Type: "t", Tenant: "*", Lane: int32(i)})
			time.Sleep(time.Millisecond)
		}
		if busy := count() - before; busy > 210 {
			t.Errorf("%d beats in 1 s of changes", busy)
		}
		time.Sleep(20 * time.Millisecond)
		if m, _ := w.reader.Mark("x", "", "t"); m.Lane != 999 {
			t.Errorf("the last change is lost: lane %d", m.Lane)
		}
	})
}

// TestGarbageIsSkipped: what is no beat of ours stops nobody.
func TestGarbageIsSkipped(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		for _, r := range []kafka.Record{
			{Topic: topic, Value: []byte{0xff}, Headers: []kafka.Header{{Key: "spillway-v", Value: []byte("1")}}},
			{Topic: topic, Value: nil},
			{Topic: topic, Value: []byte("x"), Headers: []kafka.Header{{Key: "spillway-v", Value: []byte("2")}}},
		} {
			if _, err := w.producer.Produce(w.ctx, r); err != nil {
				t.Fatal(err)
			}
		}
		w.replica("a", scheduler)
		time.Sleep(time.Second)
		if got := names(w.reader.Live(0)); !slices.Equal(got, []string{"a"}) {
			t.Errorf("live %v", got)
		}
	})
}

// control is a control state that the test changes.
type control struct {
	folded chan struct{}
	mu     sync.Mutex
	next   chan struct{}
}

func (c *control) Folded() <-chan struct{} { return c.folded }
func (c *control) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}

func (c *control) change() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.next)
	c.next = make(chan struct{})
}

// TestFollow: no beat before there is a control state, one at once for each new one, and none when it has returned.
func TestFollow(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var sequence, collected atomic.Int64
		writer := status.NewWriter(w.producer, topic, func() *logv1.Status {
			collected.Store(sequence.Load())
			return &logv1.Status{Replica: "e", Kind: enqueue, AppliedSequence: sequence.Load()}
		}, slog.New(slog.DiscardHandler))
		c := &control{folded: make(chan struct{}), next: make(chan struct{})}
		ctx, stop := context.WithCancel(w.ctx)
		done := make(chan error, 1)
		sequence.Store(1)
		go func() { done <- writer.Follow(ctx, c) }()
		time.Sleep(2 * time.Second)
		if n := collected.Load(); n != 0 {
			t.Errorf("a beat of %d before the control log was folded", n)
		}
		close(c.folded)
		time.Sleep(time.Second + 100*time.Millisecond) // not when a beat is due anyway
		for n := int64(2); n < 6; n++ {
			sequence.Store(n)
			c.change()
			time.Sleep(20 * time.Millisecond)
			if got := collected.Load(); got != n {
				t.Errorf("%d is acknowledged 20 ms after %d", got, n)
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestPressure(t *testing.T) {
	for value, want := range map[float64]logv1.PressureLevel{
		0: logv1.PressureLevel_PRESSURE_LEVEL_NORMAL, .49: logv1.PressureLevel_PRESSURE_LEVEL_NORMAL, .5: logv1.PressureLevel_PRESSURE_LEVEL_ELEVATED,
		.79: logv1.PressureLevel_PRESSURE_LEVEL_ELEVATED, .8: logv1.PressureLevel_PRESSURE_LEVEL_SEVERE, 1: logv1.PressureLevel_PRESSURE_LEVEL_SEVERE,
	} {
		if p := status.Pressure(value); p.GetLevel() != want || p.GetValue() != value {
			t.Errorf("%v: %v", value, p)
		}
	}
}

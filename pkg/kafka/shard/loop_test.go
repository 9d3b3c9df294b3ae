package shard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"go.uber.org/goleak"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/shard"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log is a Fetcher over records in memory: [first, next) of one partition, every
// value of the same size.
type log struct {
	mu          sync.Mutex
	first, next int64
	size        int   // of a record's value
	perFetch    int   // records in an answer
	fail        error // of Fetch, while not nil
	fetches     int
	refreshes   int
	grown       chan struct{}
}

func (l *log) Fetch(ctx context.Context, topic string, partition int, from int64, maxBytes int, maxWait time.Duration) (kafka.Batch, error) {
	timeout := time.After(maxWait)
	for {
		l.mu.Lock()
		l.fetches++
		batch := kafka.Batch{HighWatermark: l.next, LogStart: l.first}
		err := l.fail
		if err == nil && (from < l.first || from > l.next) {
			err = fmt.Errorf("fetch: %w", kafkago.OffsetOutOfRange)
		}
		for o := from; err == nil && o < l.next && len(batch.Messages) < l.perFetch; o++ {
			m := kafka.Message{Topic: topic, Partition: partition, Offset: o, Value: make([]byte, l.size)}
			batch.Bytes += m.Size()
			batch.Messages = append(batch.Messages, m)
		}
		grown := l.grown
		l.mu.Unlock()
		if err != nil || len(batch.Messages) > 0 {
			return batch, err
		}
		select {
		case <-grown:
		case <-timeout:
			return batch, nil
		case <-ctx.Done():
			return kafka.Batch{}, ctx.Err()
		}
	}
}

func (l *log) Ends(context.Context, string, []int) (map[int]kafka.Range, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return map[int]kafka.Range{0: {First: l.first, Next: l.next}}, nil
}

func (l *log) Refresh(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refreshes++
	return nil
}

func (l *log) set(change func(*log)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(l)
	close(l.grown)
	l.grown = make(chan struct{})
}

// reader takes what a loop delivers.
type reader struct {
	mu      sync.Mutex
	room    int // how many records it takes before it is full; -1 is no limit
	taken   []kafka.Message
	resets  [][2]int64
	offers  int
	failing error
}

func (r *reader) deliver(_ context.Context, records []kafka.Message) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.offers++
	n := len(records)
	if r.room >= 0 {
		n = min(n, r.room)
		r.room -= n
	}
	r.taken = append(r.taken, records[:n]...)
	return n, r.failing
}

func (r *reader) reset(from, to int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resets = append(r.resets, [2]int64{from, to})
}

func (r *reader) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.taken)
}

// finish forgets the first n records taken and returns them.
func (r *reader) finish(n int) []kafka.Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	first := r.taken[:n:n]
	r.taken = r.taken[n:]
	return first
}

func (r *reader) add(room int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.room += room
}

// looping runs a loop over l in a bubble and hands it to f.
func looping(t *testing.T, l *log, r *reader, budget int64, change func(*shard.LoopConfig), f func(t *testing.T, loop *shard.Loop, budget *shard.Budget)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l.grown = make(chan struct{})
		b := shard.NewBudget(budget)
		config := shard.LoopConfig{Fetch: l, Topic: "t", Budget: b, Deliver: r.deliver, Reset: r.reset, Log: quiet}
		if change != nil {
			change(&config)
		}
		loop := shard.NewLoop(config)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- loop.Run(ctx) }()
		f(t, loop, b)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		for _, m := range r.taken {
			loop.Release(m.Size())
		}
		if b.Used() != 0 || loop.Held() != 0 {
			t.Errorf("at the end %d bytes of the budget are used, %d held", b.Used(), loop.Held())
		}
	})
}

const plenty = 64 << 20

// pass lets bubble time go by, and everybody act on it.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestLoopReadsInOrder(t *testing.T) {
	l, r := &log{next: 10, size: 100, perFetch: 3}, &reader{room: -1}
	looping(t, l, r, plenty, func(c *shard.LoopConfig) { c.From = 2 }, func(t *testing.T, loop *shard.Loop, _ *shard.Budget) {
		synctest.Wait()
		if r.count() != 8 || loop.Next() != 10 || loop.End() != 10 {
			t.Errorf("took %d, next %d, end %d", r.count(), loop.Next(), loop.End())
		}
		l.set(func(l *log) { l.next = 11 }) // wakes the parked fetch
		synctest.Wait()
		for i, m := range r.taken {
			if m.Offset != int64(2+i) {
				t.Errorf("record %d has offset %d", i, m.Offset)
			}
		}
		if r.count() != 9 {
			t.Errorf("took %d", r.count())
		}
	})
}

func TestLoopStopsAtBudgetAndHold(t *testing.T) {
	for name, hold := range map[string]int64{"budget": 0, "hold": 4 << 20} {
		t.Run(name, func(t *testing.T) {
			l, r := &log{next: 1_000_000, size: 10_000, perFetch: 30}, &reader{room: -1}
			var budget int64 = 4 << 20
			if hold > 0 {
				budget = plenty
			}
			looping(t, l, r, budget, func(c *shard.LoopConfig) { c.Hold = hold }, func(t *testing.T, loop *shard.Loop, b *shard.Budget) {
				synctest.Wait()
				full := r.count()
				if held := loop.Held(); held < 3<<20 || held > 4<<20+shard.FetchBytes || held != b.Used() {
					t.Errorf("stopped at %d bytes held, %d used", held, b.Used())
				}
				pass(time.Minute)
				if r.count() != full {
					t.Errorf("read on without room: %d, then %d", full, r.count())
				}
				for _, m := range r.finish(full / 2) {
					loop.Release(m.Size())
				}
				synctest.Wait()
				if more := r.count() - (full - full/2); more < full/3 {
					t.Errorf("after a release it read only %d more", more)
				}
			})
		})
	}
}

func TestLoopPause(t *testing.T) {
	l, r := &log{next: 0, size: 100, perFetch: 10}, &reader{room: -1}
	looping(t, l, r, plenty, nil, func(t *testing.T, loop *shard.Loop, _ *shard.Budget) {
		synctest.Wait() // a fetch is parked
		loop.Pause()
		l.set(func(l *log) { l.next = 5 })
		pass(time.Minute)
		if r.count() != 0 || !loop.Paused() {
			t.Errorf("%d records while paused", r.count())
		}
		before := l.fetches
		pass(time.Minute)
		if l.fetches != before {
			t.Errorf("%d fetches while paused", l.fetches-before)
		}
		loop.Resume()
		synctest.Wait()
		if r.count() != 5 {
			t.Errorf("%d records after the pause", r.count())
		}
	})
}

func TestWhatWasNotTakenIsOfferedAgain(t *testing.T) {
	l, r := &log{next: 20, size: 100, perFetch: 10}, &reader{room: 4}
	looping(t, l, r, plenty, nil, func(t *testing.T, loop *shard.Loop, _ *shard.Budget) {
		synctest.Wait()
		if r.count() != 4 || loop.Next() != 4 {
			t.Errorf("took %d, next is %d", r.count(), loop.Next())
		}
		r.add(3)
		loop.Resume() // at once
		synctest.Wait()
		if r.count() != 7 {
			t.Errorf("took %d after Resume", r.count())
		}
		r.add(100)
		pass(60 * time.Millisecond) // without Resume: soon
		if r.count() != 20 {
			t.Errorf("took %d in the end", r.count())
		}
	})
}

// Lost wake-up: Resume comes between the refusal and the loop's waiting.
func TestResumeWithinDeliverIsNotLost(t *testing.T) {
	l := &log{next: 1, size: 1, perFetch: 1}
	var loop *shard.Loop
	var offers []time.Time
	r := &reader{}
	looping(t, l, r, plenty, func(c *shard.LoopConfig) {
		c.Deliver = func(context.Context, []kafka.Message) (int, error) {
			offers = append(offers, time.Now())
			if len(offers) == 1 {
				loop.Resume()
				return 0, nil
			}
			loop.Release(65)
			return 1, nil
		}
		l.fail = kafkago.NotLeaderForPartition // until loop is set
	}, func(t *testing.T, made *shard.Loop, _ *shard.Budget) {
		loop = made
		l.set(func(l *log) { l.fail = nil })
		pass(10 * time.Second)
		if len(offers) != 2 || offers[1].Sub(offers[0]) != 0 {
			t.Errorf("offers at %v", offers)
		}
	})
}

func TestLoopRepairsItsOffset(t *testing.T) {
	for _, c := range []struct {
		name        string
		from        int64
		first, next int64
		resets      [][2]int64
		taken       int
	}{
		{"below the log start: forward to it", 3, 10, 15, [][2]int64{{3, 10}}, 5},
		{"above the end: back to the log start, never the end", 100, 10, 15, [][2]int64{{100, 10}}, 5},
		{"above an empty partition (embedded broker after a kill)", 100, 0, 0, [][2]int64{{100, 0}}, 0},
		{"at the end", 15, 10, 15, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, r := &log{first: c.first, next: c.next, size: 1, perFetch: 100}, &reader{room: -1}
			looping(t, l, r, plenty, func(cfg *shard.LoopConfig) { cfg.From = c.from }, func(t *testing.T, loop *shard.Loop, _ *shard.Budget) {
				pass(10 * time.Second)
				if fmt.Sprint(r.resets) != fmt.Sprint(c.resets) || r.count() != c.taken || loop.Next() != c.next {
					t.Errorf("resets %v, %d taken, next %d", r.resets, r.count(), loop.Next())
				}
			})
		})
	}
}

func TestLoopRetries(t *testing.T) {
	l, r := &log{next: 5, size: 1, perFetch: 100, fail: kafkago.NotLeaderForPartition}, &reader{room: -1}
	looping(t, l, r, plenty, nil, func(t *testing.T, loop *shard.Loop, _ *shard.Budget) {
		pass(time.Minute)
		if l.refreshes < 30 || l.refreshes > 150 {
			t.Errorf("%d refreshes in a minute of failure", l.refreshes)
		}
		l.set(func(l *log) { l.fail = nil })
		pass(time.Second)
		if r.count() != 5 {
			t.Errorf("took %d afterwards", r.count())
		}
	})
}

func TestLoopGivesUpOnABrokenPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		corrupt := errors.New("crc mismatch")
		l := &log{next: 5, fail: corrupt, grown: make(chan struct{})}
		budget := shard.NewBudget(plenty)
		loop := shard.NewLoop(shard.LoopConfig{Fetch: l, Topic: "t", Budget: budget, Deliver: (&reader{}).deliver, Log: quiet})
		began := time.Now()
		if err := loop.Run(t.Context()); !errors.Is(err, corrupt) || budget.Used() != 0 {
			t.Errorf("Run: %v, %d bytes used", err, budget.Used())
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}

func TestFailingDeliveryEndsTheLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{next: 5, size: 1, perFetch: 5, grown: make(chan struct{})}
		r := &reader{room: 2, failing: errors.New("broken")}
		budget := shard.NewBudget(plenty)
		loop := shard.NewLoop(shard.LoopConfig{Fetch: l, Topic: "t", Budget: budget, Deliver: r.deliver, Log: quiet})
		if err := loop.Run(t.Context()); !errors.Is(err, r.failing) {
			t.Errorf("Run: %v", err)
		}
		if used := budget.Used(); used != 2*65 || loop.Next() != 2 {
			t.Errorf("%d bytes used, next %d", used, loop.Next())
		}
	})
}

// The same loop over a broker: it reads what is written, through a cut, and goes
// on at the log start after a trim.
func TestLoopOverABroker(t *testing.T) {
	bubble(t, func(t *testing.T, broker *kafkatest.Broker) {
		client := broker.Client(t, "loop", layout.Scheduled()...)
		topic := layout.Jobs("default")
		write := func(n int) (next int64) {
			t.Helper()
			records := make([]kafka.Record, n)
			for i := range records {
				records[i] = kafka.Record{Topic: topic, Partition: 0, Value: fmt.Appendf(nil, "%d", i)}
			}
			if _, err := client.Partitions(t.Context(), topic); err != nil {
				t.Fatal(err)
			}
			for {
				base, err := client.Append(t.Context(), topic, 0, records)
				if err == nil {
					return base + int64(n)
				}
				if !kafka.Retriable(err) {
					t.Fatal(err)
				}
			}
		}
		write(100)
		r := &reader{room: -1}
		loop := shard.NewLoop(shard.LoopConfig{
			Fetch: client, Topic: topic, Partition: 0, Budget: shard.NewBudget(plenty), Deliver: r.deliver, Reset: r.reset, Log: quiet,
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- loop.Run(ctx) }()
		eventually(t, 5*time.Second, "100 read", func() bool { return r.count() == 100 })
		broker.Cut()
		next := write(50) // 150, or more if a request was cut off after it was served
		eventually(t, 5*time.Second, "the rest is read", func() bool { return loop.Next() == next })
		for i, m := range r.taken {
			if m.Offset != int64(i) {
				t.Fatalf("record %d has offset %d", i, m.Offset)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}

		if err := client.DeleteRecords(t.Context(), topic, map[int]int64{0: 120}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		again := &reader{room: -1}
		loop = shard.NewLoop(shard.LoopConfig{
			Fetch: client, Topic: topic, Partition: 0, From: 100, Budget: shard.NewBudget(plenty), Deliver: again.deliver, Reset: again.reset, Log: quiet,
		})
		go func() { done <- loop.Run(ctx) }()
		eventually(t, 5*time.Second, "what is left is read", func() bool { return int64(again.count()) == next-120 })
		if fmt.Sprint(again.resets) != "[[100 120]]" {
			t.Errorf("resets %v", again.resets)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A broker that is away is one trouble, however many partitions are read.
func TestManyLoopsComplainAsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &log{fail: io.ErrUnexpectedEOF, grown: make(chan struct{})}
		var said bytes.Buffer
		out := slog.New(slog.NewTextHandler(&said, nil)) // it locks
		budget := shard.NewBudget(100 * shard.FetchBytes)
		ctx, cancel := context.WithCancel(t.Context())
		var loops sync.WaitGroup
		for p := range 40 {
			loop := shard.NewLoop(shard.LoopConfig{
				Fetch: l, Topic: "t", Partition: p, Budget: budget, Log: out,
				Deliver: func(context.Context, []kafka.Message) (int, error) { return 0, nil },
			})
			loops.Go(func() {
				if err := loop.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(25 * time.Second)
		cancel()
		loops.Wait()
		if n := bytes.Count(said.Bytes(), []byte("fetching fails")); n < 2 || n > 4 {
			t.Errorf("%d lines in 25 s:\n%s", n, said.String())
		}
	})
}

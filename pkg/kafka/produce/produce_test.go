package produce_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/produce"
)

// rig is a running producer on a broker with the topic "t", four partitions.
type rig struct {
	*produce.Producer
	broker *kafkatest.Broker
	client *kafka.Client
	stop   func() // ends Run and waits for it
}

// bubble runs f with a rig on virtual time.
func bubble(t *testing.T, config produce.Config, f func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{broker: kafkatest.StartCluster(t, 2)}
		r.broker.CreateTopic(t, "t", 4)
		r.client = r.broker.Client(t, "test")
		if err := r.client.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.Producer = produce.New(r.client, config)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		r.stop = sync.OnceFunc(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		t.Cleanup(r.stop)
		synctest.Wait()
		f(t, r)
		if bytes, records := r.Held(); bytes != 0 || records != 0 {
			r.stop()
			if bytes, records = r.Held(); bytes != 0 || records != 0 {
				t.Errorf("%d bytes, %d records held at the end", bytes, records)
			}
		}
	})
}

func record(partition int, value string) produce.Record {
	return produce.Record{Topic: "t", Partition: partition, Key: []byte("k"), Value: []byte(value)}
}

func (r *rig) values(t *testing.T, partition int) []string {
	t.Helper()
	var values []string
	for next := int64(0); ; {
		batch, err := r.client.Fetch(t.Context(), "t", partition, next, 8<<20, time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if len(batch.Messages) == 0 {
			return values
		}
		for _, m := range batch.Messages {
			values = append(values, string(m.Value))
			next = m.Offset + 1
		}
	}
}

func TestProduce(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		for i := range int64(3) {
			offset, err := r.Produce(t.Context(), record(1, fmt.Sprint(i)))
			if err != nil || offset != i {
				t.Fatalf("offset %d (%v), want %d", offset, err, i)
			}
		}
		if got := r.values(t, 1); fmt.Sprint(got) != "[0 1 2]" {
			t.Errorf("log holds %v", got)
		}
	})
}

func TestWhatArrivesMeanwhileIsTheNextBatch(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		if _, err := r.Produce(t.Context(), record(0, "first")); err != nil {
			t.Fatal(err)
		}
		requests := r.broker.Count(kafkatest.Produce)
		release := r.broker.Hold(kafkatest.Produce)
		const n = 2500 // 1 + 1000 + 1000 + 499
		offsets := make([]int64, n)
		for i := range n {
			err := r.Send(record(0, fmt.Sprint(i)), func(offset int64, err error) {
				if err != nil {
					t.Error(err)
				}
				offsets[i] = offset
			})
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				synctest.Wait() // its request is on its way
			}
		}
		release()
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, offset := range offsets {
			if offset != int64(i+1) {
				t.Fatalf("record %d is at offset %d", i, offset)
			}
		}
		if got := requests.Load(); got != 4 {
			t.Errorf("%d requests for %d records, want 4", got, n)
		}
	})
}

func TestBatchesAreBoundedInBytes(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		r.broker.Stop() // so that all wait for one moment
		requests := r.broker.Count(kafkatest.Produce)
		value := string(make([]byte, 100<<10))
		for range 4 { // two per batch of 256 KiB
			if err := r.Send(record(0, value), func(_ int64, err error) {
				if err != nil {
					t.Error(err)
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		r.broker.Resume()
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := requests.Load(); got < 2 || got > 3 {
			t.Errorf("%d requests, want 2 or 3", got)
		}
		if _, err := r.Produce(t.Context(), record(0, string(make([]byte, 1<<20)))); err != nil {
			t.Errorf("a record of 1 MiB does not travel alone: %v", err)
		}
	})
}

func TestTooLarge(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		err := r.Send(record(0, string(make([]byte, kafka.MaxRecordBytes))), func(int64, error) { t.Error("done ran") })
		if !errors.Is(err, kafka.ErrTooLarge) || !errors.Is(err, kafka.ErrUnsent) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestBudget(t *testing.T) {
	size := func(r produce.Record) int64 { return int64(r.Size()) }(record(0, "x"))
	bubble(t, produce.Config{MaxBytes: 3 * size, Deadline: time.Second}, func(t *testing.T, r *rig) {
		r.broker.Stop()
		failed := 0
		for range 3 {
			if err := r.Send(record(0, "x"), func(_ int64, err error) {
				if !errors.Is(err, kafka.ErrUnsent) {
					t.Errorf("error is %v", err)
				}
				failed++
			}); err != nil {
				t.Fatal(err)
			}
		}
		err := r.Send(record(1, "x"), func(int64, error) { t.Error("done ran") })
		if !errors.Is(err, kafka.ErrFull) || !errors.Is(err, kafka.ErrUnsent) {
			t.Errorf("error is %v", err)
		}
		_ = r.Flush(t.Context())
		if failed != 3 {
			t.Errorf("%d of 3 failed", failed)
		}
		if err := r.Send(record(1, "x"), func(int64, error) {}); err != nil {
			t.Errorf("bytes did not come back: %v", err)
		}
		_ = r.Flush(t.Context())
	})
}

func TestDeadlineOfUnsentRecords(t *testing.T) {
	bubble(t, produce.Config{Deadline: 5 * time.Second}, func(t *testing.T, r *rig) {
		r.broker.Stop()
		begin := time.Now()
		_, err := r.Produce(t.Context(), record(0, "x"))
		if !errors.Is(err, kafka.ErrUnsent) || errors.Is(err, kafka.ErrFateUnknown) ||
			!errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("error is %v", err)
		}
		if took := time.Since(begin); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("failed after %v, want 5s", took)
		}
	})
}

func TestABrokerThatComesBack(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		r.broker.Stop()
		var back time.Time
		go func() {
			time.Sleep(7 * time.Second)
			back = time.Now()
			r.broker.Resume()
		}()
		offset, err := r.Produce(t.Context(), record(0, "x"))
		if err != nil || offset != 0 {
			t.Fatalf("offset %d, error %v", offset, err)
		}
		if late := time.Since(back); late > time.Second {
			t.Errorf("written %v after the broker was back", late)
		}
	})
}

// The answer is lost, the record is there: retried, it is there twice.
func TestAmbiguousAttemptIsRetried(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		r.broker.Fault(kafkatest.Produce, "t", 7, 1)
		offset, err := r.Produce(t.Context(), record(0, "x"))
		if err != nil || offset != 1 {
			t.Errorf("offset %d, error %v", offset, err)
		}
	})
}

// An attempt of unknown fate is not made unsent by a later one that is
// refused: neither by the broker nor by the gate, nor by a missing broker.
func TestAmbiguityStays(t *testing.T) {
	refuse := errors.New("fenced")
	for name, second := range map[string]func(r *rig, gate *error){
		"the broker refuses": func(r *rig, _ *error) { r.broker.Fault(kafkatest.Produce, "t", 29, -1) },
		"the gate is shut":   func(_ *rig, gate *error) { *gate = refuse },
		"the broker is gone": func(r *rig, _ *error) { r.broker.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			var r0 *rig
			var gate error
			asked := 0
			config := produce.Config{Deadline: 3 * time.Second, Gate: func() error {
				if asked++; asked == 2 {
					second(r0, &gate)
				}
				return gate
			}}
			bubble(t, config, func(t *testing.T, r *rig) {
				r0 = r
				r.broker.Fault(kafkatest.Produce, "t", 7, 1)
				_, err := r.Produce(t.Context(), record(0, "x"))
				if !errors.Is(err, kafka.ErrFateUnknown) || errors.Is(err, kafka.ErrUnsent) {
					t.Errorf("error is %v", err)
				}
			})
		})
	}
}

func TestRefusedIsUnsent(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		r.broker.Fault(kafkatest.Produce, "t", 29, 1) // no right to write
		requests := r.broker.Count(kafkatest.Produce)
		_, err := r.Produce(t.Context(), record(0, "x"))
		if !errors.Is(err, kafka.ErrUnsent) || errors.Is(err, kafka.ErrFateUnknown) {
			t.Errorf("error is %v", err)
		}
		if n := requests.Load(); n != 1 {
			t.Errorf("%d attempts, want 1", n)
		}
	})
}

func TestRetryAfterNotLeader(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		if _, err := r.Produce(t.Context(), record(0, "a")); err != nil {
			t.Fatal(err)
		}
		r.broker.Move(t, "t", 0, 1-r.broker.Leader("t", 0))
		begin := time.Now()
		if offset, err := r.Produce(t.Context(), record(0, "b")); err != nil || offset != 1 {
			t.Fatalf("offset %d, error %v", offset, err)
		}
		if took := time.Since(begin); took > 50*time.Millisecond {
			t.Errorf("the moved leader cost %v", took)
		}
		if got := r.values(t, 0); fmt.Sprint(got) != "[a b]" {
			t.Errorf("log holds %v", got)
		}
	})
}

func TestCallerLeaves(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		r.broker.Stop()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.Produce(ctx, record(0, "left"))
		if !errors.Is(err, kafka.ErrUnsent) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error is %v", err)
		}
		if bytes, _ := r.Held(); bytes != 0 {
			t.Errorf("%d bytes still held", bytes)
		}
		r.broker.Resume()
		if _, err := r.Produce(t.Context(), record(0, "stayed")); err != nil {
			t.Fatal(err)
		}
		if got := r.values(t, 0); fmt.Sprint(got) != "[stayed]" {
			t.Errorf("log holds %v: a dropped record was written", got)
		}
	})
}

func TestCallerLeavesARequestInFlight(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		release := r.broker.Hold(kafkatest.Produce)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := r.Produce(ctx, record(0, "x"))
		if !errors.Is(err, kafka.ErrFateUnknown) || errors.Is(err, kafka.ErrUnsent) {
			t.Errorf("error is %v", err)
		}
		if bytes, records := r.Held(); bytes == 0 || records != 1 {
			t.Errorf("%d bytes held of a record in flight", bytes)
		}
		release()
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := r.values(t, 0); fmt.Sprint(got) != "[x]" {
			t.Errorf("log holds %v", got)
		}
	})
}

func TestGate(t *testing.T) {
	shut := errors.New("heartbeat too old")
	var gate error
	bubble(t, produce.Config{Gate: func() error { return gate }}, func(t *testing.T, r *rig) {
		gate = shut
		_, err := r.Produce(t.Context(), record(0, "x"))
		if !errors.Is(err, kafka.ErrUnsent) || !errors.Is(err, shut) {
			t.Errorf("error is %v", err)
		}
		gate = nil
		if offset, err := r.Produce(t.Context(), record(0, "y")); err != nil || offset != 0 {
			t.Errorf("offset %d, error %v", offset, err)
		}
	})
}

func TestStoreFull(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		r.broker.Fault(kafkatest.Produce, "t", 89, 1)
		_, err := r.Produce(t.Context(), record(0, "x"))
		if !errors.Is(err, kafka.ErrFull) || !errors.Is(err, kafka.ErrUnsent) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestStopFailsWhatIsLeft(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		release := r.broker.Hold(kafkatest.Produce)
		defer release()
		results := make(map[string]error)
		send := func(value string) {
			if err := r.Send(record(0, value), func(_ int64, err error) { results[value] = err }); err != nil {
				t.Fatal(err)
			}
		}
		send("flying")
		synctest.Wait()
		send("queued")
		r.stop()
		if err := results["flying"]; !errors.Is(err, kafka.ErrFateUnknown) {
			t.Errorf("in flight: %v", err)
		}
		if err := results["queued"]; !errors.Is(err, kafka.ErrUnsent) {
			t.Errorf("queued: %v", err)
		}
		if err := r.Send(record(0, "late"), func(int64, error) { t.Error("done ran") }); !errors.Is(err, kafka.ErrUnsent) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestSendBeforeRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := kafkatest.Start(t)
		broker.CreateTopic(t, "t", 1)
		p := produce.New(broker.Client(t, "test"), produce.Config{})
		var written bool
		if err := p.Send(record(0, "x"), func(_ int64, err error) { written = err == nil }); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		if err := p.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err := <-ended; err != nil || !written {
			t.Errorf("written %v, error %v", written, err)
		}
	})
}

// Every done runs exactly once, whatever breaks, and nothing acknowledged is
// missing from the log or out of order.
func TestCutsLoseNothing(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		const n = 400
		acked := make(map[int][]string)
		results := 0
		for i := range n {
			value := fmt.Sprint(i)
			if err := r.Send(record(i%4, value), func(_ int64, err error) {
				results++
				if err == nil {
					acked[i%4] = append(acked[i%4], value)
				}
			}); err != nil {
				t.Fatal(err)
			}
			if i%40 == 20 {
				r.broker.Cut()
			}
			time.Sleep(time.Millisecond)
		}
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if results != n {
			t.Errorf("%d results for %d records", results, n)
		}
		for q := range 4 {
			seen := make(map[string]bool)
			var first []string
			for _, v := range r.values(t, q) {
				if !seen[v] {
					first = append(first, v)
				}
				seen[v] = true
			}
			if fmt.Sprint(first) != fmt.Sprint(acked[q]) {
				t.Errorf("partition %d holds %v, acknowledged were %v", q, first, acked[q])
			}
		}
	})
}

// After a broker's restart the pool is full of connections that nobody has
// noticed to be dead: it must not take one attempt, and one pause, for each.
func TestManyDeadConnections(t *testing.T) {
	bubble(t, produce.Config{}, func(t *testing.T, r *rig) {
		const n = 64
		r.broker.CreateTopic(t, "wide", n)
		release := r.broker.Hold(kafkatest.Produce) // all in flight at once: a connection each
		for q := range n {
			if err := r.Send(produce.Record{Topic: "wide", Partition: q, Value: []byte("x")}, func(int64, error) {}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		release()
		if err := r.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.broker.Cut()
		begin := time.Now()
		if _, err := r.Produce(t.Context(), record(0, "x")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took > 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
	})
}

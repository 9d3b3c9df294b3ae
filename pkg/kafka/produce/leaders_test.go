package produce_test

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/kafka/produce"
)

// many is a producer with as many partitions as a scheduler writes to, which counts
// how often it dials.
func many(t *testing.T, f func(t *testing.T, broker *kafkatest.Broker, p *produce.Producer, dials *atomic.Int64)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		broker := kafkatest.StartCluster(t, 3)
		broker.CreateTopic(t, "t", partitions)
		var dials atomic.Int64
		config := broker.Config("test", "t")
		config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dials.Add(1)
			time.Sleep(time.Millisecond) // of the network
			return broker.Dial(ctx, network, address)
		}
		client, err := kafka.New(config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		if err := client.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		p := produce.New(client, produce.Config{})
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		f(t, broker, p, &dials)
	})
}

const partitions = 40

// all writes a record to every partition and returns how long the last one took.
func all(t *testing.T, p *produce.Producer) time.Duration {
	t.Helper()
	began := time.Now()
	var written sync.WaitGroup
	for q := range partitions {
		written.Go(func() {
			if _, err := p.Produce(t.Context(), record(q, "x")); err != nil {
				t.Errorf("partition %d: %v", q, err)
			}
		})
	}
	written.Wait()
	return time.Since(began)
}

// All leaders move at once: each partition finds out, and one refresh serves many.
func TestLeadersOfAllPartitionsMove(t *testing.T) {
	many(t, func(t *testing.T, broker *kafkatest.Broker, p *produce.Producer, _ *atomic.Int64) {
		all(t, p)
		for q := range partitions {
			broker.Move(t, "t", q, (broker.Leader("t", q)+1)%3)
		}
		asked := broker.Count(kafkatest.Metadata)
		if took := all(t, p); took > 100*time.Millisecond {
			t.Errorf("moved leaders cost %s", took)
		}
		if n := asked.Load(); n > 8 { // a refresh is the request for "!" and the one of the view
			t.Errorf("%d requests for metadata for %d partitions that moved at once", n, partitions)
		}
	})
}

// The brokers are away: what waits does not turn into a storm of connections, and
// is there soon after they are back.
func TestBrokersAwayAreAskedWithPatience(t *testing.T) {
	many(t, func(t *testing.T, broker *kafkatest.Broker, p *produce.Producer, dials *atomic.Int64) {
		all(t, p)
		broker.Stop()
		dials.Store(0)
		done := make(chan time.Duration, 1)
		go func() { done <- all(t, p) }()
		const away = 6 * time.Second
		time.Sleep(away)
		n := dials.Load()
		broker.Resume()
		took := <-done - away
		t.Logf("%d dials in %s for %d partitions, all written %s after the brokers were back", n, away, partitions, took)
		if took > 600*time.Millisecond {
			t.Errorf("the last record was written %s after the brokers were back", took)
		}
		if perSecond := n / int64(away/time.Second); perSecond > 120 {
			t.Errorf("%d dials a second", perSecond)
		}
	})
}

// A broker that takes requests and says nothing, as one whose machine is gone: the
// attempt ends long before the record's deadline, so that another leader can be found.
func TestSilentBrokerCostsOneAttempt(t *testing.T) {
	bubble(t, produce.Config{Deadline: 20 * time.Second}, func(t *testing.T, r *rig) {
		if _, err := r.Produce(t.Context(), record(0, "a")); err != nil {
			t.Fatal(err)
		}
		attempts, release := r.broker.Count(kafkatest.Produce), r.broker.Hold(kafkatest.Produce)
		done := make(chan error, 1)
		go func() {
			_, err := r.Produce(t.Context(), record(0, "b"))
			done <- err
		}()
		time.Sleep(7 * time.Second)
		if n := attempts.Load(); n != 2 {
			t.Errorf("%d attempts in 7 s", n)
		}
		release()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

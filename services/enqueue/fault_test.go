package enqueue_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/rpc"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/enqueue"
)

// The answer comes after the log has the record, and not before.
func TestDurableBeforeAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		release := w.broker.Hold(kafkatest.Produce)
		answered := make(chan error, 2)
		go func() {
			_, err := w.send(spec("crm"))
			answered <- err
		}()
		go func() {
			resp, err := w.enqueue.EnqueueBatch(w.ctx, &enqueuev1.EnqueueBatchRequest{Jobs: []*jobv1.JobSpec{spec("crm"), spec("crm")}})
			if err == nil && (resp.GetItems()[0].GetOk() == nil || resp.GetItems()[1].GetOk() == nil) {
				err = fmt.Errorf("items %v", resp.GetItems())
			}
			answered <- err
		}()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		select {
		case err := <-answered:
			t.Fatal("answered before the log did:", err)
		default:
		}
		release()
		for range 2 {
			if err := <-answered; err != nil {
				t.Error(err)
			}
		}
		if n := count(w.jobs()); n != 3 {
			t.Errorf("%d records", n)
		}
	})
}

// H20: a record that was written without an answer is of unknown fate, within the deadline, and never refused.
func TestH20FateUnknown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		remove := w.broker.Fault(kafkatest.Produce, topics.Jobs("default"), 7, -1) // request timed out, and the work is done
		defer remove()
		began := time.Now()
		_, err := w.send(spec("crm"))
		if status.Code(err) != codes.Aborted || rpc.ReasonOf(err) != "FATE_UNKNOWN" || time.Since(began) > 20*time.Second+100*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		resp, err := w.enqueue.EnqueueBatch(w.ctx, &enqueuev1.EnqueueBatchRequest{Jobs: []*jobv1.JobSpec{spec("crm"), spec("unknown")}})
		if err != nil || rpc.FromStatus(resp.GetItems()[0].GetError()).Reason != "FATE_UNKNOWN" || rpc.FromStatus(resp.GetItems()[1].GetError()).Reason != "NOT_ALLOWED" {
			t.Errorf("%v, %v", resp, err)
		}
		if count(w.jobs()) == 0 {
			t.Error("the fault did not fire: nothing was written")
		}
	})
}

// A broker that is away: what was never sent is answered UNAVAILABLE within the deadline, memory stays within its bound while others are refused
// at once, and everything goes on when it is back.
func TestBudgetBound(t *testing.T) {
	const inflight = 8 << 20
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("flood")
		w.register("victim", func(s *automationv1.Source) { s.MaxPriority = jobv1.Priority_PRIORITY_CRITICAL })
		w.broker.Stop()
		var calls sync.WaitGroup
		var mu sync.Mutex
		reasons := map[string]int{}
		began := time.Now()
		for range 40 {
			calls.Go(func() {
				s := spec("flood")
				s.Payload = make([]byte, 200<<10)
				_, err := w.send(s)
				if status.Code(err) != codes.Aborted && rpc.RetryAfter(err) == 0 {
					t.Error("no RetryInfo:", err)
				}
				if rpc.ReasonOf(err) == "OVERLOADED" && time.Since(began) > 10*time.Millisecond {
					t.Errorf("refused after %v", time.Since(began))
				}
				mu.Lock()
				defer mu.Unlock()
				reasons[rpc.ReasonOf(err)]++
			})
		}
		time.Sleep(time.Second)
		// A quarter is the flood's, and room is left for others.
		victim := make(chan error, 1)
		go func() {
			s := spec("victim")
			s.Priority = jobv1.Priority_PRIORITY_CRITICAL
			_, err := w.send(s)
			victim <- err
		}()
		calls.Wait()
		if took := time.Since(began); took > 20*time.Second+100*time.Millisecond {
			t.Errorf("answered after %v", took)
		}
		// The first request breaks under the hands of whoever sends it: that one's fate is unknown.
		unsent, unknown := reasons["BROKER_UNAVAILABLE"], reasons["FATE_UNKNOWN"]
		if unsent == 0 || unknown > 1 || (unsent+unknown)*200<<10 > inflight/4 || reasons["OVERLOADED"]+unsent+unknown != 40 {
			t.Errorf("answers %v", reasons)
		}
		if err := <-victim; rpc.ReasonOf(err) != "BROKER_UNAVAILABLE" {
			t.Error("the victim was answered", err)
		}
		w.broker.Resume()
		time.Sleep(5 * time.Second)
		if n := count(w.jobs()); n > unknown {
			t.Errorf("%d records, and %d jobs of unknown fate", n, unknown)
		}
		if _, err := w.send(spec("victim")); err != nil {
			t.Error("after the broker came back:", err)
		}
	}, func(c *enqueue.Config, _ *enqueue.Deps) { c.Inflight = inflight })
}

// Calls through the SDK while the broker goes away and comes back: all are accepted in the end, each as one job, none is refused.
func TestSDKOverABrokerRestart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		sdk := client.New(w.conn, client.WithTimeout(time.Minute))
		defer sdk.Close()
		var calls sync.WaitGroup
		for i := range 300 {
			calls.Go(func() {
				time.Sleep(time.Duration(i) * 30 * time.Millisecond)
				r, err := sdk.Enqueue(w.ctx, client.Job{Source: "crm", Type: "tag", Key: fmt.Sprint("k", i)})
				if want := envelope.KeyedJobID("crm", fmt.Sprint("k", i), envelope.Shard("crm", shards)).String(); err != nil || r.JobID != want {
					t.Errorf("job %d: %v, %v", i, r, err)
				}
			})
		}
		time.Sleep(2 * time.Second)
		w.broker.Stop()
		time.Sleep(5 * time.Second)
		w.broker.Resume()
		calls.Wait()
		ids := map[string]bool{}
		for _, list := range w.jobs() {
			for _, m := range list {
				f, err := envelope.Scan(m.Value)
				if err != nil {
					t.Fatal(err)
				}
				ids[f.ID.String()] = true
			}
		}
		if len(ids) != 300 {
			t.Errorf("%d jobs", len(ids))
		}
	})
}

// Enqueue goes on without the control log's confirmation, and turns unready after 30 s of it.
func TestH17Unready(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.broker.Stop()
		time.Sleep(29 * time.Second)
		if c := w.service.Health(); !c[0].OK {
			t.Errorf("unready after 29 s: %v", c)
		}
		time.Sleep(2 * time.Second)
		if c := w.service.Health(); c[0].OK {
			t.Error("ready 31 s after the last confirmation")
		}
		w.broker.Resume()
		w.ready()
	})
}

// H1: it does not serve on topics weaker than declared.
func TestH1RefusesWeakTopics(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		err := <-w.ended
		w.ended <- nil
		if weak := (*kafka.WeakSettingError)(nil); !errors.As(err, &weak) {
			t.Error(err)
		}
	}, func(c *enqueue.Config, _ *enqueue.Deps) { c.Durability = kafka.Replicated })
}

// A graceful stop answers the calls under way.
func TestStopAnswersOpenCalls(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		release := w.broker.Hold(kafkatest.Produce)
		answered := make(chan error, 1)
		go func() {
			_, err := w.send(spec("crm"))
			answered <- err
		}()
		time.Sleep(time.Second)
		w.stop()
		time.Sleep(time.Second)
		release()
		if err := <-answered; err != nil {
			t.Error(err)
		}
	})
}

package notifier_test

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
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/services/notifier"
)

// The answer comes after the log has the record, and not before.
func TestDurableBeforeAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		release := w.broker.Hold(kafkatest.Produce)
		answered := make(chan error, 2)
		go func() {
			_, err := w.publish(request("crm"))
			answered <- err
		}()
		go func() {
			resp, err := w.notifier.PublishBatch(w.ctx, &notifierv1.PublishBatchRequest{Notifications: []*notifierv1.PublishRequest{request("crm"), request("crm")}})
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
		if n := w.written(); n != 3 {
			t.Errorf("%d records", n)
		}
	})
}

// A record that was written without an answer is of unknown fate, within the deadline, and never refused.
func TestFateUnknown(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		remove := w.broker.Fault(kafkatest.Produce, topics.Notifications(), 7, -1) // request timed out, and the work is done
		defer remove()
		began := time.Now()
		_, err := w.publish(request("crm"))
		if status.Code(err) != codes.Aborted || rpc.ReasonOf(err) != "FATE_UNKNOWN" || time.Since(began) > 20*time.Second+100*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		resp, err := w.notifier.PublishBatch(w.ctx, &notifierv1.PublishBatchRequest{Notifications: []*notifierv1.PublishRequest{request("crm"), request("unknown")}})
		if err != nil || rpc.FromStatus(resp.GetItems()[0].GetError()).Reason != "FATE_UNKNOWN" || rpc.FromStatus(resp.GetItems()[1].GetError()).Reason != "NOT_ALLOWED" {
			t.Errorf("%v, %v", resp, err)
		}
		if w.written() == 0 {
			t.Error("the fault did not fire: nothing was written")
		}
	})
}

// A broker that is away: what was never sent is answered UNAVAILABLE within the deadline, memory stays within its bound while others are refused
// at once, one source leaves room for another, and everything goes on when it is back.
func TestBudgetBound(t *testing.T) {
	const inflight = 16 << 20
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("flood")
		w.register("victim")
		w.broker.Stop()
		var calls sync.WaitGroup
		var mu sync.Mutex
		reasons := map[string]int{}
		began := time.Now()
		var clients []notifierv1.NotifierServiceClient
		for range 4 { // a connection has 128 calls at a time
			conn := w.dial("service", rpc.RolePublish)
			defer conn.Close()
			clients = append(clients, notifierv1.NewNotifierServiceClient(conn))
		}
		for i := range 400 {
			calls.Go(func() {
				_, err := clients[i%4].Publish(w.ctx, request("flood", func(r *notifierv1.PublishRequest) { r.Data = append(append([]byte{'"'}, make15k...), '"') }))
				if status.Code(err) != codes.Aborted && rpc.RetryAfter(err) == 0 {
					t.Error("no RetryInfo:", err)
				}
				mu.Lock()
				defer mu.Unlock()
				reasons[rpc.ReasonOf(err)]++
			})
		}
		time.Sleep(time.Second)
		victim := make(chan error, 1)
		go func() {
			_, err := w.publish(request("victim"))
			victim <- err
		}()
		calls.Wait()
		if took := time.Since(began); took > 20*time.Second+100*time.Millisecond {
			t.Errorf("answered after %v", took)
		}
		unsent, unknown := reasons["BROKER_UNAVAILABLE"], reasons["FATE_UNKNOWN"]
		if unsent == 0 || unknown > 1 || (unsent+unknown)*(15<<10) > inflight/4 || reasons["OVERLOADED"] == 0 || reasons["OVERLOADED"]+unsent+unknown != 400 {
			t.Errorf("answers %v", reasons)
		}
		if err := <-victim; rpc.ReasonOf(err) != "BROKER_UNAVAILABLE" {
			t.Error("the victim was answered", err)
		}
		w.broker.Resume()
		time.Sleep(5 * time.Second)
		if n := w.written(); n > unknown {
			t.Errorf("%d records, and %d notifications of unknown fate", n, unknown)
		}
		if _, err := w.publish(request("victim")); err != nil {
			t.Error("after the broker came back:", err)
		}
	}, func(c *notifier.Config, _ *notifier.Deps) { c.Inflight = inflight })
}

// make15k is text.
var make15k = func() []byte {
	b := make([]byte, 15<<10)
	for i := range b {
		b[i] = 'a'
	}
	return b
}()

// The notifier goes on without the control log's confirmation, and turns unready after 30 s of it.
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

// H1: it does not serve on a topic weaker than declared.
func TestH1RefusesAWeakTopic(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		err := <-w.ended
		w.ended <- nil
		if weak := (*kafka.WeakSettingError)(nil); !errors.As(err, &weak) || weak.Topic != topics.Notifications() {
			t.Error(err)
		}
	}, func(c *notifier.Config, _ *notifier.Deps) { c.Durability = kafka.Replicated })
}

// A graceful stop answers the calls under way, and says first that it is about to stop.
func TestStopAnswersOpenCalls(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		release := w.broker.Hold(kafkatest.Produce)
		answered := make(chan error, 1)
		go func() {
			_, err := w.publish(request("crm"))
			answered <- err
		}()
		time.Sleep(time.Second)
		w.stop()
		time.Sleep(time.Second)
		if c := w.service.Health()[3]; c.Name != "running" || c.OK {
			t.Errorf("while it stops: %+v", c)
		}
		release()
		if err := <-answered; err != nil {
			t.Error(err)
		}
	})
}

// Calls through the SDK while the broker goes away and comes back: all are accepted in the end, each under one id, none is refused.
func TestSDKOverABrokerRestart(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		sdk := client.NewNotifier(w.conn, client.WithTimeout(time.Minute))
		defer sdk.Close()
		var calls sync.WaitGroup
		shard := envelope.Shard("tenant:t1", shards)
		for i := range 300 {
			calls.Go(func() {
				time.Sleep(time.Duration(i) * 30 * time.Millisecond)
				key := fmt.Sprint("k", i)
				p, err := sdk.Publish(w.ctx, client.Notification{Source: "crm", Tenant: "t1", Channel: "tenant:t1", Data: []byte("1"), IdempotencyKey: key})
				if want := envelope.KeyedJobID("crm", key, shard).String(); err != nil || p.ID != want {
					t.Errorf("notification %d: %v, %v", i, p, err)
				}
			})
		}
		time.Sleep(2 * time.Second)
		w.broker.Stop()
		time.Sleep(5 * time.Second)
		w.broker.Resume()
		calls.Wait()
		ids := map[string]bool{}
		for _, m := range w.log()[shard] {
			ids[decode(t, m).GetId()] = true
		}
		if len(ids) != 300 {
			t.Errorf("%d notifications", len(ids))
		}
	})
}

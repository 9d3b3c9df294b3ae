package notifier_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/subscriber"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
	"github.com/spillway/spillway/services/notifier"
)

// next reads events until one is of type t.
func (w *world) next(s *subscriber.Session, typ string) subscriber.Event {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, 30*time.Second)
	defer cancel()
	for {
		e, err := s.Next(ctx)
		if err != nil {
			w.t.Fatalf("no %s: %v", typ, err)
		}
		if e.T == typ {
			return e
		}
	}
}

// What is published, by a call or by a job, comes out of the sockets that hear its channel, and of no other.
func TestFromPublishToTheSocket(t *testing.T) {
	var jobs *scheduler
	bubble(t, func(t *testing.T, w *world) {
		defer jobs.server.Stop()
		w.ready()
		w.register("crm")
		anna, err := w.subscribe("anna", "t1", "", "user:t1:anna", "tenant:t1")
		if err != nil {
			t.Fatal(err)
		}
		defer anna.Close()
		eve, err := w.subscribe("eve", "t2", "", "tenant:t2", "tenant:t1", "user:t1:anna")
		if err != nil {
			t.Fatal(err)
		}
		defer eve.Close()
		for range 2 {
			if e := w.next(anna, subscriber.Sub); !e.OK {
				t.Fatalf("anna may not hear %s: %s", e.Channel, e.Error)
			}
		}
		for range 3 { // in any order
			if e := w.next(eve, subscriber.Sub); e.OK != (e.Channel == "tenant:t2") {
				t.Errorf("eve may hear %s: %v", e.Channel, e.OK)
			}
		}
		first, err := w.publish(request("crm", func(r *notifierv1.PublishRequest) { r.Key, r.Data = "k", []byte("{\n\"a\": 1\n}") }))
		if err != nil {
			t.Fatal(err)
		}
		if e := w.next(anna, subscriber.Msg); e.ID != first.GetId() || e.Channel != "user:t1:anna" || e.Class != "EVENT" || e.Key != "k" || string(e.Data) != `{"a":1}` {
			t.Errorf("received %+v", e)
		}
		if r := jobs.run(t, 7, "crm", "t1", `{"channel":"tenant:t1","class":"EVENT","data":"by a job"}`, ""); r.Kind != schedulerv1.ResultKind_RESULT_KIND_SUCCESS {
			t.Fatal(r)
		}
		if e := w.next(anna, subscriber.Msg); e.ID != jobID(7) || e.Channel != "tenant:t1" || string(e.Data) != `"by a job"` {
			t.Errorf("received %+v", e)
		}
		if _, err := w.publish(request("crm", func(r *notifierv1.PublishRequest) { r.Channel, r.Tenant = "tenant:t2", "t2" })); err != nil {
			t.Fatal(err)
		}
		if e := w.next(eve, subscriber.Msg); e.Channel != "tenant:t2" {
			t.Errorf("eve received %+v", e)
		}
	}, withScheduler(t, &jobs))
}

// A stop sends sockets away with advice first, and only then the calls end; whoever comes with a cursor has missed nothing.
func TestStopSendsSocketsAway(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		s, err := w.subscribe("anna", "t1", "", "user:t1:anna")
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		w.next(s, subscriber.Sub)
		w.stop()
		if e := w.next(s, subscriber.Go); e.AfterMS <= 0 {
			t.Errorf("sent away with %+v", e)
		}
		if _, err := w.publish(request("crm")); err != nil {
			t.Error("a call while sockets are sent away:", err)
		}
		if _, err := w.subscribe("anna", "t1", "", "user:t1:anna"); err == nil {
			t.Error("a new socket while they are sent away")
		}
		for {
			_, err := s.Next(w.ctx)
			if err == nil {
				continue
			}
			if closed := (*subscriber.Closed)(nil); !errors.As(err, &closed) || closed.Code < 4000 || closed.Code >= 4100 {
				t.Error("ended by", err)
			}
			break
		}
		began := time.Now()
		err = <-w.ended
		w.ended <- err
		if took := time.Since(began); took > time.Second {
			t.Errorf("stopped %v after the last socket", took)
		}
	})
}

// A client that comes back with its cursor gets what it has missed, each once.
func TestComingBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		w.register("crm")
		s, err := w.subscribe("anna", "t1", "", "user:t1:anna")
		if err != nil {
			t.Fatal(err)
		}
		w.next(s, subscriber.Sub)
		cursor := s.Cursor()
		s.Close()
		req := &notifierv1.PublishBatchRequest{}
		for i := range 50 {
			req.Notifications = append(req.Notifications, request("crm", func(r *notifierv1.PublishRequest) { r.Data = fmt.Append(nil, i) }))
		}
		if _, err := w.notifier.PublishBatch(w.ctx, req); err != nil {
			t.Fatal(err)
		}
		if s, err = w.subscribe("anna", "t1", cursor, "user:t1:anna"); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for i := range 50 {
			if e := w.next(s, subscriber.Msg); string(e.Data) != fmt.Sprint(i) {
				t.Fatalf("message %d is %s", i, e.Data)
			}
		}
	})
}

// A token of a service is none of a subscriber.
func TestServiceTokenAtTheSocket(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.ready()
		token, err := w.signer.Sign(rpc.Claims{Issuer: cluster, Subject: "service", Roles: []rpc.Role{rpc.RolePublish, rpc.RoleRead}, TTL: time.Hour}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
		defer cancel()
		s, err := subscriber.Dial(ctx, "ws://notifier/v1/ws", subscriber.Config{Token: token, Dial: w.web.DialContext})
		if closed := (*subscriber.Closed)(nil); !errors.As(err, &closed) || closed.Code < 4100 {
			t.Errorf("%v, %v", s, err)
		}
	})
}

// One address has no more websockets than the operator gives it; without a setting it has as many as there are.
func TestAnAddressHasItsShare(t *testing.T) {
	for most, opened := range map[int]int{0: 5, 2: 2} {
		bubble(t, func(t *testing.T, w *world) {
			w.ready()
			for n := range 5 {
				s, err := w.subscribe("anna", "t1", "", "user:t1:anna")
				var refused *subscriber.Refused
				switch {
				case n < opened && err != nil:
					t.Errorf("at most %d: session %d: %v", most, n, err)
				case n >= opened && (!errors.As(err, &refused) || refused.Status != 503):
					t.Errorf("at most %d: session %d: %v", most, n, err)
				}
				if err == nil {
					defer s.Close()
				}
			}
		}, func(c *notifier.Config, _ *notifier.Deps) { c.PerAddress = most })
	}
}

package rpc_test

import (
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/spillway/spillway/pkg/rpc"
)

// TestServerThatComesBackIsFoundSoon: a call that waits while its only server is
// away goes on soon after the server is back, however long that was: a restart costs
// a caller little more than the restart, and an outage of an hour does not last two
// minutes longer for some.
func TestServerThatComesBackIsFoundSoon(t *testing.T) {
	for away, limit := range map[time.Duration]time.Duration{
		200 * time.Millisecond: 200 * time.Millisecond, time.Second: time.Second, time.Minute: 6 * time.Second, time.Hour: 6 * time.Second,
	} {
		synctest.Test(t, func(t *testing.T) {
			w := serve(t, nil)
			w.enqueue = accept
			c, done := w.caller(rpc.RoleEnqueue)
			defer done()
			if _, err := c.Enqueue(t.Context(), good()); err != nil {
				t.Fatal(err)
			}
			w.stop()
			time.Sleep(time.Millisecond)
			answered := make(chan time.Time, 1)
			go func() {
				if _, err := c.Enqueue(t.Context(), good(), grpc.WaitForReady(true)); err != nil {
					t.Errorf("away for %v: %v", away, err)
				}
				answered <- time.Now()
			}()
			time.Sleep(away)
			back := time.Now()
			w.begin(nil)
			if took := (<-answered).Sub(back); took > limit {
				t.Errorf("away for %v: answered %v after the server came back, want at most %v", away, took, limit)
			}
			w.stop()
		})
	}
}

// TestReplicaThatStartsRefusesNobody: a server that is not ready for the first time
// takes no calls yet. Calls wait for it, and go through when it begins.
func TestReplicaThatStartsRefusesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := make(chan struct{})
		w := serve(t, func(c *rpc.Config) { c.Begin = begin })
		w.enqueue = accept
		c, done := w.caller(rpc.RoleEnqueue)
		defer done()
		answered := make(chan error, 1)
		go func() {
			_, err := c.Enqueue(t.Context(), good(), grpc.WaitForReady(true))
			answered <- err
		}()
		time.Sleep(time.Second)
		select {
		case err := <-answered:
			t.Error("answered before it began:", err)
		default:
		}
		began := time.Now()
		close(begin)
		if err := <-answered; err != nil || time.Since(began) > 100*time.Millisecond {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		if err := w.stop(); err != nil {
			t.Error(err)
		}

		w.begin(func(c *rpc.Config) { c.Begin = make(chan struct{}) })
		if err := w.stop(); err != nil {
			t.Error("stopped before it began:", err)
		}
	})
}

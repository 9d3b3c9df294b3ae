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

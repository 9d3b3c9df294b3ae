package receive

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
)

// call calls a bound method whose request takes arrival to come in and is judged at once, and says when it was done.
func call(p places, ctx context.Context, arrival time.Duration, wait <-chan struct{}) <-chan error {
	done := make(chan error, 1)
	handle := p.bound(func(_ any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		if err := dec(nil); err != nil {
			return nil, err
		}
		Judged(ctx)
		Judged(ctx) // once or more
		<-wait      // for the log
		return nil, nil
	})
	go func() {
		_, err := handle(nil, ctx, func(any) error { time.Sleep(arrival); return nil }, nil)
		done <- err
	}()
	return done
}

// What bounds memory is receiving: waiting for the log needs no place, a slow sender keeps none, and who gives up takes none.
func TestH25Receiving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := make(places, 2)
		log := make(chan struct{})
		first, second := call(p, t.Context(), 100*time.Millisecond, log), call(p, t.Context(), time.Hour, log)
		synctest.Wait()
		if len(p) != 2 {
			t.Fatalf("%d places taken by two requests on their way", len(p))
		}
		gone, leave := context.WithCancel(t.Context())
		third := call(p, gone, 0, log)
		leave()
		if err := <-third; !errors.Is(err, context.Canceled) {
			t.Error("a caller that left was received:", err)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		if len(p) != 1 {
			t.Errorf("%d places taken when one request was judged", len(p))
		}
		time.Sleep(patience)
		synctest.Wait()
		if len(p) != 0 {
			t.Errorf("%d places taken after the slow sender's time", len(p))
		}
		close(log)
		for _, done := range []<-chan error{first, second} {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		if len(p) != 0 {
			t.Error("a place was given back more than once, or not at all")
		}
	})
}

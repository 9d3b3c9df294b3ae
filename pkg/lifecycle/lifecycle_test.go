package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestGroupEndsWithItsFirstError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup(t.Context())
		broken := errors.New("broken")
		g.Go("waiter", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		g.Go("worker", func(context.Context) error { return broken })
		if err := g.Wait(); !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "worker: ") {
			t.Errorf("got %v", err)
		}
	})
}

func TestGroupContainsPanics(t *testing.T) {
	g := NewGroup(t.Context())
	g.Go("worker", func(context.Context) error { panic("oops") })
	if err := g.Wait(); err == nil || !strings.Contains(err.Error(), "worker: panic: oops") {
		t.Errorf("got %v", err)
	}
}

func TestStoppedGroupHasNoError(t *testing.T) {
	g := NewGroup(t.Context())
	g.Go("waiter", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	g.Stop()
	if err := g.Wait(); err != nil {
		t.Errorf("got %v", err)
	}
}

// TestStackStopsInReverse: every step runs, in reverse, within its budget, whatever the others do.
func TestStackStopsInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Stack
		var order []string
		s.Push("first", time.Second, func(context.Context) error { order = append(order, "first"); return nil })
		s.Push("second", time.Second, func(ctx context.Context) error {
			order = append(order, "second")
			<-ctx.Done()
			return ctx.Err()
		})
		s.Push("third", time.Second, func(context.Context) error { order = append(order, "third"); panic("oops") })
		began := time.Now()
		err := s.Stop(t.Context(), slog.New(slog.DiscardHandler))
		if !slices.Equal(order, []string{"third", "second", "first"}) || time.Since(began) != time.Second {
			t.Errorf("%v after %v", order, time.Since(began))
		}
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "stopping third: panic: oops") {
			t.Errorf("got %v", err)
		}
	})
}

// TestStackLeavesAStuckStepBehind: a step that ignores its budget is named, and the rest of the stop goes on.
func TestStackLeavesAStuckStepBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Stack
		release, after := make(chan struct{}), false
		s.Push("after", time.Second, func(context.Context) error { after = true; return nil })
		s.Push("stuck", 2*time.Second, func(context.Context) error { <-release; return nil })
		began := time.Now()
		err := s.Stop(t.Context(), slog.New(slog.DiscardHandler))
		if took := time.Since(began); err == nil || !strings.Contains(err.Error(), "stopping stuck: it did not end within 2s") || took != 2*time.Second+patience || !after {
			t.Errorf("%v after %v, the next step ran: %v", err, took, after)
		}
		close(release)
	})
}

func TestStackRunsEveryStepOfAnEndedStop(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var s Stack
	ran := 0
	for range 3 {
		s.Push("cheap", time.Second, func(context.Context) error { ran++; return nil })
	}
	if err := s.Stop(ctx, slog.New(slog.DiscardHandler)); err != nil || ran != 3 {
		t.Errorf("%v, %d ran", err, ran)
	}
}

func TestGroupNamesItsGoroutines(t *testing.T) {
	g := NewGroup(t.Context())
	g.Go("intake", func(ctx context.Context) error {
		if name, _ := pprof.Label(ctx, "goroutine"); name != "intake" {
			t.Errorf("label %q", name)
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// TestGroupReportsAForeignCancel: somebody else's cancelled context means that something was cut which the group had not ended.
func TestGroupReportsAForeignCancel(t *testing.T) {
	g := NewGroup(t.Context())
	g.Go("a", func(context.Context) error { return context.Canceled })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

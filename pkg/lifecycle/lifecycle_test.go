package lifecycle

import (
	"context"
	"errors"
	"runtime/pprof"
	"strings"
	"testing"
	"testing/synctest"

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

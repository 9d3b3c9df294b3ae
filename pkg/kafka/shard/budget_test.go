package shard_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/spillway/spillway/pkg/kafka/shard"
)

func TestBudgetIsFairAndExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := shard.NewBudget(100)
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var order []string
		wait := func(ctx context.Context, name string, n int64) {
			go func() {
				err := b.Acquire(ctx, n)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					name += " gave up"
				}
				order = append(order, name)
			}()
			synctest.Wait()
		}
		wait(ctx, "first", 60)
		b.Release(-30)             // a batch larger than its reservation
		wait(ctx, "large", 1000)   // more than there is: only when nothing is held
		wait(t.Context(), "s", 10) // would fit, but stands behind
		if b.Used() != 90 {
			t.Errorf("%d used", b.Used())
		}
		cancel()
		synctest.Wait()
		if b.Used() != 100 {
			t.Errorf("%d used after the large one gave up", b.Used())
		}
		wait(t.Context(), "last", 1000)
		b.Release(100)
		synctest.Wait()
		slices.Sort(order)
		if b.Used() != 1000 || fmt.Sprint(order) != "[first large gave up last s]" {
			t.Errorf("%d used, done are %v", b.Used(), order)
		}
	})
}

package serve

import (
	"math"
	"runtime/debug"
	"testing"
)

// TestCollectorRunsSeldomBeneathALimit: without a limit the heap would grow to four
// times what is alive with nothing to stop it, and who sets GOGC is obeyed.
func TestCollectorRunsSeldomBeneathALimit(t *testing.T) {
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetGCPercent(percent); debug.SetMemoryLimit(limit) })
	for _, c := range []struct {
		name, gogc string
		limit      int64
		want       int
	}{
		{"no limit", "", math.MaxInt64, 100},
		{"a limit", "", 1 << 40, seldom},
		{"a limit and GOGC", "100", 1 << 40, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("GOGC", c.gogc)
			debug.SetMemoryLimit(c.limit)
			debug.SetGCPercent(100)
			collectSeldom()
			if got := debug.SetGCPercent(100); got != c.want {
				t.Errorf("GOGC is %d, want %d", got, c.want)
			}
		})
	}
}

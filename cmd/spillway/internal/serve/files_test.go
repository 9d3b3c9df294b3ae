package serve

import "testing"

func TestWebsocketsFitTheFiles(t *testing.T) {
	for _, c := range []struct {
		wanted int
		files  uint64
		want   int
	}{
		{20_000, 20_000, 17_440}, {20_000, 1 << 20, 20_000}, {20_000, 1<<64 - 1, 20_000}, {5000, 8192, 5000}, {20_000, 1024, 512}, {20_000, 0, 1},
	} {
		if got := fit(c.wanted, c.files); got != c.want {
			t.Errorf("of %d with %d files fit %d, want %d", c.wanted, c.files, got, c.want)
		}
	}
}

package plain

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"pgregory.net/rapid"
)

// What is committed is done, and everything before it; in the end all is.
func TestCommitsHaveNoHoles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := &order{pending: make(map[int][]*job)}
		n := rapid.IntRange(1, 50).Draw(t, "jobs")
		for i := range n {
			o.begin(3, int64(2*i)) // offsets have gaps
		}
		done := make(map[int64]bool)
		committed := int64(-1)
		for _, i := range rapid.Permutation(indices(n)).Draw(t, "order") {
			done[int64(2*i)] = true
			if last, moved := o.finish(3, int64(2*i)); moved {
				if last <= committed {
					t.Fatalf("committed %d after %d", last, committed)
				}
				committed = last
			}
			for k := int64(0); k <= committed; k += 2 {
				if !done[k] {
					t.Fatalf("committed %d, and %d is not done", committed, k)
				}
			}
		}
		if committed != int64(2*(n-1)) || len(o.pending[3]) != 0 {
			t.Fatalf("committed %d of %d", committed, 2*(n-1))
		}
	})
}

func indices(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i
	}
	return list
}

// A channel's clients get what is sent to it, and one that has gone is dropped.
func TestHub(t *testing.T) {
	h := newHub()
	server := httptest.NewServer(h)
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dial := func(channel string) *websocket.Conn {
		c, _, err := websocket.Dial(ctx, "ws"+strings.TrimPrefix(server.URL, "http")+"/?channel="+channel, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	one, other, gone := dial("tenant:t1"), dial("tenant:t2"), dial("tenant:t1")
	until := func(n int) {
		look := time.NewTicker(time.Millisecond) // real sockets: there is a condition to wait for, and a deadline
		defer look.Stop()
		for {
			h.mu.Lock()
			has := len(h.channels["tenant:t1"])
			h.mu.Unlock()
			if has == n {
				return
			}
			select {
			case <-look.C:
			case <-ctx.Done():
				t.Fatalf("never %d clients", n)
			}
		}
	}
	until(2)
	_ = gone.CloseNow()
	until(1)
	h.send("tenant:t1", []byte("for one"))
	h.send("tenant:t2", []byte("for the other"))
	for c, want := range map[*websocket.Conn]string{one: "for one", other: "for the other"} {
		if _, data, err := c.Read(ctx); err != nil || string(data) != want {
			t.Errorf("%q, %v; want %q", data, err, want)
		}
		_ = c.CloseNow()
	}
}

package dedupe

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"
)

func id(n int) (x ID) {
	binary.BigEndian.PutUint64(x[8:], uint64(n))
	return x
}

func TestWindow(t *testing.T) {
	var w Window
	for n := range 10000 {
		at := time.Duration(n) * time.Second
		if evicted := w.Add(at, id(n), uint32(n), at+100*time.Second, 1<<20); evicted != 0 {
			t.Fatalf("%d gave way below the budget", evicted)
		}
		if n >= 100 {
			if d, ok := w.Find(at, id(n-100)); !ok || d != uint32(n-100) {
				t.Fatalf("id %d forgotten within its window", n-100)
			}
			if _, ok := w.Find(at, id(n-101)); n > 100 && ok {
				t.Fatalf("id %d remembered past its window", n-101)
			}
		}
	}
	if len(w.ids) > 102 || w.places() > 102 {
		t.Errorf("%d ids, %d places kept", len(w.ids), w.places())
	}
	w.Expire(20_000 * time.Second)
	if len(w.ids) != 0 || w.places() != 0 {
		t.Errorf("%d ids, %d places kept past their time", len(w.ids), w.places())
	}
}

func TestBudget(t *testing.T) {
	var w Window
	evicted := int64(0)
	for n := range 1000 {
		evicted += w.Add(0, id(n), 0, time.Hour, 100*entryBytes)
	}
	if evicted != 900 || len(w.ids) != 100 {
		t.Errorf("%d gave way, %d kept", evicted, len(w.ids))
	}
	if _, ok := w.Find(0, id(899)); ok {
		t.Error("the oldest does not give way first")
	}
	if _, ok := w.Find(0, id(999)); !ok {
		t.Error("the youngest gave way")
	}
}

// An id that is told again while it is remembered keeps the later time.
func TestAgain(t *testing.T) {
	var w Window
	w.Add(0, id(1), 1, 10*time.Second, 1<<20)
	w.Add(5*time.Second, id(1), 2, 15*time.Second, 1<<20)
	if d, ok := w.Find(14*time.Second, id(1)); !ok || d != 2 {
		t.Error("forgotten")
	}
	w.Expire(12 * time.Second)
	if _, ok := w.Find(14*time.Second, id(1)); !ok {
		t.Error("its first place took it along")
	}
}

// TestEvict: others' needs take the oldest, too, and never more than there is.
func TestEvict(t *testing.T) {
	var w Window
	for n := range 1000 {
		w.Add(0, id(n), 0, time.Hour, 1<<20)
	}
	if n := w.Evict(300*entryBytes - 1); n != 300 || w.Bytes() != 700*entryBytes {
		t.Errorf("%d gave way, %d bytes are left", n, w.Bytes())
	}
	if _, ok := w.Find(0, id(299)); ok {
		t.Error("the oldest does not give way first")
	}
	if n := w.Evict(1 << 30); n != 700 || w.Bytes() != 0 {
		t.Errorf("%d gave way, %d bytes are left", n, w.Bytes())
	}
}

// TestEntryBytes: the budget is in bytes that the process has, within a fifth, at whatever number of ids.
func TestEntryBytes(t *testing.T) {
	for _, n := range []int{50_000, 100_000, 170_000, 300_000} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		w := new(Window)
		for i := range n {
			x := id(i)
			binary.BigEndian.PutUint64(x[:], uint64(i)*0x9e3779b97f4a7c15)
			w.Add(0, x, 0, time.Hour, 1<<30)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if got := float64(after.HeapAlloc-before.HeapAlloc) / float64(n); got > entryBytes*1.2 {
			t.Errorf("%d ids: %.1f bytes each, counted are %d", n, got, entryBytes)
		} else {
			t.Logf("%d ids: %.1f bytes each", n, got)
		}
		runtime.KeepAlive(w)
	}
}

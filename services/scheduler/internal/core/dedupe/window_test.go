package dedupe

import (
	"encoding/binary"
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
	if len(w.ids) > 102 || len(w.ring)-w.head > 102 {
		t.Errorf("%d ids, %d places kept", len(w.ids), len(w.ring)-w.head)
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

package core

import (
	"encoding/binary"
	"testing"
	"time"
)

// TestRememberedIdsHaveOneBudget: however many jobs are settled and however many shards and sources they are of, what is remembered stays within its
// budget; the flood gives way, and those who remember little lose nothing.
func TestRememberedIdsHaveOneBudget(t *testing.T) {
	const budget = 1 << 20
	now := time.Unix(1e9, 0)
	e := New(Config{Remembered: budget})
	id := func(shard, n int, version byte) (id JobID) {
		binary.BigEndian.PutUint32(id[:], uint32(n))
		id[4], id[6] = byte(shard), version<<4
		return id
	}
	for shard := range int32(8) {
		e.Attach(now, shard, 1)
	}
	bytes := func() (n int) {
		for _, sh := range e.shards {
			n += sh.ids.Bytes()
		}
		for _, s := range e.sources {
			n += s.keys.Bytes()
		}
		return n
	}
	for n := range 500 {
		for shard := range 8 {
			e.Remember(now, int32(shard), "quiet", id(shard, n, 7), 0, now)
		}
		e.Remember(now, 0, "explicit", id(9, n, 8), 0, now)
	}
	for n := range 100_000 {
		e.Remember(now, 3, "flood", id(10, n, 7), 0, now)
		if got := bytes(); got > budget+evictEvery*64 {
			t.Fatalf("%d bytes are remembered after %d jobs", got, n)
		}
	}
	if bytes() < budget*9/10 || e.evicted == 0 {
		t.Errorf("%d bytes are remembered, %d gave way", bytes(), e.evicted)
	}
	for n := range 500 {
		for shard := range 8 {
			if shard != 3 && !e.Ended(now, int32(shard), "quiet", id(shard, n, 7)) {
				t.Fatalf("job %d of shard %d was forgotten because of a flood in shard 3", n, shard)
			}
		}
		if !e.Ended(now, 0, "explicit", id(9, n, 8)) {
			t.Fatalf("key %d was forgotten because of a flood", n)
		}
	}
	if !e.Ended(now, 3, "flood", id(10, 99_999, 7)) || e.Ended(now, 3, "flood", id(10, 0, 7)) {
		t.Error("of the flood the oldest should have been forgotten, and the youngest not")
	}
}

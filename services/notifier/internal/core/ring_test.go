package core

import (
	"testing"

	"pgregory.net/rapid"
)

// The ring against a list: it holds the newest that fit, and says from where on it knows everything.
func TestTheRingHoldsTheNewestThatFit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int64Range(1, 5_000).Draw(t, "max")
		begin := rapid.Int64Range(0, 100).Draw(t, "begin")
		r := NewRing(limit, begin)
		var all []Entry
		next := begin
		for range rapid.IntRange(0, 80).Draw(t, "appends") {
			next += rapid.Int64Range(0, 3).Draw(t, "hole")
			e := Entry{Offset: next, Channel: TopicChannel("t", rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "channel")), Frame: make([]byte, rapid.IntRange(0, 600).Draw(t, "size"))}
			all = append(all, e)
			r.Append(e)
			next++
			if rapid.IntRange(0, 9).Draw(t, "skip") == 0 {
				next += 2
				r.Skip(next)
			}
			if r.Next() != next || r.Bytes() > limit && r.Len() > 1 {
				t.Fatalf("next %d, want %d; %d bytes of %d in %d entries", r.Next(), next, r.Bytes(), limit, r.Len())
			}
		}
		from := rapid.Int64Range(0, next+2).Draw(t, "from")
		var want []int64
		for _, e := range all {
			if e.Offset >= max(from, r.Start()) {
				want = append(want, e.Offset)
			}
		}
		i, held := 0, int64(0)
		for e := range r.From(from) {
			if i >= len(want) || e.Offset != want[i] {
				t.Fatalf("entry %d of %v has offset %d", i, want, e.Offset)
			}
			i++
		}
		for e := range r.From(0) {
			held += weight(e)
		}
		if i != len(want) || held != r.Bytes() {
			t.Fatalf("%d of %d entries, %d bytes counted of %d", i, len(want), r.Bytes(), held)
		}
		for _, e := range all {
			if e.Offset < r.Start() && !r.Missed(e.Channel, rapid.Int64Range(0, e.Offset).Draw(t, "position")) {
				t.Fatalf("%d was dropped from %q in silence", e.Offset, e.Channel)
			}
		}
		if r.Missed("topic:other:quiet", begin) && r.lost[lostIn("topic:other:quiet")] == 0 {
			t.Fatal("a channel without notifications has missed some")
		}
		if len(all) > 0 && r.Start() > all[len(all)-1].Offset {
			t.Fatal("the newest is not kept")
		}
	})
}

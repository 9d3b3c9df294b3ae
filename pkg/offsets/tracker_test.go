package offsets

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// model is the tracker as a map: every offset from base on is either absent (not
// read), false (incomplete) or true (done, a gap, or restored as done).
type model struct {
	limit    int64
	next     int64
	state    map[int64]bool
	restored map[int64]bool
}

func (m *model) low() int64 {
	low := m.next
	for o, done := range m.state {
		if !done {
			low = min(low, o)
		}
	}
	if low == m.next {
		for m.restored[low] {
			low++
		}
	}
	return low
}

func (m *model) add(o int64) Verdict {
	low := m.low()
	m.next = max(m.next, low) // a restored run that starts at next is jumped
	switch {
	case o < m.next:
		return Seen
	case low < m.next && o-low >= m.limit:
		return Full
	}
	for g := m.next; g < o; g++ {
		m.state[g] = true
	}
	m.next = o + 1
	m.state[o] = m.restored[o]
	if m.restored[o] {
		return Completed
	}
	return Fresh
}

func (m *model) done(o int64) bool {
	if d, ok := m.state[o]; !ok || d {
		return false
	}
	m.state[o] = true
	return true
}

// complete reports what the tracker must claim as done above its low mark.
func (m *model) complete(o int64) bool { return m.state[o] || (o >= m.next && m.restored[o]) }

func check(t *rapid.T, tr *Tracker, m *model) {
	low := m.low()
	m.next = max(m.next, low)
	if tr.Low() != low || tr.Next() != m.next {
		t.Fatalf("low, next = %d, %d, want %d, %d", tr.Low(), tr.Next(), low, m.next)
	}
	pending := 0
	for _, d := range m.state {
		if !d {
			pending++
		}
	}
	if tr.Pending() != pending || tr.Window() != int(m.next-low) {
		t.Fatalf("pending, window = %d, %d, want %d, %d", tr.Pending(), tr.Window(), pending, m.next-low)
	}
	if o, ok := tr.Oldest(); ok != (low < m.next) || (ok && o != low) {
		t.Fatalf("oldest = %d, %v, low is %d of %d", o, ok, low, m.next)
	}
	ranges := tr.Ranges()
	end := low
	for first, next := range ranges.Spans(low) {
		if first <= end || next <= first {
			t.Fatalf("not canonical: %v", ranges)
		}
		end = next
	}
	for o := low; o <= end+2*m.limit; o++ {
		if ranges.Contains(low, o) != m.complete(o) {
			t.Fatalf("offset %d above low %d: in the ranges %v, done %v (%v)", o, low, ranges.Contains(low, o), m.complete(o), ranges)
		}
	}
}

func TestTrackerAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.SampledFrom([]int{1, 2, 7, 63, 64, 65, 130}).Draw(t, "limit")
		base := rapid.SampledFrom([]int64{0, 1, 63, 64, 4095, 1 << 40}).Draw(t, "base")
		m := &model{limit: int64(limit), next: base, state: map[int64]bool{}, restored: map[int64]bool{}}
		tr := New(base, nil, limit)
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) { check(t, tr, m) },
			"add": func(t *rapid.T) {
				jump := rapid.SampledFrom([]int64{-3, -1, 0, 0, 0, 0, 0, 0, 1, 2, 5, 70, 300}).Draw(t, "jump")
				o := m.next + jump
				if got, want := tr.Add(o), m.add(o); got != want {
					t.Fatalf("Add(%d) = %d, want %d", o, got, want)
				}
			},
			"many": func(t *rapid.T) {
				for range rapid.IntRange(1, 100).Draw(t, "n") {
					o := m.next
					if got, want := tr.Add(o), m.add(o); got != want {
						t.Fatalf("Add(%d) = %d, want %d", o, got, want)
					}
				}
			},
			"skip": func(t *rapid.T) {
				o := m.next + rapid.Int64Range(-3, 150).Draw(t, "ahead")
				tr.Skip(o)
				if o < m.next {
					m.done(o)
				} else {
					m.restored[o] = true
				}
			},
			"done": func(t *rapid.T) {
				o := m.low() + rapid.Int64Range(-2, 2*int64(limit)).Draw(t, "above")
				if got, want := tr.Done(o), m.done(o); got != want {
					t.Fatalf("Done(%d) = %v, want %v", o, got, want)
				}
			},
			"half": func(t *rapid.T) {
				var open []int64
				for o, d := range m.state {
					if !d {
						open = append(open, o)
					}
				}
				slices.Sort(open)
				for i, o := range open {
					if i%2 == 0 && (!tr.Done(o) || !m.done(o)) {
						t.Fatalf("Done(%d) refused", o)
					}
				}
			},
			"restart": func(t *rapid.T) {
				text, err := Metadata{Done: tr.Ranges()}.Encode()
				if err != nil {
					t.Fatal(err)
				}
				meta, err := DecodeMetadata(text)
				if err != nil {
					t.Fatal(err)
				}
				low := tr.Low()
				tr = New(low, meta.Done, limit)
				restored := map[int64]bool{}
				for first, next := range meta.Done.Spans(low) {
					for o := first; o < next; o++ {
						if !m.complete(o) {
							t.Fatalf("offset %d would be skipped", o)
						}
						restored[o] = true
					}
				}
				m.next, m.state, m.restored = low, map[int64]bool{}, restored
			},
		})
	})
}

// The default limit under random completion: what is committed at any moment
// never lacks an incomplete offset, and everything is done at the end.
func TestTrackerFullSize(t *testing.T) {
	const n = 50_000
	random := rand.New(rand.NewPCG(1, 2))
	tr := New(0, nil, Limit)
	open := []int64{}
	for o, full := int64(0), 0; o < n || len(open) > 0; {
		verdict := Verdict(0)
		if o < n {
			verdict = tr.Add(o)
		}
		switch verdict {
		case Fresh:
			open = append(open, o)
			o++
			continue
		case Full:
			if full++; tr.Window() > Limit {
				t.Fatalf("window of %d", tr.Window())
			}
		}
		i := random.IntN(len(open))
		if !tr.Done(open[i]) {
			t.Fatalf("Done(%d) refused", open[i])
		}
		open[i] = open[len(open)-1]
		open = open[:len(open)-1]
		if len(open) > 0 && len(open)%1000 == 0 {
			if low, want := tr.Low(), slices.Min(open); low != want {
				t.Fatalf("low %d, want %d", low, want)
			}
		}
	}
	if tr.Low() != n || tr.Pending() != 0 || tr.Ranges() != nil {
		t.Fatalf("left: low %d, %d pending, %v", tr.Low(), tr.Pending(), tr.Ranges())
	}
}

func TestVersionChangesWithThePosition(t *testing.T) {
	tr := New(10, nil, 4)
	seen := tr.Version()
	step := func(name string, want bool, do func()) {
		t.Helper()
		do()
		if (tr.Version() != seen) != want {
			t.Errorf("%s: version changed %v, want %v", name, !want, want)
		}
		seen = tr.Version()
	}
	step("add", true, func() { tr.Add(10); tr.Add(11); tr.Add(12); tr.Add(13) })
	step("full", false, func() { tr.Add(14) })
	step("seen", false, func() { tr.Add(11) })
	step("done", true, func() { tr.Done(12) })
	step("done again", false, func() { tr.Done(12) })
}

func BenchmarkTracker(b *testing.B) {
	tr := New(0, nil, Limit)
	b.ReportAllocs()
	for i := int64(0); b.Loop(); i++ {
		tr.Add(i)
		if i >= 1000 {
			tr.Done(i - 1000 ^ 1)
		}
	}
}

package offsets

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The bytes of format 6 are fixed: these lines may be added to, never changed.
var golden = []struct {
	name string
	meta Metadata
	text string
}{
	{"empty", Metadata{}, "1;;-;-;"},
	{"drained", Metadata{Drained: true}, "1;d;-;-;"},
	{"lane", Metadata{Source: "billing", Type: "send-mail"}, "1;;billing/send-mail;-;"},
	{"dashes", Metadata{Source: "-", Type: "_"}, "1;;-/_;-;"},
	{"counts", Metadata{Counts: "a=1,b=2"}, "1;;-;a=1,b=2;"},
	{"one range", Metadata{Done: Ranges{{1, 2}}}, "1;;-;-;AQI"},
	{"two ranges", Metadata{Done: Ranges{{1, 1}, {3, 300}}}, "1;;-;-;AQEDrAI"},
	{"url alphabet", Metadata{Done: Ranges{{62, 63}, {127, 4095}}}, "1;;-;-;Pj9__x8"},
	{"all", Metadata{Drained: true, Source: "a.b", Type: "c", Counts: "x:1", Done: Ranges{{4096, 1}}}, "1;d;a.b/c;x:1;gCAB"},
}

func TestGoldenMetadata(t *testing.T) {
	for _, c := range golden {
		text, err := c.meta.Encode()
		if err != nil || text != c.text {
			t.Errorf("%s: encoded %q, %v, want %q", c.name, text, err, c.text)
		}
		meta, err := DecodeMetadata(c.text)
		if err != nil || !reflect.DeepEqual(meta, c.meta) {
			t.Errorf("%s: decoded %+v, %v, want %+v", c.name, meta, err, c.meta)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       error
	}{
		{"nothing", "", ErrMetadata},
		{"newer version", "2;;-;-;", ErrVersion},
		{"newer version, other fields", "12;x", ErrVersion},
		{"no version", ";;-;-;", ErrVersion},
		{"padded version", "01;;-;-;", ErrVersion},
		{"missing field", "1;;-;-", ErrMetadata},
		{"extra field", "1;;-;-;;", ErrMetadata},
		{"unknown flag", "1;x;-;-;", ErrMetadata},
		{"flag twice", "1;dd;-;-;", ErrMetadata},
		{"no lane", "1;;;-;", ErrMetadata},
		{"lane without type", "1;;a;-;", ErrMetadata},
		{"empty type", "1;;a/;-;", ErrMetadata},
		{"upper case", "1;;A/b;-;", ErrMetadata},
		{"long name", "1;;" + strings.Repeat("a", 65) + "/b;-;", ErrMetadata},
		{"empty counts", "1;;-;;", ErrMetadata},
		{"control character", "1;;-;a\tb;", ErrMetadata},
		{"not ascii", "1;;-;ä;", ErrMetadata},
		{"bad base64", "1;;-;-;AQ+", ErrMetadata},
		{"padding", "1;;-;-;AQI=", ErrMetadata},
		{"line break", "1;;-;-;AQ\nI", ErrMetadata},
		{"stray bits", "1;;-;-;AQJ", ErrMetadata},
		{"half a pair", "1;;-;-;AQ", ErrMetadata},
		{"cut varint", "1;;-;-;AYA", ErrMetadata},
		{"overlong varint", "1;;-;-;gQAC", ErrMetadata},
		{"zero gap", "1;;-;-;AAI", ErrMetadata},
		{"zero length", "1;;-;-;AQA", ErrMetadata},
		{"out of reach", "1;;-;-;AYCAgIAQ", ErrMetadata},
		{"too long", "1;;-;" + strings.Repeat("x", MaxMetadata) + ";", ErrMetadata},
	} {
		if m, err := DecodeMetadata(c.text); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v, want %v", c.name, m, err, c.want)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, m := range map[string]Metadata{
		"source only":    {Source: "a"},
		"type only":      {Type: "a"},
		"slash":          {Source: "a/b", Type: "c"},
		"counts dash":    {Counts: "-"},
		"counts with ;":  {Counts: "a;b"},
		"counts space":   {Counts: "a b"},
		"counts long":    {Counts: strings.Repeat("x", MaxMetadata-5)},
		"empty run":      {Done: Ranges{{1, 0}}},
		"touching runs":  {Done: Ranges{{1, 1}, {0, 1}}},
		"reach too far":  {Done: Ranges{{1, maxReach}}},
		"sum overflows":  {Done: Ranges{{maxReach / 2, maxReach / 2}, {1, 1}}},
		"negative range": {Done: Ranges{{-1, 1}}},
	} {
		if text, err := m.Encode(); !errors.Is(err, ErrMetadata) {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
}

// The worst window, every second offset done: what is left out is the top.
func TestWhatDoesNotFitIsRunAgain(t *testing.T) {
	tr := New(1000, nil, Limit)
	for o := int64(1000); tr.Add(o) == Fresh; o++ {
	}
	for o := int64(1001); o < tr.Next(); o += 2 {
		tr.Done(o)
	}
	counts := strings.Repeat("7", 600)
	text, err := Metadata{Source: "s", Type: "t", Counts: counts, Done: tr.Ranges()}.Encode()
	if err != nil || len(text) > MaxMetadata || len(text) < MaxMetadata-3 {
		t.Fatalf("%d characters, %v", len(text), err)
	}
	m, err := DecodeMetadata(text)
	if err != nil {
		t.Fatal(err)
	}
	if all := tr.Ranges(); len(m.Done) >= len(all) || !reflect.DeepEqual(m.Done, all[:len(m.Done)]) {
		t.Fatalf("kept %d of %d ranges, not the lowest ones", len(m.Done), len(all))
	}
}

func TestLongestCountsLeaveRoomForNothing(t *testing.T) {
	text, err := Metadata{Counts: strings.Repeat("x", MaxMetadata-6), Done: Ranges{{1, 1}}}.Encode()
	if err == nil {
		_, err = DecodeMetadata(text)
	}
	if err != nil || len(text) != MaxMetadata {
		t.Fatalf("%d characters, %v", len(text), err)
	}
}

func FuzzDecodeMetadata(f *testing.F) {
	for _, c := range golden {
		f.Add(c.text)
	}
	f.Add("2;;-;-;")
	f.Add("1;;-;-;gQAC")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := DecodeMetadata(s)
		if err != nil {
			if !errors.Is(err, ErrMetadata) && !errors.Is(err, ErrVersion) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		text, err := m.Encode()
		if err != nil || text != s {
			t.Fatalf("%q decodes to %+v, which encodes to %q, %v", s, m, text, err)
		}
		tr := New(1<<61, m.Done, Limit)
		if got := tr.Ranges(); tr.Low() != 1<<61 || !reflect.DeepEqual(got, m.Done) {
			t.Fatalf("the tracker holds %v of %v", got, m.Done)
		}
	})
}

// TestOverflowAgainstTheEncoder: it is told exactly when Encode leaves runs out, and to complete what lies below the offset that it names is enough,
// and no more than needed, for all that is complete to be said.
func TestOverflowAgainstTheEncoder(t *testing.T) {
	overflows := 0
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Int64Range(0, 1<<40).Draw(t, "start")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		part := rapid.SampledFrom([]float64{0.02, 0.3, 0.5, 0.7, 0.98}).Draw(t, "done")
		head := Metadata{Counts: strings.Repeat("7", rapid.IntRange(0, MaxMetadata-10).Draw(t, "counts"))}
		fill := func() *Tracker {
			rng := rand.New(rand.NewPCG(rng.Uint64(), 2))
			tr := New(start, nil, Limit)
			for o := start; tr.Add(o) == Fresh; o++ {
			}
			for o := start + 1; o < tr.Next(); o++ {
				if rng.Float64() < part {
					tr.Done(o)
				}
			}
			return tr
		}
		seed := rng.Uint64()
		same := func() *Tracker { rng = rand.New(rand.NewPCG(seed, 3)); return fill() }
		says := func(tr *Tracker) (all bool) {
			m := head
			m.Done = tr.Ranges()
			text, err := m.Encode()
			if err != nil {
				t.Fatal(err)
			}
			read, err := DecodeMetadata(text)
			if err != nil {
				t.Fatal(err)
			}
			return len(read.Done) == len(m.Done)
		}
		until := func(tr *Tracker, upTo int64) *Tracker {
			for o := tr.Low(); o < upTo; o++ {
				tr.Done(o)
			}
			return tr
		}
		tr := same()
		m := head
		m.Done = tr.Ranges()
		upTo, over := m.Overflow(tr.Low())
		if over == says(tr) {
			t.Fatalf("overflow is %v, yet Encode says all: %v", over, says(tr))
		}
		if !over {
			return
		}
		overflows++
		if got := until(same(), upTo); got.Low() < upTo || !says(got) {
			t.Fatalf("all is complete below %d, low is %d, and there still is no room", upTo, got.Low())
		}
		// One run less: up to the end of the run before the one that ends at upTo.
		before := tr.Low()
		for _, end := range m.Done.Spans(tr.Low()) {
			if end < upTo {
				before = end
			}
		}
		if got := until(same(), before); says(got) {
			t.Fatalf("to complete all below %d would be enough, told was %d", before, upTo)
		}
	})
	if overflows == 0 {
		t.Error("nothing overflowed")
	}
}

package core

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestACursorComesBack(t *testing.T) {
	c := Cursor{Cluster: strings.Repeat("c", maxCluster), Offsets: make([]int64, 24)}
	for i := range c.Offsets {
		c.Offsets[i] = 1<<62 - int64(i)
	}
	b := c.Append(nil)
	if len(b) > 700 { // with its MAC and in base64 within 1 KiB
		t.Errorf("%d bytes for 24 partitions", len(b))
	}
	got, err := ParseCursor(b)
	if err != nil || got.Cluster != c.Cluster || !slices.Equal(got.Offsets, c.Offsets) {
		t.Errorf("got %+v, %v", got, err)
	}
	for i := range b {
		if _, err := ParseCursor(b[:i]); err == nil {
			t.Errorf("the first %d bytes are a cursor", i)
		}
	}
	if _, err := ParseCursor(append(b, 0)); err == nil {
		t.Error("a byte more is a cursor")
	}
}

// Whatever is parsed is in the one form, within bounds, and costs no more than its bytes.
func FuzzParseCursor(f *testing.F) {
	f.Add(Cursor{Cluster: "c", Offsets: []int64{0, 1, 1 << 40}}.Append(nil))
	f.Add([]byte{cursorVersion, 1, 'c', 0xff, 0xff, 0xff, 0xff, 0x0f, 0})
	f.Add([]byte{cursorVersion, 1, 'c', 1, 0x80, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCursor(b)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Append(nil), b) {
			t.Fatalf("%x is %+v and becomes %x", b, c, c.Append(nil))
		}
		for _, o := range c.Offsets {
			if o < 0 {
				t.Fatalf("offset %d", o)
			}
		}
	})
}

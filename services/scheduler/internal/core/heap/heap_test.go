package heap

import (
	"testing"

	"pgregory.net/rapid"
)

type thing struct {
	key  int
	slot int32
}

func (t *thing) Before(u *thing) bool { return t.key < u.key }
func (t *thing) Slot() *int32         { return &t.slot }

// TestModel compares the heap with a slice that is searched.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h Heap[*thing]
		var in []*thing
		t.Repeat(map[string]func(*rapid.T){
			"push": func(t *rapid.T) {
				x := &thing{key: rapid.IntRange(0, 20).Draw(t, "key")}
				h.Push(x)
				in = append(in, x)
			},
			"remove": func(t *rapid.T) {
				if len(in) == 0 {
					return
				}
				i := rapid.IntRange(0, len(in)-1).Draw(t, "which")
				h.Remove(in[i])
				if in[i].slot != 0 {
					t.Fatal("still in the heap")
				}
				in = append(in[:i], in[i+1:]...)
			},
			"change": func(t *rapid.T) {
				if len(in) == 0 {
					return
				}
				x := in[rapid.IntRange(0, len(in)-1).Draw(t, "which")]
				x.key = rapid.IntRange(0, 20).Draw(t, "key")
				h.Fix(x)
			},
			"": func(t *rapid.T) {
				if h.Len() != len(in) {
					t.Fatalf("%d items, want %d", h.Len(), len(in))
				}
				for i, x := range h.Items() {
					if int(x.slot) != i+1 {
						t.Fatalf("item at %d says %d", i, x.slot)
					}
				}
				for _, x := range in {
					if x.Before(h.Top()) {
						t.Fatalf("%d is before the top, %d", x.key, h.Top().key)
					}
				}
			},
		})
	})
}

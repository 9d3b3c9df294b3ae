// Package heap is a binary min-heap whose items know their place in it, so that each can be moved or taken out in
// O(log n). It allocates only when it grows.
package heap

// Item is what a heap holds: a pointer that knows its place.
type Item[T any] interface {
	comparable
	// Before orders items.
	Before(T) bool
	// Slot is where the item's place is kept: 1 + its index, 0 = in no heap. An item is in at most one heap.
	Slot() *int32
}

// Heap is a min-heap. The zero value is empty.
type Heap[T Item[T]] struct{ a []T }

// Len is the number of items.
func (h *Heap[T]) Len() int { return len(h.a) }

// Top is the first item; the heap must not be empty.
func (h *Heap[T]) Top() T { return h.a[0] }

// Items is every item, in no order; valid until the heap changes.
func (h *Heap[T]) Items() []T { return h.a }

// Push puts x in; it must be in no heap.
func (h *Heap[T]) Push(x T) {
	h.a = append(h.a, x)
	*x.Slot() = int32(len(h.a))
	h.up(len(h.a) - 1)
}

// Remove takes x out; x must be in this heap.
func (h *Heap[T]) Remove(x T) {
	i, last := int(*x.Slot())-1, len(h.a)-1
	*x.Slot() = 0
	var none T
	moved := h.a[last]
	h.a[last] = none
	h.a = h.a[:last]
	if i == last {
		return
	}
	h.a[i] = moved
	*moved.Slot() = int32(i + 1)
	h.Fix(moved)
}

// Fix restores the order after x's key changed; x must be in this heap.
func (h *Heap[T]) Fix(x T) {
	i := int(*x.Slot()) - 1
	if h.up(i) == i {
		h.down(i)
	}
}

func (h *Heap[T]) up(i int) int {
	x := h.a[i]
	for i > 0 {
		parent := (i - 1) / 2
		y := h.a[parent]
		if !x.Before(y) {
			break
		}
		h.a[i] = y
		*y.Slot() = int32(i + 1)
		i = parent
	}
	h.a[i] = x
	*x.Slot() = int32(i + 1)
	return i
}

func (h *Heap[T]) down(i int) {
	x := h.a[i]
	for {
		child := 2*i + 1
		if child >= len(h.a) {
			break
		}
		if child+1 < len(h.a) && h.a[child+1].Before(h.a[child]) {
			child++
		}
		y := h.a[child]
		if !y.Before(x) {
			break
		}
		h.a[i] = y
		*y.Slot() = int32(i + 1)
		i = child
	}
	h.a[i] = x
	*x.Slot() = int32(i + 1)
}

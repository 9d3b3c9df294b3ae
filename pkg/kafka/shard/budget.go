package shard

import (
	"container/list"
	"context"
	"sync"
)

// Budget bounds the bytes that are fetched and not yet released, over all loops
// that share it. Waiters are served in the order in which they came, so no
// partition starves. It is safe for concurrent use.
type Budget struct {
	limit int64
	// trouble is what the loops complain about: a broker that is away is one
	// trouble of all of them, and not worth a line of each.
	trouble complaint

	mu sync.Mutex
	// used may exceed limit: a batch can come larger than its reservation.
	used    int64
	waiters list.List // of *waiter, the first is next
}

type waiter struct {
	n     int64
	ready chan struct{} // closed when n was granted
}

// NewBudget returns a budget of limit bytes. Every parked fetch holds FetchBytes
// of it, so it must be larger than that times the number of loops.
func NewBudget(limit int64) *Budget {
	return &Budget{limit: limit, trouble: complaint{message: "fetching fails, trying again"}}
}

// Acquire waits until n bytes are free and takes them. More than the limit is
// granted only when nothing else is held. The error is that of ctx.
func (b *Budget) Acquire(ctx context.Context, n int64) error {
	b.mu.Lock()
	if b.waiters.Len() == 0 && b.fits(n) {
		b.used += n
		b.mu.Unlock()
		return nil
	}
	w := &waiter{n: n, ready: make(chan struct{})}
	e := b.waiters.PushBack(w)
	b.mu.Unlock()

	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-w.ready: // granted at the same moment: give it back
		b.used -= n
	default:
		b.waiters.Remove(e)
	}
	b.grant() // we may have stood before somebody who asks for less
	return ctx.Err()
}

// Release gives n bytes back. A negative n takes them at once, free or not: what
// came larger than its reservation is in memory already.
func (b *Budget) Release(n int64) {
	b.mu.Lock()
	b.used -= n
	b.grant()
	b.mu.Unlock()
}

// Used is how many bytes are held now; it can exceed Limit.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// Limit is the size of the budget in bytes.
func (b *Budget) Limit() int64 { return b.limit }

// fits and grant run under mu.
func (b *Budget) fits(n int64) bool { return b.used+n <= b.limit || b.used <= 0 }

func (b *Budget) grant() {
	for e := b.waiters.Front(); e != nil; e = b.waiters.Front() {
		w := e.Value.(*waiter)
		if !b.fits(w.n) {
			return
		}
		b.used += w.n
		b.waiters.Remove(e)
		close(w.ready)
	}
}

package socket

import "sync/atomic"

// Budget bounds the memory that messages of peers take, over all connections that share it, from a message's first byte until the Read after it. It is safe for
// concurrent use.
type Budget struct {
	most int64
	free int
	used atomic.Int64
}

// NewBudget makes a budget of most bytes. The first free bytes of each message are not counted: what nearly all messages are is never refused because of others, and
// the number of connections bounds it.
func NewBudget(most, free int) *Budget { return &Budget{most: int64(most), free: free} }

// Used is how many bytes are in use, without those that are free.
func (b *Budget) Used() int64 { return b.used.Load() }

// charge is what one message has taken of a budget. The reader adds to it; whoever cuts the connection settles it, and then the reader adds in vain: its next read
// fails, and its end settles again.
type charge struct {
	bytes atomic.Int64
	of    atomic.Pointer[Budget]
}

// add takes what a buffer has grown by, or tells that there is no more.
func (c *charge) add(b *Budget, before, after int) bool {
	if b == nil {
		return true
	}
	n := int64(max(after, b.free) - max(before, b.free))
	if n == 0 {
		return true
	}
	if b.used.Add(n) > b.most {
		b.used.Add(-n)
		return false
	}
	c.of.Store(b)
	c.bytes.Add(n)
	return true
}

// settle gives back what was taken.
func (c *charge) settle() {
	if n := c.bytes.Swap(0); n > 0 {
		c.of.Load().used.Add(-n)
	}
}

package socket

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gobwas/ws"
)

// TryWriter is what a connection without a file descriptor implements, such as those of sockettest: a write that takes what there is room for and returns at once.
// n < len(b) with a nil error means that it is full.
type TryWriter interface {
	TryWrite(b []byte) (n int, err error)
}

// Conn is one websocket, server's side. Read belongs to one goroutine; everything else may be called from any.
type Conn struct {
	conn   net.Conn
	raw    syscall.RawConn // of real sockets
	try    TryWriter       // of those in memory
	opened time.Time
	taken  atomic.Int64 // after opened: when a byte was last taken
	within time.Duration
	owes   charge // for the message that the reader is at

	mu      sync.Mutex
	tail    []byte // what is left of a frame that was begun, or of a pong; goes before everything else
	pong    []byte // a whole frame that waits for the tail; a newer one takes its place (RFC 6455 §5.5.3)
	closing bool   // the close frame is out, or the connection is gone: nothing may be written
	hard    *time.Timer
	failed  error // of a write: every later one returns it

	// The rest belongs to the reader.
	limit   int
	budget  *Budget // nil: none
	begun   bool    // a byte of a message or of a control frame was read, and not its last
	dated   bool    // a deadline is set for that
	early   []byte  // bytes that net/http had read ahead
	in      [inBuffer]byte
	r, w    int // what of in is read and filled
	control bucket
	scratch [ws.MaxHeaderSize]byte
}

// inBuffer holds a whole pong, ack or subscribe of a client, so that an idle session costs no more than this and a message one system call.
const inBuffer = 128

// lingers is how long a peer has to read the close frame and to close. Then the connection is reset, with whatever it did not take.
const lingers = 2 * time.Second

// Text makes the text frame of a payload, which all sockets that get it may share: nobody may change it afterwards. A payload must be UTF-8.
func Text(payload []byte) []byte {
	b, err := ws.CompileFrame(ws.NewTextFrame(payload))
	if err != nil { // a header that cannot be: lengths are never negative
		panic(err)
	}
	return b
}

// Write offers frames to the kernel once, in order, and never waits. whole is how many are taken: a frame of which only a part was taken counts, and what is left of it
// is kept and goes first. The caller offers the others again later. Frames are not kept and not changed. After an error the connection is of no more use.
func (c *Conn) Write(frames ...[]byte) (whole int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if clear, err := c.flush(); err != nil || !clear {
		return 0, err
	}
	if len(frames) == 1 {
		return c.write(frames)
	}
	// Small frames go to the kernel together: a copy is cheaper than a call each.
	for whole < len(frames) {
		n, size := whole, 0
		for n < len(frames) && (size == 0 || size+len(frames[n]) <= batchBytes) {
			size += len(frames[n])
			n++
		}
		took, err := c.write(frames[whole:n])
		if whole += took; err != nil || len(c.tail) > 0 || took < n {
			return whole, err
		}
	}
	return whole, nil
}

// Flush offers what is left of an earlier Write, and never waits. clear means that nothing is left.
func (c *Conn) Flush() (clear bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flush()
}

// LastTaken is when the peer's side last took a byte; at first when the connection was accepted. The kernel's buffer counts as the peer's side, which with Config's
// buffers is tens of kilobytes. While nothing waits it says nothing of the peer.
func (c *Conn) LastTaken() time.Time { return c.opened.Add(time.Duration(c.taken.Load())) }

// Waiting is how many bytes wait here for the peer: at most the rest of one frame and a pong. What its owner keeps to write later is not among them.
func (c *Conn) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.tail) + len(c.pong)
}

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Close ends the connection and never waits: a close frame with code and reason (of at most 123 bytes, the rest is cut), if there is room for it at once, and then the end of
// our side. The peer has two seconds to read it and to close; Read returns when it has, at the latest then. A peer that is in the middle of a frame, or has no room, is
// cut off at once, and so is any peer with code 0. A second Close does nothing. The error is that of the last write, if any.
func (c *Conn) Close(code int, reason string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.close(code, reason)
}

func (c *Conn) close(code int, reason string) error {
	if c.closing {
		return c.failed
	}
	clear, err := c.flush()
	c.closing = true
	if err != nil || !clear || code == 0 {
		c.cut(true)
		return err
	}
	frame := ws.MustCompileFrame(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusCode(code), trim(reason))))
	n, err := c.offer(frame)
	half, ok := c.conn.(interface{ CloseWrite() error })
	if err != nil || n < len(frame) || !ok || half.CloseWrite() != nil {
		c.cut(true)
		return err
	}
	// With bytes of the peer unread, closing now would be a reset, which takes the close frame back from a peer that has not read it yet.
	c.hard = time.AfterFunc(lingers, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.cut(true)
	})
	return nil
}

// cut closes the connection; reset drops what the kernel still holds for the peer. The caller holds mu.
func (c *Conn) cut(reset bool) {
	c.closing = true
	c.tail, c.pong = nil, nil
	c.owes.settle()
	if c.hard != nil {
		c.hard.Stop()
	}
	if l, ok := c.conn.(interface{ SetLinger(int) error }); reset && ok {
		_ = l.SetLinger(0)
	}
	_ = c.conn.Close()
}

// flush offers tail and pong. The caller holds mu.
func (c *Conn) flush() (clear bool, err error) {
	if c.failed != nil {
		return false, c.failed
	}
	if c.closing {
		return false, net.ErrClosed
	}
	for len(c.tail) > 0 || len(c.pong) > 0 {
		if len(c.tail) == 0 {
			c.tail, c.pong = c.pong, nil
		}
		n, err := c.offer(c.tail)
		if n == len(c.tail) {
			c.tail = nil
			continue
		}
		c.tail = c.tail[n:]
		return false, err
	}
	return true, nil
}

// batch is room to put frames side by side.
var batch = sync.Pool{New: func() any { b := make([]byte, 0, batchBytes); return &b }}

// batchBytes is about as much as a socket takes at once, with the default send buffer.
const batchBytes = 32 << 10

// write offers frames with one call and keeps the rest of one that was begun. The caller holds mu; nothing waits.
func (c *Conn) write(frames [][]byte) (whole int, err error) {
	joined := frames[0]
	if len(frames) > 1 {
		room := batch.Get().(*[]byte)
		defer batch.Put(room)
		joined = (*room)[:0]
		for _, f := range frames {
			joined = append(joined, f...)
		}
		*room = joined
	}
	n, err := c.offer(joined)
	for ; whole < len(frames) && n >= len(frames[whole]); whole++ {
		n -= len(frames[whole])
	}
	if n > 0 {
		c.tail = append([]byte(nil), frames[whole][n:]...)
		whole++
	}
	return whole, err
}

// offer gives bytes to the kernel, as many as it takes at once. n < len(b) with a nil error means that it is full. The caller holds mu or is alone.
func (c *Conn) offer(b []byte) (n int, err error) {
	if c.try != nil {
		n, err = c.try.TryWrite(b)
	} else {
		n, err = tryWrite(c.raw, b)
	}
	if n > 0 {
		c.taken.Store(int64(time.Since(c.opened)))
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		c.failed = err
	}
	return n, err
}

// trim cuts a reason to what a close frame holds, without half a character.
func trim(reason string) string {
	const most = ws.MaxControlFramePayloadSize - 2
	if len(reason) <= most {
		return reason
	}
	n := most
	for n > 0 && reason[n]&0xc0 == 0x80 {
		n--
	}
	return reason[:n]
}

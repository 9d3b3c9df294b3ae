package socket

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"
)

// Codes of RFC 6455 that this package closes with.
const (
	CodeNormal    = 1000
	CodeProtocol  = 1002 // malformed or unmasked frames
	CodeBinary    = 1003 // not text
	CodeNotUTF8   = 1007
	CodeViolation = 1008 // a flood of control frames or of fragments, or a message without an end
	CodeTooBig    = 1009
	CodeLater     = 1013 // the budget of messages that are not whole is used up
)

const (
	// maxFragments bounds the frames of one message: no client of ours sends more than one, and empty ones would cost nothing.
	maxFragments = 64
	// controlBurst and controlEvery are the bucket of pings and pongs that RFC 6455 lets a peer send at any time. Browsers send none but answers.
	controlBurst = 32
	controlEvery = 500 * time.Millisecond
	// maxDrain bounds what is read from a peer that is being closed.
	maxDrain = 256 << 10
)

// Ended is the error of Read when the connection ended by a close frame, of the peer's or of this package's because of what the peer sent.
type Ended struct {
	Code   int    // 1005 when the peer named none
	Reason string // the peer's text: hostile, at most 123 bytes of UTF-8
	Peer   bool   // the peer closed
}

// Error says who closed and why.
func (e *Ended) Error() string {
	if e.Peer {
		return fmt.Sprintf("peer closed with %d %q", e.Code, e.Reason)
	}
	return fmt.Sprintf("closed with %d: %s", e.Code, e.Reason)
}

// Read waits for the next text message of the peer and returns it; it is valid until the next Read. Pings are answered on the way. After an error the connection is
// closed, and Read is of no more use: *Ended after a close frame or a breach of the rules, net.ErrClosed after Close, else what the
// network said. The last Read may take two seconds, in which the peer reads the close frame.
func (c *Conn) Read() ([]byte, error) {
	message, err := c.message()
	c.mu.Lock()
	own := c.closing
	if err == nil && !own { // what is charged for the message is settled by the next Read, or by who closes from here on
		c.mu.Unlock()
		return message, nil
	}
	if ended := (*Ended)(nil); !own && errors.As(err, &ended) {
		_ = c.close(ended.answer())
	}
	linger := c.closing
	c.mu.Unlock()
	if linger {
		c.drain()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut(false)
	if own {
		err = net.ErrClosed
	}
	return nil, err
}

// Hold holds the peer to other bounds from the next message on: those of a peer that has said who it is, say. It is the reader's to call, between two Reads.
func (c *Conn) Hold(maxMessage int, budget *Budget) {
	c.limit, c.budget = maxMessage, budget
}

// message reads frames until a text message is whole.
func (c *Conn) message() (message []byte, err error) {
	c.owes.settle() // what was read last is nobody's any more
	state, fragments := ws.StateServerSide, 0
	for {
		h, err := ws.ReadHeaderBuffer((*input)(c), c.scratch[:])
		if err == nil {
			err = ws.CheckHeader(h, state)
		}
		switch {
		case errors.Is(err, ws.ErrHeaderLengthMSB), errors.Is(err, ws.ErrHeaderLengthUnexpected), errors.As(err, new(ws.ProtocolError)):
			return nil, &Ended{Code: CodeProtocol, Reason: err.Error()}
		case err != nil:
			return nil, err
		case h.OpCode.IsControl():
			if err := c.answer(h); err != nil {
				return nil, err
			}
			if fragments == 0 {
				c.done()
			}
			continue
		case h.OpCode == ws.OpBinary:
			return nil, &Ended{Code: CodeBinary, Reason: "text only"}
		case h.Length > int64(c.limit-len(message)):
			return nil, &Ended{Code: CodeTooBig, Reason: fmt.Sprintf("more than %d bytes", c.limit)}
		}
		if fragments++; fragments > maxFragments {
			return nil, &Ended{Code: CodeViolation, Reason: fmt.Sprintf("more than %d fragments", maxFragments)}
		}
		if message, err = c.payload(message, h); err != nil {
			return nil, err
		}
		if !h.Fin {
			state = state.Set(ws.StateFragmented)
			continue
		}
		if !utf8.Valid(message) {
			return nil, &Ended{Code: CodeNotUTF8, Reason: "not UTF-8"}
		}
		c.done()
		return message, nil
	}
}

// firstPiece is what a frame gets before its bytes are there; then the buffer grows as they come, so that a header alone costs nothing.
const firstPiece = 512

// payload reads a frame's payload behind what earlier fragments brought.
func (c *Conn) payload(message []byte, h ws.Header) ([]byte, error) {
	start := len(message)
	for left := int(h.Length); left > 0; {
		n := min(left, max(firstPiece, len(message)))
		before := cap(message)
		message = slices.Grow(message, n)[:len(message)+n]
		if !c.owes.add(c.budget, before, cap(message)) {
			return nil, &Ended{Code: CodeLater, Reason: "too many messages at once that are not whole: come back later"}
		}
		if _, err := io.ReadFull((*input)(c), message[len(message)-n:]); err != nil {
			return nil, err
		}
		left -= n
	}
	ws.Cipher(message[start:], h.Mask, 0)
	return message, nil
}

// noCode stands for a close frame without a code (RFC 6455 §7.4.1); it is never sent.
const noCode = 1005

// answer reads a control frame and does what it wants.
func (c *Conn) answer(h ws.Header) error {
	payload, err := c.payload(nil, h)
	if err != nil {
		return err
	}
	if h.OpCode == ws.OpClose {
		return peerClosed(payload)
	}
	if !c.control.take(time.Since(c.opened)) {
		return &Ended{Code: CodeViolation, Reason: "too many pings"}
	}
	if h.OpCode == ws.OpPing {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.pong = ws.MustCompileFrame(ws.NewPongFrame(payload))
		_, _ = c.flush() // what goes wrong here shows where it is read or written next
	}
	return nil
}

// peerClosed judges the peer's close frame.
func peerClosed(payload []byte) error {
	if len(payload) == 0 {
		return &Ended{Code: noCode, Peer: true}
	}
	code, reason := ws.ParseCloseFrameData(payload)
	if len(payload) == 1 || code > 4999 || ws.CheckCloseFrameData(code, reason) != nil {
		return &Ended{Code: CodeProtocol, Reason: "malformed close"}
	}
	return &Ended{Code: int(code), Reason: reason, Peer: true}
}

// answer is what to close with: an echo says the code only.
func (e *Ended) answer() (code int, reason string) {
	switch {
	case e.Peer && e.Code == noCode:
		return CodeNormal, ""
	case e.Peer:
		return e.Code, ""
	}
	return e.Code, e.Reason
}

// done says that what was begun is whole.
func (c *Conn) done() {
	if c.begun = false; c.dated {
		c.dated = false
		_ = c.conn.SetReadDeadline(time.Time{}) // of a connection that is gone; the next read says so
	}
}

// drain reads and forgets what the peer still sends, until it closes, for two seconds at most.
func (c *Conn) drain() {
	if c.conn.SetReadDeadline(time.Now().Add(lingers)) != nil {
		return
	}
	for n := 0; n < maxDrain; {
		took, err := c.conn.Read(c.in[:])
		if n += took; err != nil {
			return
		}
	}
}

// input is the reader's side of a Conn: what net/http read ahead, then the buffer, then the connection. Once the connection is closing it reads nothing.
type input Conn

func (c *input) Read(b []byte) (int, error) {
	if len(c.early) > 0 {
		c.begun = true
		n := copy(b, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
		return n, nil
	}
	if c.r == c.w {
		into := c.in[:]
		direct := len(b) >= len(into)
		if direct {
			into = b
		}
		if c.begun && !c.dated { // only for what is not here at once
			c.dated = true
			if err := c.conn.SetReadDeadline(time.Now().Add(c.within)); err != nil {
				return 0, err
			}
		}
		n, err := c.conn.Read(into)
		c.mu.Lock()
		closing := c.closing
		c.mu.Unlock()
		if closing {
			return 0, net.ErrClosed
		}
		if err != nil && c.dated && errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, &Ended{Code: CodeViolation, Reason: "a message that was begun and did not end"}
		}
		c.begun = c.begun || n > 0
		if direct || n == 0 {
			return n, err
		}
		c.r, c.w = 0, n // an error comes again
	}
	n := copy(b, c.in[c.r:c.w])
	c.r += n
	return n, nil
}

// bucket lets a peer send control frames: controlBurst at once, then one each controlEvery.
type bucket struct {
	tokens int
	last   time.Duration
}

func (b *bucket) take(at time.Duration) bool {
	if n := int((at - b.last) / controlEvery); n > 0 {
		b.tokens, b.last = min(controlBurst, b.tokens+n), b.last+time.Duration(n)*controlEvery
	}
	if b.tokens == 0 {
		return false
	}
	b.tokens--
	return true
}

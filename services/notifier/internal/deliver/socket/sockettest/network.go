// Package sockettest gives tests of websockets a network inside the process: real net/http servers and real websocket clients run on it in one testing/synctest
// bubble, nothing in it waits outside of the bubble, and how much a connection holds before it is full is the test's choice. Make a Listener inside the bubble that
// uses it. Connections implement socket.TryWriter.
package sockettest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// Window is what a connection holds in each direction when the test does not say otherwise, about what a socket holds.
const Window = 64 << 10

// Listener is a net.Listener whose connections are pipes in memory.
type Listener struct {
	toClient, toServer int

	mu      sync.Mutex
	wake    *sync.Cond
	backlog []net.Conn
	closed  bool
}

// Listen makes a listener whose connections hold Window bytes in each direction.
func Listen() *Listener { return ListenWindow(Window, Window) }

// ListenWindow makes a listener whose connections hold that many bytes from the server to the client, and from the client to the server.
func ListenWindow(toClient, toServer int) *Listener {
	l := &Listener{toClient: toClient, toServer: toServer}
	l.wake = sync.NewCond(&l.mu)
	return l
}

// Accept waits for the next connection; net.ErrClosed after Close.
func (l *Listener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.backlog) == 0 && !l.closed {
		l.wake.Wait()
	}
	if l.closed {
		return nil, net.ErrClosed
	}
	c := l.backlog[0]
	l.backlog = l.backlog[1:]
	return c, nil
}

// Close refuses further connections, and cuts those that nobody accepted. The accepted ones live on.
func (l *Listener) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, c := range l.backlog {
		_ = c.Close()
	}
	l.backlog = nil
	l.wake.Broadcast()
	return nil
}

// Addr is the same for all listeners.
func (l *Listener) Addr() net.Addr { return Addr("server") }

// Dial makes a connection and returns the client's end; it does not wait for Accept. A test may use it to write what no client would.
func (l *Listener) Dial() (*Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.New("connection refused")
	}
	down, up := newPipe(l.toClient), newPipe(l.toServer)
	server := &Conn{in: up, out: down, local: "server", remote: "client"}
	l.backlog = append(l.backlog, server)
	l.wake.Broadcast()
	return &Conn{in: down, out: up, local: "client", remote: "server"}, nil
}

// DialContext has the form of http.Transport.DialContext.
func (l *Listener) DialContext(context.Context, string, string) (net.Conn, error) { return l.Dial() }

// Client is an HTTP client, of whatever host, of this listener. It keeps no idle connections, so that no goroutine of it outlives a bubble.
func (l *Listener) Client() *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: l.DialContext, DisableKeepAlives: true}}
}

// Addr is an address in memory.
type Addr string

// Network is "memory".
func (Addr) Network() string { return "memory" }

// String is the address.
func (a Addr) String() string { return string(a) }

// Conn is one end of a connection.
type Conn struct {
	in, out       *pipe
	local, remote Addr
}

// Read waits for bytes. It returns io.EOF after the other end's CloseWrite or Close, when all was read.
func (c *Conn) Read(b []byte) (int, error) { return c.in.read(b) }

// Write waits until all is taken.
func (c *Conn) Write(b []byte) (int, error) {
	n := 0
	for {
		took, err := c.out.write(b[n:], true)
		if n += took; err != nil || n == len(b) {
			return n, err
		}
	}
}

// TryWrite takes what there is room for and never waits.
func (c *Conn) TryWrite(b []byte) (int, error) { return c.out.write(b, false) }

// Held is how many bytes of this end's writes the other end has not read yet.
func (c *Conn) Held() int {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return len(c.out.held)
}

// CloseWrite ends what this end writes; the other reads io.EOF when it has read the rest.
func (c *Conn) CloseWrite() error { c.out.end(io.EOF); return nil }

// Close ends both directions. As with TCP, the other end may read what was written before, and its writes fail.
func (c *Conn) Close() error {
	c.out.end(io.EOF)
	c.in.shut()
	return nil
}

// LocalAddr is this end.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline is when Read gives up; it wakes a Read that waits.
func (c *Conn) SetReadDeadline(t time.Time) error { c.in.reading.set(c.in, t); return nil }

// SetWriteDeadline is when Write gives up; it wakes a Write that waits.
func (c *Conn) SetWriteDeadline(t time.Time) error { c.out.writing.set(c.out, t); return nil }

// pipe is one direction.
type pipe struct {
	mu               sync.Mutex
	wake             *sync.Cond
	room             int
	held             []byte
	ended            error // of the writer's side: what a reader gets at the end
	gone             bool  // the reader's side is closed
	reading, writing deadline
}

func newPipe(room int) *pipe {
	p := &pipe{room: room}
	p.wake = sync.NewCond(&p.mu)
	return p
}

// deadline wakes those who wait on a pipe. Its fields belong to the pipe's mu.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) set(p *pipe, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.at = at; !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.wake.Broadcast()
		})
	}
	p.wake.Broadcast()
}

func (d *deadline) over() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.gone:
			return 0, net.ErrClosed
		case p.reading.over():
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case len(p.held) > 0:
			n := copy(b, p.held)
			if p.held = p.held[n:]; len(p.held) == 0 {
				p.held = nil
			}
			p.wake.Broadcast()
			return n, nil
		case p.ended != nil:
			return 0, p.ended
		}
		p.wake.Wait()
	}
}

func (p *pipe) write(b []byte, wait bool) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.ended != nil:
			return 0, net.ErrClosed
		case p.gone:
			return 0, errors.New("broken pipe")
		case wait && p.writing.over():
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		}
		if n := min(len(b), p.room-len(p.held)); n > 0 {
			p.held = append(p.held, b[:n]...)
			p.wake.Broadcast()
			return n, nil
		}
		if !wait {
			return 0, nil
		}
		p.wake.Wait()
	}
}

// end is the writer's Close.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended == nil {
		p.ended = err
	}
	if p.writing.timer != nil {
		p.writing.timer.Stop()
	}
	p.wake.Broadcast()
}

// shut is the reader's Close.
func (p *pipe) shut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone, p.held = true, nil
	if p.reading.timer != nil {
		p.reading.timer.Stop()
	}
	p.wake.Broadcast()
}

package notifier

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spillway/spillway/services/notifier/internal/deliver/socket/sockettest"
)

// Connections that send nothing are bounded in number and in time, and those that have become websockets are not among them.
func TestConnectionsThatAreNoWebsockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := sockettest.Listen()
		var taken []net.Conn
		w := newWeb(listener, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			conn, _, err := rw.(http.Hijacker).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			taken = append(taken, conn)
		}), 0, slog.New(slog.DiscardHandler))
		ended := make(chan error, 1)
		ctx, stop := context.WithCancel(t.Context())
		go func() { ended <- w.run(ctx) }()
		become, err := listener.Dial()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(become, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		synctest.Wait()
		if n := waitingAt(w); n != 0 || len(taken) != 1 {
			t.Fatalf("%d waiting, %d taken", n, len(taken))
		}
		var idle []net.Conn
		for range maxWaiting {
			conn, err := listener.Dial()
			if err != nil {
				t.Fatal(err)
			}
			idle = append(idle, conn)
			synctest.Wait()
		}
		over, err := listener.Dial()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := over.Read(make([]byte, 1)); err == nil {
			t.Error("one more than may wait was kept")
		}
		synctest.Wait() // its closing is counted after it
		if n := waitingAt(w); n != maxWaiting {
			t.Errorf("%d waiting", n)
		}
		time.Sleep(requestWithin + time.Second)
		synctest.Wait()
		if n := waitingAt(w); n != 0 {
			t.Errorf("%d waiting after their time", n)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := taken[0].Write([]byte("x")); err != nil {
			t.Error("a stop cut what has become a websocket:", err)
		}
		for _, c := range append(idle, become, over, taken[0]) {
			c.Close()
		}
	})
}

// Nor does what a client sends keep its connection from its end: not a body that never comes, not requests without end, not an answer that is never taken.
func TestNoRequestHoldsItsConnection(t *testing.T) {
	for name, c := range map[string]struct {
		request string
		again   bool
		room    int
	}{
		"a body that never comes": {"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", false, 4096},
		"a body without an end":   {"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", false, 4096},
		"one after the other":     {"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", true, 4096},
		"answers are not taken":   {"GET /x HTTP/1.1\r\nHost: a\r\n\r\n", true, 16},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := sockettest.ListenWindow(c.room, 64<<10)
				w := newWeb(listener, http.NotFoundHandler(), 0, slog.New(slog.DiscardHandler))
				ended := make(chan error, 1)
				ctx, stop := context.WithCancel(t.Context())
				go func() { ended <- w.run(ctx) }()
				conn, err := listener.Dial()
				if err != nil {
					t.Fatal(err)
				}
				for range 2 * (requestWithin + answerWithin) / time.Second {
					if _, err := io.WriteString(conn, c.request); err != nil {
						break
					}
					if !c.again {
						time.Sleep(requestWithin + answerWithin)
						break
					}
					time.Sleep(time.Second)
				}
				synctest.Wait()
				if n := waitingAt(w); n != 0 {
					t.Errorf("%d still there after %s", n, requestWithin+answerWithin)
				}
				conn.Close()
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Nor can one address take all that there is for connections that are no websockets yet, when a number to an address is set.
func TestConnectionsOfOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most = 3
		w := newWeb(nil, http.NotFoundHandler(), most, slog.New(slog.DiscardHandler))
		from := func(address string, port int) *addressed {
			return &addressed{address: &net.TCPAddr{IP: net.ParseIP(address), Port: port}}
		}
		var flood []*addressed
		for n := range 2 * most {
			c := from("192.0.2.1", 1000+n)
			flood = append(flood, c)
			w.count(c, http.StateNew)
			if c.closed != (n >= most) {
				t.Errorf("connection %d closed: %t", n, c.closed)
			}
			if c.closed {
				w.count(c, http.StateClosed)
			}
		}
		other := from("192.0.2.2", 1)
		w.count(other, http.StateNew)
		w.count(other, http.StateActive)
		w.count(flood[0], http.StateHijacked) // a websocket: the room counts it
		again := from("192.0.2.1", 1)
		w.count(again, http.StateNew)
		if other.closed || again.closed {
			t.Errorf("another address closed: %t, one in the place of one that is gone: %t", other.closed, again.closed)
		}
		for _, c := range []*addressed{flood[1], flood[2], other, again} {
			w.count(c, http.StateClosed)
		}
		if waitingAt(w) != 0 || len(w.addresses) != 0 {
			t.Errorf("%d waiting of %v", w.waiting, w.addresses)
		}
	})
}

// addressed is a connection with an address of its own.
type addressed struct {
	net.Conn
	address net.Addr
	closed  bool
}

func (c *addressed) RemoteAddr() net.Addr { return c.address }
func (c *addressed) Close() error         { c.closed = true; return nil }

func waitingAt(w *web) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.waiting
}

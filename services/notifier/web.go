package notifier

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// requestWithin is how long a client has to send its request, with whatever body it claims to have; answerWithin to take an answer that is no
	// websocket, from when its header was read. There is one request to a connection, so a connection has no other time than these.
	requestWithin = 5 * time.Second
	answerWithin  = 2 * requestWithin
	// maxHeader bounds a request: no body is read.
	maxHeader = 16 << 10
	// maxWaiting bounds the connections that are no websockets yet, so that they cannot take the files that websockets and callers need. What a
	// handshake needs is a millisecond, so thousands of clients that come back at once pass.
	maxWaiting = 2048
)

// web is the listener of websockets. Whatever becomes one leaves it, and belongs to the room then.
type web struct {
	listener net.Listener
	server   *http.Server
	most     int // of one address

	mu        sync.Mutex
	waiting   int            // connections that are no websockets
	addresses map[string]int // they, by network address
}

// newWeb makes it; it starts nothing. perAddress bounds the connections of one network address that are no websockets yet; 0: only all together are bounded.
func newWeb(listener net.Listener, handler http.Handler, perAddress int, log *slog.Logger) *web {
	w := &web{listener: listener, most: cmp.Or(perAddress, maxWaiting), addresses: map[string]int{}}
	w.server = &http.Server{
		Handler: handler, ReadTimeout: requestWithin, WriteTimeout: answerWithin, MaxHeaderBytes: maxHeader, ConnState: w.count,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	w.server.SetKeepAlivesEnabled(false)
	return w
}

// count closes a new connection when there are too many, in all or of its address.
func (w *web) count(conn net.Conn, state http.ConnState) {
	address := conn.RemoteAddr().String()
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch state {
	case http.StateNew:
		w.waiting++
		w.addresses[address]++
		if w.waiting > maxWaiting || w.addresses[address] > w.most {
			conn.Close() // and so counted out
		}
	case http.StateHijacked, http.StateClosed:
		w.waiting--
		if w.addresses[address]--; w.addresses[address] == 0 {
			delete(w.addresses, address)
		}
	}
}

// run accepts until ctx ends. The error is that of a listener that failed earlier.
func (w *web) run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(w.listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("listener of websockets on %s: %w", w.listener.Addr(), err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if w.server.Shutdown(stop) != nil { // does not wait for websockets
		w.server.Close()
	}
	<-served
	return nil
}

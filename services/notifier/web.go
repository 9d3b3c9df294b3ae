package notifier

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
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
	waiting  atomic.Int64 // connections that are no websockets
}

// newWeb makes it; it starts nothing.
func newWeb(listener net.Listener, handler http.Handler, log *slog.Logger) *web {
	w := &web{listener: listener}
	w.server = &http.Server{
		Handler: handler, ReadTimeout: requestWithin, WriteTimeout: answerWithin, MaxHeaderBytes: maxHeader, ConnState: w.count,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	w.server.SetKeepAlivesEnabled(false)
	return w
}

// count closes a new connection when there are too many.
func (w *web) count(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if w.waiting.Add(1) > maxWaiting {
			conn.Close()
		}
	case http.StateHijacked, http.StateClosed:
		w.waiting.Add(-1)
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

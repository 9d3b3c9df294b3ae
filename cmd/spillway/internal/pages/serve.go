package pages

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	// writeTimeout outlasts publishTimeout.
	writeTimeout = publishTimeout + 5*time.Second
	idleTimeout  = time.Minute
	maxHeader    = 16 << 10
	// maxConns is how many connections may be open: a browser opens six at most.
	maxConns = 64
	// stopTimeout is what requests under way get at the end.
	stopTimeout = time.Second
)

// Serve serves the pages on a listener of loopback until ctx ends, with a bound
// on everything a client may hold. It closes the listener and returns once all
// connections have gone; the error is nil after an end by ctx. A listener that
// other machines reach is refused: the pages ask nobody who they are.
func (p *Pages) Serve(ctx context.Context, l net.Listener) error {
	if a, ok := l.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		l.Close()
		return fmt.Errorf("pages: %v is not a loopback address", l.Addr())
	}
	server := &http.Server{
		Handler: p, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, ErrorLog: log.New(io.Discard, "", 0), // what is wrong with a client's bytes is the client's affair
	}
	done := make(chan error, 1)
	go func() {
		done <- server.Serve(&bounded{Listener: l, places: make(chan struct{}, maxConns), closed: make(chan struct{})})
	}()
	select {
	case err := <-done:
		server.Close()
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if server.Shutdown(stop) != nil {
		server.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// bounded is a listener that accepts no more while a number of its connections
// are open.
type bounded struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.places <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.places
		return nil, err
	}
	return &placed{Conn: c, leave: func() { <-b.places }}, nil
}

func (b *bounded) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Listener.Close()
}

// placed is a connection that gives its place back when it is closed.
type placed struct {
	net.Conn
	once  sync.Once
	leave func()
}

func (c *placed) Close() error {
	defer c.once.Do(c.leave)
	return c.Conn.Close()
}

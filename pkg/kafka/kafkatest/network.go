package kafkatest

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
)

// network is the wire between clients and brokers: pipes, which can be cut.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener
	conns     map[net.Conn]struct{} // the brokers' ends of what is connected
	down      bool
}

// listen gives the next broker its listener; kfake asks for 127.0.0.1:0.
func (n *network) listen(string, string) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &listener{
		network: n,
		address: net.JoinHostPort("broker-"+strconv.Itoa(len(n.listeners)), "9092"),
		accepts: make(chan net.Conn),
		done:    make(chan struct{}),
	}
	n.listeners[l.address] = l
	return l, nil
}

// dial connects to the broker at address.
func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[address]
	down := n.down
	n.mu.Unlock()
	if l == nil || down {
		return nil, fmt.Errorf("kafkatest: dial %s: %w", address, syscall.ECONNREFUSED)
	}
	client, server := net.Pipe()
	select {
	case l.accepts <- server:
	case <-l.done:
		return nil, fmt.Errorf("kafkatest: dial %s: %w", address, syscall.ECONNREFUSED)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.down {
		client.Close()
		server.Close()
		return nil, fmt.Errorf("kafkatest: dial %s: %w", address, syscall.ECONNREFUSED)
	}
	n.conns[server] = struct{}{}
	return &conn{Conn: client, network: n, peer: server}, nil
}

// cut breaks every connection; while down, new ones are refused.
func (n *network) cut(down bool) {
	n.mu.Lock()
	n.down = down
	conns := n.conns
	n.conns = make(map[net.Conn]struct{})
	n.mu.Unlock()
	for c := range conns {
		c.Close()
	}
}

// conn is the client's end; closing it forgets the server's.
type conn struct {
	net.Conn
	network *network
	peer    net.Conn
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.network.mu.Lock()
	delete(c.network.conns, c.peer)
	c.network.mu.Unlock()
	return c.Conn.Close()
}

// listener is one broker's side of the network.
type listener struct {
	network *network
	address string
	accepts chan net.Conn
	once    sync.Once
	done    chan struct{}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepts:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return address(l.address) }

// address is the host:port of a broker that has neither.
type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

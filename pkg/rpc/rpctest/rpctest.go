// Package rpctest gives tests a network inside the process, so that servers
// and clients of pkg/rpc run in one testing/synctest bubble: nothing in it
// waits outside of the bubble. Make a Network inside the bubble that uses it.
package rpctest

import (
	"context"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc/test/bufconn"

	"github.com/spillway/spillway/pkg/rpc"
)

// window is how many bytes a connection holds in each direction before a write
// waits; about what a socket holds.
const window = 256 << 10

// Network is a set of addresses that only its own Dial reaches.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*Listener
}

// NewNetwork makes an empty network.
func NewNetwork() *Network { return &Network{listeners: make(map[string]*Listener)} }

// Listener is a net.Listener in memory.
type Listener struct {
	*bufconn.Listener
	address string
	network *Network
}

type address string

func (address) Network() string  { return rpc.InMemory }
func (a address) String() string { return string(a) }

// Listen takes an address, which may be any text such as scheduler-0:7410. It
// panics when the address is taken: a mistake of the test.
func (n *Network) Listen(addr string) *Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		panic("rpctest: address in use: " + addr)
	}
	l := &Listener{Listener: bufconn.Listen(window), address: addr, network: n}
	n.listeners[addr] = l
	return l
}

// Dial connects to a listener; it is rpc.DialConfig's Dialer. An address where
// nobody listens refuses, as a dead host's port does.
func (n *Network) Dial(ctx context.Context, addr string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[addr]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("connect %s: connection refused", addr)
	}
	c, err := l.DialContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", addr, err)
	}
	return conn{Conn: c, peer: address(addr)}, nil
}

// Target is how rpc.Dial names an address of a network.
func Target(addr string) string { return "passthrough:///" + addr }

// Accept gives the server's end of a connection.
func (l *Listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return conn{Conn: c, peer: address(l.address)}, nil
}

// Addr is the address, with the network name that pkg/rpc knows as local.
func (l *Listener) Addr() net.Addr { return address(l.address) }

// Close frees the address. Open connections stay.
func (l *Listener) Close() error {
	l.network.mu.Lock()
	if l.network.listeners[l.address] == l {
		delete(l.network.listeners, l.address)
	}
	l.network.mu.Unlock()
	return l.Listener.Close()
}

// conn names both ends by the listener's address.
type conn struct {
	net.Conn
	peer address
}

func (c conn) LocalAddr() net.Addr  { return c.peer }
func (c conn) RemoteAddr() net.Addr { return c.peer }

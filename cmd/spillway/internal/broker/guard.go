package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// maxRequest bounds a request: the largest we send is a batch of 1 MiB and
	// a bit, or the commits of all partitions with full metadata.
	maxRequest = 8 << 20

	// headBytes are the size, key, version, correlation id and client id
	// length, which every request begins with.
	headBytes = 4 + 2 + 2 + 4 + 2

	// produceVersion is the one that our client speaks. Below 9 the request is
	// not flexible: client id, transactional id, acks, all fixed in place.
	produceVersion = 8

	// intake begins the client ids of the enqueue service, whose records are
	// refused first: they are new work, all else finishes old work.
	intake = "enqueue"

	// refusedAcks replaces acks in a produce request that the store refuses.
	// It is illegal, so kfake would never act on it.
	refusedAcks = 90
)

// guarded is the listener that kfake sees.
type guarded struct {
	net.Listener
	store *store
}

// Accept implements net.Listener.
func (g *guarded) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &guard{Conn: c, store: g.store}, nil
}

// Addr implements net.Listener. kfake tells it to clients as host and port;
// they dial the socket whatever it says.
func (*guarded) Addr() net.Addr { return hostPort{} }

type hostPort struct{}

func (hostPort) Network() string { return "tcp" }
func (hostPort) String() string  { return "local-broker:9092" }

// guard looks at the head of every request before kfake does. Only Read is
// changed, and kfake reads a connection from one goroutine at a time.
type guard struct {
	net.Conn
	store *store
	head  []byte // of the current request, still to be handed on
	rest  int    // bytes of it that follow head, still in the connection
	buf   [headBytes + 512]byte
}

// Read implements net.Conn.
func (g *guard) Read(p []byte) (int, error) {
	if len(g.head) == 0 && g.rest == 0 {
		if err := g.request(); err != nil {
			return 0, err
		}
	}
	if len(g.head) > 0 {
		n := copy(p, g.head)
		g.head = g.head[n:]
		return n, nil
	}
	n, err := g.Conn.Read(p[:min(len(p), g.rest)])
	g.rest -= n
	return n, err
}

// request reads the head of the next request, refuses what kfake would not
// survive, and marks what the store has no room for.
func (g *guard) request() error {
	head := g.buf[:headBytes]
	if _, err := io.ReadFull(g.Conn, head); err != nil {
		return err
	}
	size := int(binary.BigEndian.Uint32(head))
	key := int16(binary.BigEndian.Uint16(head[4:]))
	version := int16(binary.BigEndian.Uint16(head[6:]))
	client := int(int16(binary.BigEndian.Uint16(head[12:])))
	switch {
	case size < headBytes-4 || size > maxRequest:
		return fmt.Errorf("broker: request of %d bytes", size)
	case key < 0 || kmsg.RequestForKey(key) == nil:
		return fmt.Errorf("broker: unknown request key %d", key)
	}
	g.head, g.rest = head, size-(headBytes-4)
	if kmsg.Key(key) != kmsg.Produce {
		return nil
	}
	level := g.store.add(size)
	if level == roomy {
		return nil
	}
	name, err := g.more(max(client, 0))
	if err != nil {
		return err
	}
	if level == tight && !strings.HasPrefix(string(name), intake) {
		return nil
	}
	g.store.add(-size) // it will not be written
	if version > produceVersion {
		return errFull // not one of our clients
	}
	return g.refuse()
}

var (
	// errShort: a request says that it is longer than its own size.
	errShort = errors.New("broker: malformed request")
	// errFull hangs up on a client to which the refusal cannot be told.
	errFull = errors.New("broker: the store is full")
)

// refuse overwrites the acks of a produce request whose head has been read up
// to the client id, so that the store's control function will answer it.
func (g *guard) refuse() error {
	length, err := g.more(2)
	if err != nil {
		return err
	}
	if int16(binary.BigEndian.Uint16(length)) > 0 {
		return errFull // a transaction: not one of our clients
	}
	acks, err := g.more(2)
	if err != nil {
		return err
	}
	if binary.BigEndian.Uint16(acks) == 0 {
		return errFull // it expects no answer
	}
	binary.BigEndian.PutUint16(acks, refusedAcks)
	return nil
}

// more reads n further bytes of the request into head and returns them.
func (g *guard) more(n int) ([]byte, error) {
	at := len(g.head)
	if n > g.rest || at+n > len(g.buf) {
		return nil, errShort
	}
	g.head = g.buf[:at+n]
	if _, err := io.ReadFull(g.Conn, g.head[at:]); err != nil {
		return nil, err
	}
	g.rest -= n
	return g.head[at:], nil
}

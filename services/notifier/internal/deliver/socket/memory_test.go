package socket_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/spillway/spillway/services/notifier/internal/deliver/socket"
)

// TestMemoryOfAnIdleConnection: nothing of net/http stays, and the stack of a reader that waits does not grow. The figure holds the client's end as well.
func TestMemoryOfAnIdleConnection(t *testing.T) {
	const n = 400
	if size := unsafe.Sizeof(socket.Conn{}); size > 512 {
		t.Errorf("a Conn has %d bytes", size)
	}
	ended := make(chan struct{}, n)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan *socket.Conn, n)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := socket.Accept(w, r, socket.Config{})
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			defer func() { ended <- struct{}{} }()
			for {
				if _, err := c.Read(); err != nil {
					return
				}
			}
		}()
		begun <- c
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	measure := func() (heap, stack int64) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc), int64(m.StackInuse)
	}
	request, answer := []byte(handshake(nil)), make([]byte, 512)
	clients := make([]net.Conn, 0, n)
	conns := make([]*socket.Conn, 0, n)
	heap, stack := measure()
	for range n {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
		_, _ = c.Write(request)
		if k, err := io.ReadAtLeast(c, answer, 32); err != nil || !bytes.Contains(answer[:k], []byte(" 101 ")) {
			t.Fatal(string(answer[:k]), err)
		}
		conns = append(conns, <-begun)
		// A message has been read, so buffers that are made for one would show.
		_, _ = c.Write(masked(wsText(strings.Repeat("x", 100))))
	}
	heapAfter, stackAfter := measure()
	t.Logf("%d bytes of heap and %d of stack a connection, with the client's end", (heapAfter-heap)/n, (stackAfter-stack)/n)
	if perConn := (heapAfter - heap) / n; perConn > 3000 {
		t.Errorf("%d bytes of heap a connection", perConn)
	}
	for _, c := range clients {
		_ = c.Close()
	}
	for range n {
		<-ended
	}
	runtime.KeepAlive(conns)
}

// BenchmarkWrite is a batch of eight messages for each of many sockets whose peers read, on the same cores.
func BenchmarkWrite(b *testing.B) {
	address, accepted := serve(b, socket.Config{})
	conns := make([]*socket.Conn, 100)
	for i := range conns {
		c, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, handshake(nil))
		go func() { _, _ = io.Copy(io.Discard, c) }()
		conns[i] = <-accepted
	}
	frames := make([][]byte, 8)
	for i := range frames {
		frames[i] = socket.Text(bytes.Repeat([]byte("x"), 256))
	}
	b.ReportAllocs()
	taken := 0
	for i := 0; b.Loop(); i++ {
		whole, err := conns[i%len(conns)].Write(frames...)
		if err != nil {
			b.Fatal(err)
		}
		taken += whole
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(max(taken, 1)), "ns/msg")
	b.ReportMetric(float64(taken)/float64(b.N*len(frames)), "taken")
}

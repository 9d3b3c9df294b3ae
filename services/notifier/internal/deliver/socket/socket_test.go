package socket_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/spillway/spillway/services/notifier/internal/deliver/socket"
)

// serve runs a server on real TCP whose websockets come out of the channel.
func serve(t testing.TB, cfg socket.Config) (address string, conns <-chan *socket.Conn) {
	t.Helper()
	out := make(chan *socket.Conn, 16)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := socket.Accept(w, r, cfg); err == nil {
			out <- c
		}
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String(), out
}

func dial(t testing.TB, address string) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), "ws://"+address+"/v1/ws", &websocket.DialOptions{Subprotocols: []string{socket.Subprotocol}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.CloseNow() })
	c.SetReadLimit(1 << 20)
	return c
}

func TestMessagesBothWays(t *testing.T) {
	address, conns := serve(t, socket.Config{})
	client := dial(t, address)
	server := <-conns
	for _, n := range []int{1, 12, 125, 126, 127, 129, 4096, 16 << 10} {
		want := strings.Repeat("é", n/2) + strings.Repeat("x", n%2)
		if err := client.Write(t.Context(), websocket.MessageText, []byte(want)); err != nil {
			t.Fatal(err)
		}
		got, err := server.Read()
		if err != nil || string(got) != want {
			t.Fatalf("%d bytes: %d, %v", n, len(got), err)
		}
		if whole, err := server.Write(socket.Text(got), socket.Text([]byte("{}"))); err != nil || whole != 2 {
			t.Fatal(whole, err)
		}
		for _, want := range []string{want, "{}"} {
			if _, got, err := client.Read(t.Context()); err != nil || string(got) != want {
				t.Fatalf("%d bytes: %d, %v", n, len(got), err)
			}
		}
	}
	// A ping is answered while nobody but the reader works.
	go func() { _, _ = server.Read() }()
	ctx := client.CloseRead(t.Context())
	if err := client.Ping(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestCloseReachesAPeerThatIsTalking(t *testing.T) {
	address, conns := serve(t, socket.Config{})
	client := dial(t, address)
	server := <-conns
	for range 50 { // unread when the server closes
		if err := client.Write(t.Context(), websocket.MessageText, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := server.Close(4205, "for good"); err != nil {
		t.Fatal(err)
	}
	_, _, err := client.Read(t.Context())
	var closed websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != 4205 || closed.Reason != "for good" {
		t.Fatal(err)
	}
	for err = error(nil); err == nil; {
		_, err = server.Read()
	}
	if !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	if _, err := server.Write(socket.Text(nil)); err == nil {
		t.Error("a write after Close")
	}
}

func TestPeersClose(t *testing.T) {
	address, conns := serve(t, socket.Config{})
	client := dial(t, address)
	server := <-conns
	done := make(chan error, 1)
	go func() { done <- client.Close(websocket.StatusGoingAway, "bye") }()
	_, err := server.Read()
	var ended *socket.Ended
	if !errors.As(err, &ended) || !ended.Peer || ended.Code != 1001 || ended.Reason != "bye" {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestWriteNeverWaits: a peer that does not read over real TCP. Every Write returns at once, keeps at most one frame, and what was taken arrives byte by byte once the
// peer reads.
func TestWriteNeverWaits(t *testing.T) {
	address, conns := serve(t, socket.Config{})
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_, _ = io.WriteString(raw, handshake(nil))
	server := <-conns

	frame := func(i int) []byte {
		return socket.Text([]byte(fmt.Sprintf("%08d", i) + strings.Repeat("x", i*37%5000)))
	}
	var sent bytes.Buffer
	const batch = 16
	var worst time.Duration
	calls, next, full, waiting := 0, 0, 0, 0
	for full < 2000 {
		frames := make([][]byte, batch)
		for i := range frames {
			frames[i] = frame(next + i)
		}
		start := time.Now()
		whole, err := server.Write(frames...)
		worst = max(worst, time.Since(start))
		calls++
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range frames[:whole] {
			sent.Write(f)
		}
		next += whole
		if whole < batch {
			full++
		}
		waiting = max(waiting, server.Waiting())
	}
	if worst > 100*time.Millisecond { // microseconds; the machine of a test may stop for longer
		t.Errorf("a write took %v", worst)
	}
	if waiting > 5100 {
		t.Errorf("%d bytes are kept for the peer, more than a frame", waiting)
	}
	if since := time.Since(server.LastTaken()); since < 0 {
		t.Error(since)
	}
	t.Logf("%d calls, %d of them on a full socket, the longest %v; the kernel took %d bytes, %d wait", calls, full, worst, sent.Len()-server.Waiting(), server.Waiting())

	got := make(chan []byte)
	go func() {
		head := make([]byte, 0, 4096)
		for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			b := make([]byte, 1)
			if _, err := raw.Read(b); err != nil {
				break
			}
			head = append(head, b...)
		}
		b, _ := io.ReadAll(raw)
		got <- b
	}()
	deadline := time.Now().Add(10 * time.Second)
	for clear := false; !clear; {
		if clear, err = server.Flush(); err != nil || time.Now().After(deadline) {
			t.Fatal(clear, err)
		}
	}
	whole, err := server.Write(frame(next))
	for whole == 0 && err == nil {
		whole, err = server.Write(frame(next))
	}
	sent.Write(frame(next))
	if err != nil {
		t.Fatal(err)
	}
	for clear := false; !clear; {
		if clear, err = server.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	_ = server.Close(1000, "")
	b := <-got
	if !bytes.HasPrefix(b, sent.Bytes()) {
		t.Errorf("%d bytes arrived of %d, or others", len(b), sent.Len())
	}
}

// handshake is a good request, with some headers changed or (empty) left out.
func handshake(change map[string]string) string {
	h := map[string]string{
		"Host": "x", "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
		"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": socket.Subprotocol,
	}
	first := "GET /v1/ws HTTP/1.1"
	for k, v := range change {
		h[k] = v
	}
	if l := h["first"]; l != "" {
		first = l
	}
	delete(h, "first")
	text := first + "\r\n"
	for k, v := range h {
		if v != "" {
			text += k + ": " + v + "\r\n"
		}
	}
	return text + "\r\n"
}

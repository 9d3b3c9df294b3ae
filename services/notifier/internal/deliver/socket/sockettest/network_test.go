package sockettest_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/spillway/spillway/services/notifier/internal/deliver/socket"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket/sockettest"
)

// TestInABubble: a server, a client that stops reading, and hours in no time.
func TestInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := sockettest.ListenWindow(4096, 1024)
		accepted := make(chan *socket.Conn, 1)
		server := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c, err := socket.Accept(w, r, socket.Config{}); err == nil {
				accepted <- c
			}
		})}
		go func() { _ = server.Serve(l) }()
		defer server.Close()

		client, _, err := websocket.Dial(t.Context(), "ws://notifier/v1/ws", &websocket.DialOptions{HTTPClient: l.Client(), Subprotocols: []string{socket.Subprotocol}})
		if err != nil {
			t.Fatal(err)
		}
		defer client.CloseNow()
		c := <-accepted
		gone := make(chan error, 1)
		go func() {
			_, err := c.Read()
			gone <- err
		}()
		time.Sleep(time.Hour) // the deadlines of net/http are gone

		frame := socket.Text([]byte(strings.Repeat("x", 1000)))
		sent := 0
		for {
			n, err := c.Write(frame)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
			sent++
		}
		// The client's own reader holds 4 KiB more.
		if sent < 5 || sent > 14 || c.Waiting() == 0 || c.Waiting() > len(frame) {
			t.Fatalf("%d frames, %d bytes wait", sent, c.Waiting())
		}
		full := c.LastTaken()
		time.Sleep(10 * time.Second)
		if clear, err := c.Flush(); clear || err != nil || time.Since(c.LastTaken()) < 10*time.Second || c.LastTaken() != full {
			t.Fatal(clear, err, time.Since(c.LastTaken()))
		}
		for i := range sent {
			if i == 2 { // the reader took some
				if clear, err := c.Flush(); !clear || err != nil || c.Waiting() != 0 {
					t.Fatal(clear, err)
				}
			}
			if _, b, err := client.Read(t.Context()); err != nil || len(b) != 1000 {
				t.Fatal(i, err)
			}
		}
		_ = c.Close(4007, "rest")
		_, _, err = client.Read(t.Context())
		if websocket.CloseStatus(err) != 4007 {
			t.Fatal(err)
		}
		if err := <-gone; !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
	})
}

func TestDeadlinesAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := sockettest.ListenWindow(8, 8)
		client, err := l.Dial()
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = client.SetDeadline(time.Now().Add(time.Minute))
		start := time.Now()
		if n, err := client.Write(make([]byte, 10)); n != 8 || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
			t.Fatal(n, err, time.Since(start))
		}
		if n, err := client.TryWrite([]byte("x")); n != 0 || err != nil || client.Held() != 8 {
			t.Fatal(n, err)
		}
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		_ = client.SetDeadline(time.Time{})
		_ = client.CloseWrite()
		if b, err := io.ReadAll(server); len(b) != 8 || err != nil {
			t.Fatal(b, err)
		}
		if _, err := server.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		_ = server.Close()
		if b, err := io.ReadAll(client); string(b) != "answer" || err != nil {
			t.Fatal(b, err)
		}
		if _, err := client.Write([]byte("x")); err == nil {
			t.Fatal("written to nobody")
		}
		_ = l.Close()
		if _, err := l.Dial(); err == nil {
			t.Fatal("dialled nobody")
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Fatal(err)
		}
	})
}

package stack

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// socket is a websocket of a subscriber, by hand: this module has no library for it.
type socket struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

// subscribe connects as a program does, without an Origin, and says hello.
func subscribe(t *testing.T, address, token string) *socket {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, within)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(within))
	fmt.Fprintf(conn, "GET /v1/ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: spillway.v1\r\n\r\n", address)
	s := &socket{t: t, conn: conn, in: bufio.NewReader(conn)}
	resp, err := http.ReadResponse(s.in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Protocol") != "spillway.v1" {
		t.Fatalf("%v: %+v", err, resp)
	}
	s.say(fmt.Sprintf(`{"t":"hello","auth":%q}`, token))
	s.until(`"t":"hello"`)
	return s
}

// say sends a text frame.
func (s *socket) say(text string) {
	s.t.Helper()
	const fin, word, masked = 0x81, 126, 0x80
	frame := []byte{fin, masked | word, byte(len(text) >> 8), byte(len(text)), 0, 0, 0, 0} // a mask that changes nothing
	if _, err := s.conn.Write(append(frame, text...)); err != nil {
		s.t.Fatal(err)
	}
}

// until reads until a text frame contains something, and returns it.
func (s *socket) until(what string) string {
	s.t.Helper()
	for {
		var head [2]byte
		if _, err := io.ReadFull(s.in, head[:]); err != nil {
			s.t.Fatalf("no frame with %s: %v", what, err)
		}
		size := int(head[1])
		if size == 126 {
			var long [2]byte
			if _, err := io.ReadFull(s.in, long[:]); err != nil {
				s.t.Fatal(err)
			}
			size = int(long[0])<<8 | int(long[1])
		}
		text := make([]byte, size)
		if _, err := io.ReadFull(s.in, text); err != nil {
			s.t.Fatal(err)
		}
		if strings.Contains(string(text), what) {
			return string(text)
		}
		if head[0] == 0x88 {
			s.t.Fatalf("closed before %s: %q", what, text)
		}
	}
}

package socket_test

import (
	"bytes"
	"errors"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket/sockettest"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"github.com/spillway/spillway/services/notifier/internal/deliver/socket"
)

// FuzzRead: whatever bytes follow a handshake, Read ends or delivers text of a bounded size, what is sent back are whole unmasked frames, and memory is bounded by what came.
func FuzzRead(f *testing.F) {
	text := ws.NewTextFrame([]byte(`{"t":"pong"}`))
	f.Add(masked(text, ws.NewPingFrame([]byte("p")), text, ws.NewCloseFrame(ws.NewCloseFrameBody(1000, "x"))))
	f.Add(masked(ws.NewFrame(ws.OpText, false, []byte("a")), ws.NewPingFrame(nil), ws.NewFrame(ws.OpContinuation, true, []byte("b"))))
	f.Add(masked(ws.NewTextFrame(make([]byte, 16<<10+1))))
	f.Add(ws.MustCompileFrame(text))
	f.Add([]byte{0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Add([]byte{0x88, 0x81, 0, 0, 0, 0, 3})
	f.Add([]byte{0x01, 0x80, 0, 0, 0, 0, 0x80, 0xfe, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, input []byte) {
		if len(input) > 64<<10 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			client, server := pair(t, 64<<10, len(input)+1)
			if _, err := client.Write(input); err != nil {
				t.Fatal(err)
			}
			_ = client.CloseWrite()
			start := time.Now()
			for read := 0; ; {
				message, err := server.Read()
				if err != nil {
					var ended *socket.Ended
					if !errors.As(err, &ended) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
						t.Fatalf("%T %v", err, err)
					}
					break
				}
				if read += len(message); len(message) > 16<<10 || read > len(input) || cap(message) > 4*len(message)+1024 || !utf8.Valid(message) {
					t.Fatalf("%d bytes in a buffer of %d, %d in all of %d", len(message), cap(message), read, len(input))
				}
			}
			if time.Since(start) > 3*time.Second {
				t.Fatal(time.Since(start))
			}
			answer, err := io.ReadAll(client)
			if err != nil {
				t.Fatal(err)
			}
			for r := bytes.NewReader(answer); r.Len() > 0; {
				f, err := sockettest.ReadFrame(r)
				if err != nil || f.Header.Masked || f.Header.OpCode != ws.OpPong && f.Header.OpCode != ws.OpClose {
					t.Fatal(err, f.Header)
				}
			}
			if err := server.Close(1000, ""); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Fatal(err)
			}
		})
	})
}

package socket_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gobwas/ws"

	"github.com/spillway/spillway/services/notifier/internal/deliver/socket"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket/sockettest"
)

// ask sends a request as bytes and returns the answer's status and headers.
func ask(t *testing.T, address, request string) *http.Response {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// TestS26Origins: the list is exact, and a refusal comes before the upgrade.
func TestS26Origins(t *testing.T) {
	address, _ := serve(t, socket.Config{Origins: []string{"https://app.example.com", "http://localhost:3000", "null", ""}})
	for origin, want := range map[string]int{
		"https://app.example.com":                             101,
		"http://localhost:3000":                               101,
		"null":                                                403, // also when somebody has listed it
		"https://app.example.com.evil":                        403,
		"https://app.example.com.evil.com":                    403,
		"https://evilapp.example.com":                         403,
		"https://sub.app.example.com":                         403,
		"https://example.com":                                 403,
		"https://app.example.com:443":                         403,
		"https://app.example.com:8443":                        403,
		"http://app.example.com":                              403,
		"https://APP.example.com":                             403,
		"HTTPS://app.example.com":                             403,
		"https://app.example.com/":                            403,
		"https://app.example.com/x":                           403,
		"https://app.example.com.":                            403,
		"https://app.example.com@evil.com":                    403,
		"https://user@app.example.com":                        403,
		"https://app.example.com https://evil.com":            403,
		"https://evil.com, https://app.example.com":           403,
		"https://app.example.com\r\nOrigin: https://evil.com": 403,
		"*":                      403,
		"file://":                403,
		"http://localhost":       403,
		"http://localhost:30000": 403,
		"http://127.0.0.1:3000":  403,
	} {
		answer := ask(t, address, handshake(map[string]string{"Origin": origin}))
		if answer.StatusCode != want {
			t.Errorf("origin %q: %d, want %d", origin, answer.StatusCode, want)
		}
	}
	// No Origin is no browser; an empty one is nothing a browser sends.
	if answer := ask(t, address, handshake(nil)); answer.StatusCode != 101 {
		t.Error(answer.Status)
	}
	empty := strings.Replace(handshake(nil), "\r\n\r\n", "\r\nOrigin:\r\n\r\n", 1)
	if answer := ask(t, address, empty); answer.StatusCode != 403 {
		t.Error(answer.Status)
	}
	closed, _ := serve(t, socket.Config{})
	if answer := ask(t, closed, handshake(map[string]string{"Origin": "https://app.example.com"})); answer.StatusCode != 403 {
		t.Error("an empty list is no browser:", answer.Status)
	}
}

// TestS29Handshakes: what is no handshake, and what a good one must not negotiate.
func TestS29Handshakes(t *testing.T) {
	address, _ := serve(t, socket.Config{})
	for name, c := range map[string]struct {
		change map[string]string
		want   int
	}{
		"good":                       {nil, 101},
		"lists, and other case":      {map[string]string{"Connection": "keep-alive, upgrade", "Upgrade": "WebSocket", "Sec-WebSocket-Protocol": "x, spillway.v1,y"}, 101},
		"POST":                       {map[string]string{"first": "POST /v1/ws HTTP/1.1", "Content-Length": "0"}, 405},
		"HEAD":                       {map[string]string{"first": "HEAD /v1/ws HTTP/1.1"}, 405},
		"HTTP/1.0":                   {map[string]string{"first": "GET /v1/ws HTTP/1.0"}, 426},
		"no Connection":              {map[string]string{"Connection": ""}, 426},
		"no Upgrade":                 {map[string]string{"Upgrade": ""}, 426},
		"upgrade to h2c":             {map[string]string{"Upgrade": "h2c"}, 426},
		"version 8":                  {map[string]string{"Sec-WebSocket-Version": "8"}, 426},
		"no key":                     {map[string]string{"Sec-WebSocket-Key": ""}, 400},
		"key of 15 bytes":            {map[string]string{"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAA"}, 400},
		"key is no base64":           {map[string]string{"Sec-WebSocket-Key": "!!!!!!!!!!!!!!!!!!!!!!=="}, 400},
		"no subprotocol":             {map[string]string{"Sec-WebSocket-Protocol": ""}, 400},
		"other subprotocol":          {map[string]string{"Sec-WebSocket-Protocol": "spillway.v10"}, 400},
		"subprotocol in other case":  {map[string]string{"Sec-WebSocket-Protocol": "Spillway.V1"}, 400},
		"a body":                     {map[string]string{"Content-Length": "5"}, 400},
		"a chunked body":             {map[string]string{"Transfer-Encoding": "chunked"}, 400},
		"compression is offered":     {map[string]string{"Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame"}, 101},
		"a megabyte of subprotocols": {map[string]string{"Sec-WebSocket-Protocol": strings.Repeat("x,", 600_000)}, 431},
	} {
		answer := ask(t, address, handshake(c.change))
		if answer.StatusCode != c.want {
			t.Errorf("%s: %d, want %d", name, answer.StatusCode, c.want)
		}
		if len(answer.Header["Sec-Websocket-Extensions"]) > 0 {
			t.Errorf("%s: negotiated %v", name, answer.Header["Sec-Websocket-Extensions"])
		}
		if c.want == 101 && (answer.Header.Get("Sec-WebSocket-Protocol") != "spillway.v1" || answer.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
			t.Errorf("%s: %v", name, answer.Header)
		}
		if c.want == 426 && answer.Header.Get("Sec-WebSocket-Version") != "13" {
			t.Errorf("%s: the version is not named", name)
		}
	}
}

// attack runs a Conn of a network in memory, gives it input and returns what Read said at the end, what the client got, and how many messages were read.
func attack(t *testing.T, input []byte) (answer []byte, messages int, err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, 64<<10, len(input)+1)
		if _, err := client.Write(input); err != nil {
			t.Fatal(err)
		}
		done := make(chan []byte)
		go func() {
			b, _ := io.ReadAll(client)
			done <- b
		}()
		for err == nil {
			if _, err = server.Read(); err == nil {
				messages++
			}
		}
		answer = <-done
		if _, late := server.Write(socket.Text(nil)); late == nil {
			t.Error("a connection that has ended takes a frame")
		}
	})
	return answer, messages, err
}

// pair makes one websocket in the bubble and returns its ends.
func pair(t testing.TB, toClient, toServer int) (*sockettest.Conn, *socket.Conn) {
	t.Helper()
	l := sockettest.ListenWindow(toClient, max(toServer, 1024))
	accepted := make(chan *socket.Conn, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := socket.Accept(w, r, socket.Config{})
		if err != nil {
			t.Error(err)
		}
		accepted <- c
	})}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	client, err := l.Dial()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(client, handshake(nil)); err != nil {
		t.Fatal(err)
	}
	for head := []byte(nil); !bytes.HasSuffix(head, []byte("\r\n\r\n")); {
		b := make([]byte, 1)
		if _, err := client.Read(b); err != nil {
			t.Fatal(err)
		}
		head = append(head, b...)
	}
	return client, <-accepted
}

func wsText(text string) ws.Frame { return ws.NewTextFrame([]byte(text)) }

func masked(frames ...ws.Frame) []byte {
	var b bytes.Buffer
	for _, f := range frames {
		ws.MustWriteFrame(&b, ws.MaskFrameWith(f, [4]byte{1, 2, 3, 4}))
	}
	return b.Bytes()
}

func repeat(n int, f ws.Frame) []ws.Frame {
	list := make([]ws.Frame, n)
	for i := range list {
		list[i] = f
	}
	return list
}

// TestS29Frames: each breach ends the connection with its code, which the client gets.
func TestS29Frames(t *testing.T) {
	text := func(n int) ws.Frame { return ws.NewTextFrame(bytes.Repeat([]byte("x"), n)) }
	rsv := text(1)
	rsv.Header.Rsv = ws.Rsv(true, false, false)
	longPing := ws.NewPingFrame(make([]byte, 126))
	halfPing := ws.NewPingFrame(nil)
	halfPing.Header.Fin = false
	start := ws.NewFrame(ws.OpText, false, []byte("x"))
	more := ws.NewFrame(ws.OpContinuation, false, nil)
	last := ws.NewFrame(ws.OpContinuation, true, []byte("y"))
	join := func(frames ...[]ws.Frame) (all []ws.Frame) {
		for _, f := range frames {
			all = append(all, f...)
		}
		return all
	}
	one := func(f ...ws.Frame) []ws.Frame { return f }
	for name, c := range map[string]struct {
		input    []byte
		code     int
		messages int
	}{
		"the longest":                       {masked(text(16<<10), ws.NewCloseFrame(nil)), 1005, 1},
		"one byte more":                     {masked(text(16<<10 + 1)), 1009, 0},
		"a header of 2⁶²":                   {[]byte{0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1009, 0},
		"a header of 2⁶³":                   {[]byte{0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, 1002, 0},
		"too big in fragments":              {masked(ws.NewFrame(ws.OpText, false, make([]byte, 10<<10)), ws.NewFrame(ws.OpContinuation, true, make([]byte, 7<<10))), 1009, 0},
		"64 fragments":                      {masked(join(one(start), repeat(62, more), one(last, ws.NewCloseFrame(nil)))...), 1005, 1},
		"65 fragments":                      {masked(join(one(start), repeat(63, more), one(last))...), 1008, 0},
		"empty fragments for ever":          {masked(join(one(start), repeat(10_000, more))...), 1008, 0},
		"unmasked":                          {ws.MustCompileFrame(text(5)), 1002, 0},
		"unmasked ping":                     {ws.MustCompileFrame(ws.NewPingFrame(nil)), 1002, 0},
		"binary":                            {masked(ws.NewBinaryFrame([]byte("x"))), 1003, 0},
		"reserved bit":                      {masked(rsv), 1002, 0},
		"reserved opcode":                   {masked(ws.NewFrame(3, true, nil)), 1002, 0},
		"reserved control":                  {masked(ws.NewFrame(11, true, nil)), 1002, 0},
		"ping of 126 bytes":                 {masked(longPing), 1002, 0},
		"half a ping":                       {masked(halfPing), 1002, 0},
		"continuation of nothing":           {masked(last), 1002, 0},
		"text within text":                  {masked(start, text(1)), 1002, 0},
		"not UTF-8":                         {masked(ws.NewTextFrame([]byte{0xff})), 1007, 0},
		"half a character":                  {masked(ws.NewTextFrame([]byte("é")[:1])), 1007, 0},
		"a character over two fragments":    {masked(ws.NewFrame(ws.OpText, false, []byte("é")[:1]), ws.NewFrame(ws.OpContinuation, true, []byte("é")[1:]), ws.NewCloseFrame(nil)), 1005, 1},
		"32 pings":                          {masked(join(repeat(32, ws.NewPingFrame([]byte("p"))), one(text(1), ws.NewCloseFrame(nil)))...), 1005, 1},
		"a flood of pings":                  {masked(repeat(10_000, ws.NewPingFrame(bytes.Repeat([]byte("p"), 125)))...), 1008, 0},
		"a flood of pongs":                  {masked(repeat(10_000, ws.NewPongFrame(nil))...), 1008, 0},
		"pings within a message":            {masked(join(one(start), repeat(10_000, ws.NewPingFrame(nil)))...), 1008, 0},
		"close of one byte":                 {masked(ws.NewCloseFrame([]byte{3})), 1002, 0},
		"close with 1005":                   {masked(ws.NewCloseFrame(ws.NewCloseFrameBody(1005, ""))), 1002, 0},
		"close with 999":                    {masked(ws.NewCloseFrame(ws.NewCloseFrameBody(999, ""))), 1002, 0},
		"close with 5000":                   {masked(ws.NewCloseFrame(ws.NewCloseFrameBody(5000, ""))), 1002, 0},
		"close with a reason that is not":   {masked(ws.NewCloseFrame([]byte{3, 0xe8, 0xff})), 1002, 0},
		"close with 4999":                   {masked(ws.NewCloseFrame(ws.NewCloseFrameBody(4999, "x"))), 4999, 0},
		"a message after a close":           {masked(ws.NewCloseFrame(ws.NewCloseFrameBody(1000, "")), text(1)), 1000, 0},
		"a message, and garbage afterwards": {append(masked(text(3)), 0x7f, 0x00), 1002, 1},
	} {
		t.Run(name, func(t *testing.T) {
			answer, messages, err := attack(t, c.input)
			var ended *socket.Ended
			if !errors.As(err, &ended) || ended.Code != c.code || messages != c.messages {
				t.Fatalf("%v after %d messages, want %d after %d", err, messages, c.code, c.messages)
			}
			// The last frame that the client got is a close with the code.
			var body []byte
			pongs := 0
			for r := bytes.NewReader(answer); r.Len() > 0; {
				f, err := sockettest.ReadFrame(r)
				if err != nil {
					t.Fatal(err)
				}
				switch f.Header.OpCode {
				case ws.OpClose:
					body = f.Payload
				case ws.OpPong:
					pongs++
				}
			}
			code, _ := ws.ParseCloseFrameData(body)
			if want := c.code; int(code) != want && (want != 1005 || code != 1000) {
				t.Errorf("the client got %d, want %d", code, want)
			}
			if pongs > 32 {
				t.Errorf("%d pongs", pongs)
			}
		})
	}
}

// TestS29SlowMessages: a header, or a part of a message, holds no memory for what has not come; and it has its time and not more.
func TestS29SlowMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200
		var before, after runtime.MemStats
		var servers []*socket.Conn
		for range n {
			client, server := pair(t, 1024, 1024)
			servers = append(servers, server)
			head := masked(ws.NewTextFrame(make([]byte, 16<<10)))[:8+100]
			if _, err := client.Write(head); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&before)
		errs := make(chan error, n)
		for _, s := range servers {
			go func() {
				_, err := s.Read()
				errs <- err
			}()
		}
		synctest.Wait()
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > n*2048 {
			t.Errorf("%d bytes for each message of which 100 bytes are there", grown/n)
		}
		start := time.Now()
		for range n {
			if ended := (*socket.Ended)(nil); !errors.As(<-errs, &ended) || ended.Code != socket.CodeViolation {
				t.Fatal(ended)
			}
		}
		if took := time.Since(start); took < 10*time.Second || took > 13*time.Second { // and the two seconds to read why
			t.Error(took)
		}
	})
}

// TestS29HalfMessages: connections that are all in the middle of a message have one budget. What would exceed it ends its own connection, short messages of others pass,
// and all of it is there again when they are gone; a message that comes in pieces within its time is no worse for that.
func TestS29HalfMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, free, n = 64 << 10, 512, 40
		budget := socket.NewBudget(most, free)
		whole := masked(ws.NewTextFrame(make([]byte, 8<<10)))
		codes := make(chan int, n)
		var clients []net.Conn
		for range n {
			client, server := pair(t, 16<<10, 16<<10)
			server.Hold(16<<10, budget)
			clients = append(clients, client)
			go func() {
				ended, code := (*socket.Ended)(nil), 0
				for {
					_, err := server.Read()
					if errors.As(err, &ended) {
						code = ended.Code
					}
					if err != nil {
						codes <- code
						return
					}
				}
			}()
			if _, err := client.Write(whole[:len(whole)-1]); err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.Copy(io.Discard, client) }()
			synctest.Wait()
			if used := budget.Used(); used > most {
				t.Fatalf("%d bytes of %d in use", used, most)
			}
		}
		client, server := pair(t, 1024, 1024)
		server.Hold(16<<10, budget)
		if _, err := client.Write(masked(ws.NewTextFrame(make([]byte, free)))); err != nil {
			t.Fatal(err)
		}
		if _, err := server.Read(); err != nil {
			t.Error("a short message of another:", err)
		}
		time.Sleep(5 * time.Second)
		if _, err := clients[0].Write(whole[len(whole)-1:]); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		time.Sleep(10 * time.Second)
		_ = clients[0].Close()
		got := map[int]int{}
		for range n {
			got[<-codes]++
		}
		if got[socket.CodeLater] < n-most/(8<<10) || got[socket.CodeViolation] == 0 || got[0] != 1 {
			t.Errorf("closed with %v", got)
		}
		if used := budget.Used(); used != 0 {
			t.Errorf("%d bytes are left in use", used)
		}
	})
}

// TestS29PingsOfAPeerThatDoesNotRead: one pong waits, the newest, and what was begun goes first.
func TestS29PingsOfAPeerThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, 1000, 64<<10)
		done := make(chan error, 1)
		go func() {
			_, err := server.Read()
			done <- err
		}()
		frame := socket.Text(bytes.Repeat([]byte("m"), 700))
		if whole, err := server.Write(frame, frame, frame); whole != 2 || err != nil {
			t.Fatal(whole, err)
		}
		for i := range 20 {
			if _, err := client.Write(masked(ws.NewPingFrame(bytes.Repeat([]byte{byte('a' + i)}, 125)))); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := server.Waiting(); n != 2*len(frame)-1000+127 {
			t.Errorf("%d bytes wait", n)
		}
		go func() { _, _ = io.Copy(io.Discard, io.LimitReader(client, 900)) }()
		synctest.Wait()
		if clear, err := server.Flush(); !clear || err != nil {
			t.Fatal(clear, err)
		}
		rest := make([]byte, 2*len(frame)-900+127)
		if _, err := io.ReadFull(client, rest); err != nil || !bytes.HasSuffix(rest, bytes.Repeat([]byte("t"), 125)) {
			t.Errorf("%v, %q", err, rest[len(rest)-130:])
		}
		_ = client.Close()
		if err := <-done; err == nil {
			t.Error("no end")
		}
	})
}

// TestCloseOfAFullSocket: nothing is waited for, and the peer is cut off.
func TestCloseOfAFullSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := pair(t, 1000, 1000)
		frame := socket.Text(bytes.Repeat([]byte("m"), 2000))
		if whole, err := server.Write(frame, frame); whole != 1 || err != nil {
			t.Fatal(whole, err)
		}
		start := time.Now()
		_ = server.Close(4003, "x")
		if _, err := server.Read(); !errors.Is(err, net.ErrClosed) || time.Since(start) != 0 {
			t.Fatal(err, time.Since(start))
		}
		if b, err := io.ReadAll(client); err != nil || len(b) != 1000 {
			t.Fatal(len(b), err)
		}
	})
}

// TestCloseOfADeafPeer: one that never closes its side is cut off after two seconds, with or without a reader.
func TestCloseOfADeafPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, reader := range []bool{true, false} {
			client, server := pair(t, 1000, 1000)
			start := time.Now()
			_ = server.Close(4003, strings.Repeat("é", 100)) // cut to 122 bytes
			if reader {
				if _, err := server.Read(); !errors.Is(err, net.ErrClosed) || time.Since(start) != 2*time.Second {
					t.Fatal(err, time.Since(start))
				}
			} else {
				time.Sleep(3 * time.Second)
			}
			f, err := sockettest.ReadFrame(client)
			if code, reason := ws.ParseCloseFrameData(f.Payload); err != nil || code != 4003 || reason != strings.Repeat("é", 61) {
				t.Fatal(err, code, reason)
			}
			if _, err := client.Write([]byte("x")); err == nil {
				t.Fatal("still open")
			}
		}
	})
}

package socket

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // RFC 6455 names it; nothing is kept secret by it.
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Subprotocol is the protocol of the messages, in Sec-WebSocket-Protocol.
const Subprotocol = "spillway.v1"

// Config is what Accept holds a client to.
type Config struct {
	// Origins are the exact origins of pages that may connect, such as https://app.example.com; nil: no browser may. A client that sends no Origin is not a browser
	// and may always try: what admits it is its token. "null" and patterns match nothing.
	Origins []string
	// MaxMessage bounds a text message of the client, in bytes; 0: 16 KiB.
	MaxMessage int
	// Budget bounds the messages that all its connections are in the middle of; nil: none does. Conn.Hold changes both for one connection.
	Budget *Budget
	// Within is how long a message may take from its first byte to its last; 0: 10 s.
	Within time.Duration
	// SendBuffer is SO_SNDBUF in bytes, which the kernel doubles; 0: 32 KiB. Small, so that a slow peer is noticed after kilobytes and not after megabytes.
	SendBuffer int
	// Unsent is TCP_NOTSENT_LOWAT in bytes where the system has it; 0: 16 KiB.
	Unsent int
}

const (
	defaultMessage    = 16 << 10
	defaultWithin     = 10 * time.Second
	defaultSendBuffer = 32 << 10
	defaultUnsent     = 16 << 10

	acceptMagic = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455 §4.2.2
)

// ErrRefused means that a request did not become a websocket and was answered so. Its text says why, for a log; it holds nothing that the client sent.
var ErrRefused = errors.New("websocket refused")

// Accept makes a websocket of a request, or answers it: 403 for an origin that is not listed, 4xx for what is no handshake, 426 for another version. After an error
// nothing more may be written to w. The connection of w must be TCP or a Unix socket without TLS, or implement TryWriter.
func Accept(w http.ResponseWriter, r *http.Request, cfg Config) (*Conn, error) {
	if status, why := judge(r, cfg.Origins); status != 0 {
		w.Header().Set("Connection", "close") // nobody waits for a body, or for a second try on this connection
		if status == http.StatusUpgradeRequired {
			w.Header().Set("Sec-WebSocket-Version", "13")
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Connection", "close, Upgrade")
		}
		if status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", http.MethodGet)
		}
		http.Error(w, why, status)
		return nil, fmt.Errorf("%w: %s", ErrRefused, why)
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "cannot upgrade", http.StatusInternalServerError)
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	c, err := upgrade(conn, buffered.Reader, r.Header.Get("Sec-WebSocket-Key"), cfg)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return c, nil
}

// judge returns the status to refuse with, 0 for a handshake that is good.
func judge(r *http.Request, origins []string) (status int, why string) {
	key, err := base64.StdEncoding.Strict().DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case r.Method != http.MethodGet:
		return http.StatusMethodNotAllowed, "a websocket begins with GET"
	case !allowed(r.Header["Origin"], origins):
		return http.StatusForbidden, "origin not allowed"
	case r.ProtoMajor != 1 || r.ProtoMinor < 1 || !holds(r.Header["Connection"], "upgrade") || !holds(r.Header["Upgrade"], "websocket"):
		return http.StatusUpgradeRequired, "this is a websocket"
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return http.StatusUpgradeRequired, "version 13 wanted"
	case err != nil || len(key) != 16 || len(r.Header["Sec-Websocket-Key"]) != 1:
		return http.StatusBadRequest, "no Sec-WebSocket-Key"
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return http.StatusBadRequest, "a handshake has no body"
	case !holdsExactly(r.Header["Sec-Websocket-Protocol"], Subprotocol):
		return http.StatusBadRequest, "subprotocol " + Subprotocol + " wanted"
	}
	return 0, ""
}

// allowed compares byte by byte: browsers send origins in one spelling, and every cleverness here was a hole somewhere.
func allowed(sent, origins []string) bool {
	switch len(sent) {
	case 0:
		return true
	case 1:
		return sent[0] != "" && sent[0] != "null" && slices.Contains(origins, sent[0])
	}
	return false
}

// holds looks for a token in a header that is a list, whatever its case.
func holds(values []string, want string) bool {
	return list(values, func(token string) bool { return strings.EqualFold(token, want) })
}

// holdsExactly looks for a token in a header that is a list, in its exact case.
func holdsExactly(values []string, want string) bool {
	return list(values, func(token string) bool { return token == want })
}

func list(values []string, is func(string) bool) bool {
	for _, v := range values {
		for token := range strings.SplitSeq(v, ",") {
			if is(strings.Trim(token, " \t")) {
				return true
			}
		}
	}
	return false
}

// upgrade answers the handshake and takes the connection over from net/http.
func upgrade(conn net.Conn, buffered *bufio.Reader, key string, cfg Config) (*Conn, error) {
	c := &Conn{conn: conn, opened: time.Now(), limit: cfg.MaxMessage, budget: cfg.Budget, within: cfg.Within}
	if c.limit <= 0 {
		c.limit = defaultMessage
	}
	if c.within <= 0 {
		c.within = defaultWithin
	}
	c.control.tokens = controlBurst
	switch conn := conn.(type) {
	case TryWriter:
		c.try = conn
	case syscall.Conn:
		raw, err := conn.SyscallConn()
		if err != nil {
			return nil, err
		}
		c.raw = raw
	default:
		return nil, fmt.Errorf("%T cannot be written to without waiting", conn)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		// A failure here costs memory, not correctness.
		_ = tcp.SetWriteBuffer(or(cfg.SendBuffer, defaultSendBuffer))
		setUnsent(c.raw, or(cfg.Unsent, defaultUnsent))
	}
	if err := conn.SetDeadline(time.Time{}); err != nil { // those of net/http
		return nil, err
	}
	if n := buffered.Buffered(); n > 0 { // a client that did not wait for the answer
		if n > maxEarly {
			return nil, fmt.Errorf("%d bytes before the handshake was answered", n)
		}
		c.early = make([]byte, n)
		if _, err := io.ReadFull(buffered, c.early); err != nil {
			return nil, err
		}
	}
	hash := sha1.Sum([]byte(key + acceptMagic)) //nolint:gosec // see the import
	answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(hash[:]) + "\r\nSec-WebSocket-Protocol: " + Subprotocol + "\r\n\r\n"
	// The first bytes on an empty socket: there is always room.
	if n, err := c.offer([]byte(answer)); err != nil || n < len(answer) {
		return nil, fmt.Errorf("%d of %d bytes of the answer taken: %w", n, len(answer), err)
	}
	return c, nil
}

// maxEarly bounds what a client may send before it has the answer; net/http reads 4 KiB ahead.
const maxEarly = 4 << 10

func or(n, otherwise int) int {
	if n > 0 {
		return n
	}
	return otherwise
}

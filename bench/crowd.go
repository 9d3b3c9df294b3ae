package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/subscriber"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

const userSessions = 10 // below what the notifier allows a user

// letter is the data of a notification of 256 to 1,024 bytes: when it was due and which it is.
func letter(due time.Time, n int) []byte {
	return fmt.Appendf(nil, `"%d|%06d|%s"`, due.UnixNano(), n, strings.Repeat("x", 256+(n*389)%(1024-256+1)-31))
}

// opened reads what a letter begins with.
func opened(data []byte) (due time.Time, n int, ok bool) {
	at, rest, _ := bytes.Cut(bytes.TrimPrefix(data, []byte(`"`)), []byte("|"))
	number, _, _ := bytes.Cut(rest, []byte("|"))
	nanos, err := strconv.ParseInt(string(at), 10, 64)
	n, failed := strconv.Atoi(string(number))
	return time.Unix(0, nanos), n, err == nil && failed == nil
}

// openLoop calls do at a rate, each in its own goroutine with the moment when it was due, and waits for nobody but at its end. It returns an error
// of do.
func openLoop(ctx context.Context, begun time.Time, rate int, d time.Duration, do func(n int, due time.Time) error) error {
	var calls sync.WaitGroup
	var failed atomic.Pointer[error]
	pace := time.NewTimer(0)
	defer pace.Stop()
	for n := range int(float64(rate) * d.Seconds()) {
		due := begun.Add(time.Duration(n) * time.Second / time.Duration(rate))
		pace.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			calls.Wait()
			return ctx.Err()
		case <-pace.C:
		}
		calls.Go(func() {
			if err := do(n, due); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
		})
	}
	calls.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// send publishes at a rate that waits for nobody; the data begins with the moment at which it should have been sent.
func (i *installation) send(ctx context.Context, rate int, d time.Duration) error {
	return openLoop(ctx, time.Now(), rate, d, func(n int, due time.Time) error {
		_, err := i.publish.Publish(ctx, &notifierv1.PublishRequest{
			Channel: benchChannel, Class: notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT, Data: letter(due, n), Source: benchSource, Tenant: benchTenant,
		})
		return err
	})
}

// crowd is websocket clients of a run. Some of them never read after their hello was answered.
type crowd struct {
	conns   []net.Conn
	reading int
	readers sync.WaitGroup
	got     atomic.Int64 // messages at readers, without those that came twice
	mu      sync.Mutex
	ages    []time.Duration
	gaps    int
}

// token lets a user listen to the benchmark's channel.
func (i *installation) token(user string) (string, error) {
	return i.signer.SignSubscriber(rpc.SubscriberClaims{
		Issuer: i.issuer, Subject: user, Tenant: benchTenant, Channels: []string{benchChannel}, TTL: rpc.MaxSubscriberTTL,
	}, time.Now())
}

func (i *installation) crowd(clients, stalled int) (*crowd, error) {
	c := &crowd{}
	for n := range clients {
		token, err := i.token(fmt.Sprintf("u%d", n/userSessions))
		if err == nil {
			err = c.join(i.File.Endpoints.Websocket, token, n < stalled)
		}
		if err != nil {
			c.leave()
			return nil, fmt.Errorf("client %d: %w", n, err)
		}
	}
	return c, nil
}

// renew replaces the connections of clients that never read until ctx ends, before the notifier sends them away: it does when a client takes no
// byte for ten seconds, and then there is no full socket any more. The crowd is the caller's again when it has returned.
func (c *crowd) renew(ctx context.Context, i *installation) error {
	tick := time.NewTicker(8 * time.Second)
	defer tick.Stop()
	for generation := 1; ; generation++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for n := range c.conns {
			// A user of another name, since the notifier need not have seen the old connection go.
			token, err := i.token(fmt.Sprintf("u%d-%d", n/userSessions, generation))
			if err != nil {
				return err
			}
			_ = c.conns[n].Close()
			if err := c.join(i.File.Endpoints.Websocket, token, true); err != nil {
				return err
			}
			last := len(c.conns) - 1
			c.conns[n], c.conns = c.conns[last], c.conns[:last]
		}
	}
}

// join connects by hand: a client costs a buffer of 4 KiB, so that thousands fit beside what is measured.
func (c *crowd) join(endpoint, token string, stalls bool) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	conn, err := net.DialTimeout("tcp", u.Host, 5*time.Second)
	if err != nil {
		return err
	}
	c.conns = append(c.conns, conn)
	if stalls {
		_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10) // full soon
	}
	var key [16]byte
	rand.Read(key[:]) // never fails
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Protocol: %s\r\n\r\n",
		u.Path, u.Host, base64.StdEncoding.EncodeToString(key[:]), subscriber.Subprotocol)
	in := bufio.NewReaderSize(conn, 4<<10)
	answer, err := http.ReadResponse(in, nil)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("handshake: %v, %w", answer, err)
	}
	hello := subscriber.Encode(subscriber.Request{T: "hello", Auth: token, Channels: []string{benchChannel}})
	frame := append([]byte{0x81, 0x80 | 126}, binary.BigEndian.AppendUint16(nil, uint16(len(hello)))...) // a token has more than 125 bytes
	if _, err := conn.Write(append(append(frame, 0, 0, 0, 0), hello...)); err != nil {
		return err
	}
	for {
		payload, err := message(in)
		if err != nil {
			return err
		}
		if bytes.Contains(payload, []byte(`"t":"sub"`)) {
			if !bytes.Contains(payload, []byte(`"ok":true`)) {
				return fmt.Errorf("refused: %s", payload)
			}
			break
		}
	}
	_ = conn.SetDeadline(time.Time{})
	if !stalls {
		c.reading++
		c.readers.Go(func() { c.read(conn, in) })
	}
	return nil
}

// message reads one frame. The slice is the reader's where it fits.
func message(in *bufio.Reader) ([]byte, error) {
	head, err := in.Peek(4)
	if err != nil {
		return nil, err
	}
	skip, size := 2, int(head[1])
	switch size {
	case 126:
		skip, size = 4, int(binary.BigEndian.Uint16(head[2:]))
	case 127:
		return nil, errors.New("a frame of more than 64 KiB")
	}
	if head[0] != 0x81 {
		return nil, io.EOF
	}
	payload := make([]byte, size)
	_, _ = in.Discard(skip)
	_, err = io.ReadFull(in, payload)
	return payload, err
}

// read notes what comes until the connection ends. A message may hold several frames of the protocol.
func (c *crowd) read(conn net.Conn, in *bufio.Reader) {
	var ages []time.Duration
	var seen []bool // by number
	gaps := 0
	for {
		payload, err := message(in)
		if err != nil {
			break
		}
		now := time.Now()
		for frame := range bytes.SplitSeq(payload, []byte("\n")) {
			if _, data, ok := bytes.Cut(frame, []byte(`"data":`)); ok {
				due, n, ok := opened(data)
				if !ok {
					continue
				}
				if n >= len(seen) {
					seen = append(seen, make([]bool, n+1-len(seen))...)
				}
				if !seen[n] {
					seen[n] = true
					ages = append(ages, now.Sub(due))
					c.got.Add(1)
				}
			} else if bytes.Contains(frame, []byte(`"t":"gap"`)) {
				gaps++
			} else if bytes.Contains(frame, []byte(`"t":"ping"`)) {
				pong := subscriber.Encode(subscriber.Request{T: "pong"})
				_, _ = conn.Write(append([]byte{0x81, 0x80 | byte(len(pong)), 0, 0, 0, 0}, pong...))
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ages, c.gaps = append(c.ages, ages...), c.gaps+gaps
}

// end waits until every reader has n messages, and has all clients leave. It is an error if one has not got them in time.
func (c *crowd) end(ctx context.Context, n int) error {
	want := int64(n) * int64(c.reading)
	_ = until(ctx, 10*time.Second, "every reader has everything", func() (bool, error) { return c.got.Load() >= want, nil })
	c.leave()
	if got := c.got.Load(); got != want || c.gaps > 0 {
		return fmt.Errorf("readers got %d of %d messages and %d gaps", got, want, c.gaps)
	}
	slices.Sort(c.ages)
	return nil
}

// at is a quantile of sorted times, in milliseconds.
func at(sorted []time.Duration, q float64) float64 {
	return float64(sorted[int(q*float64(len(sorted)-1))].Microseconds()) / 1000
}

func (c *crowd) leave() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.readers.Wait()
}

package deliver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket/sockettest"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/spillway/spillway/pkg/subscriber"
	"github.com/spillway/spillway/services/notifier/internal/core"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket"
)

// stand is a room behind a real listener on the loopback.
type stand struct {
	t    testing.TB
	log  *fakeLog
	room *Room
	url  string
}

func stands(t testing.TB, cfg Config) *stand {
	t.Helper()
	cfg.Topic, cfg.Partitions, cfg.PerUser = "spillway.notifications", 1, 1_000
	cfg.PingEvery = time.Hour // these clients answer none
	log := newLog(1)
	room, err := New(cfg, ports(log))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{Handler: room}
	var all sync.WaitGroup
	all.Go(func() { _ = server.Serve(l) })
	all.Go(func() {
		if err := room.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = server.Close()
		all.Wait()
	})
	s := &stand{t: t, log: log, room: room, url: "ws://" + l.Addr().String() + Path}
	s.until("read to its end", 10*time.Second, func() bool { return room.Check() == nil })
	return s
}

// until waits for something to become true.
func (s *stand) until(what string, within time.Duration, is func() bool) {
	s.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(within); !is(); <-tick.C {
		if time.Now().After(deadline) {
			s.t.Fatalf("not %s after %s", what, within)
		}
	}
}

// viewer is a client with small buffers that reads what and when the test wants.
type viewer struct {
	conn net.Conn
	in   io.Reader
	next int  // the number that it expects
	gaps int  // told of
	hush bool // a gap came, and nothing since
}

func (s *stand) view() *viewer {
	s.t.Helper()
	dialer := ws.Dialer{Protocols: []string{socket.Subprotocol}, NetDial: func(ctx context.Context, network, address string) (net.Conn, error) {
		// Segments as on a network, and a small buffer: with the loopback's of 64 KiB a window opens only when a timer says so.
		d := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 1400)
				_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 32<<10)
			})
		}}
		conn, err := d.DialContext(ctx, network, address)
		return conn, err
	}}
	conn, early, _, err := dialer.Dial(s.t.Context(), s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	v := &viewer{conn: conn, in: bufio.NewReaderSize(conn, 4<<10)}
	if early != nil {
		v.in = io.MultiReader(early, conn)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	hello := subscriber.Encode(subscriber.Request{T: "hello", Auth: ann().String(), Channels: []string{"tenant:acme"}})
	if err := ws.WriteFrame(conn, ws.MaskFrame(ws.NewTextFrame(hello))); err != nil {
		s.t.Fatal(err)
	}
	for {
		e, err := v.event()
		if err != nil {
			s.t.Fatal(err)
		}
		if e.T == subscriber.Sub {
			return v
		}
	}
}

// event reads one frame.
func (v *viewer) event() (subscriber.Event, error) {
	f, err := sockettest.ReadFrame(v.in)
	if err != nil {
		return subscriber.Event{}, err
	}
	if f.Header.OpCode == ws.OpClose {
		code, reason := ws.ParseCloseFrameData(f.Payload)
		return subscriber.Event{}, &subscriber.Closed{Code: int(code), Reason: reason}
	}
	events, err := subscriber.Decode(f.Payload)
	if err != nil {
		return subscriber.Event{}, err
	}
	return events[0], nil
}

// until reads up to the message of a number, and judges the order of what comes.
func (v *viewer) until(last int) error {
	_ = v.conn.SetReadDeadline(time.Now().Add(time.Minute))
	for v.next <= last {
		e, err := v.event()
		if err != nil {
			return fmt.Errorf("after %d: %w", v.next-1, err)
		}
		switch e.T {
		case subscriber.Gap:
			v.gaps, v.hush = v.gaps+1, true
		case subscriber.Msg:
			n, err := strconv.Atoi(e.ID)
			if err != nil || n < v.next || n > v.next && !v.hush {
				return fmt.Errorf("%s after %d", e.ID, v.next-1)
			}
			v.next, v.hush = n+1, false
		}
	}
	return nil
}

// publish appends messages whose frames have 256 to 1,024 bytes, at a rate that waits for nobody.
func (s *stand) publish(from, n int, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for i := from; i < from+n; i++ {
		<-tick.C
		size := 256 + (i*389)%(1024-256+1) - len(`{"t":"msg","id":"","channel":"tenant:acme","class":"EVENT","ts":"2026-01-01T00:00:00.000Z","data":""}`) - 4 - len(strconv.Itoa(i))
		s.log.append(record(1, "tenant:acme", strconv.Itoa(i), strconv.Quote(strings.Repeat("x", size)), nil))
	}
}

// TestStalledReaders: 100 clients, of which 10 stop reading, on real sockets. The others get everything in order meanwhile; for those that stopped nothing is
// kept but the rest of the one frame that was begun; and whoever reads again gets everything from the ring.
func TestStalledReaders(t *testing.T) {
	const clients, stalled, messages = 100, 10, 1_500
	s := stands(t, Config{StallAfter: time.Hour})
	var all []*viewer
	for range clients {
		all = append(all, s.view())
	}
	done := make(chan error, clients)
	for _, v := range all[stalled:] {
		go func() { done <- v.until(messages - 1) }()
	}
	var most, behind atomic.Int64
	watching, stop := context.WithCancel(t.Context())
	var watch sync.WaitGroup
	watch.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for watching.Err() == nil {
			<-tick.C
			late := int64(0)
			for _, one := range s.room.all() {
				most.Store(max(most.Load(), int64(one.held())))
				for _, t := range one.seated() {
					if t.at.Load() != live {
						late++
					}
				}
			}
			behind.Store(max(behind.Load(), late))
		}
	})
	s.publish(0, messages, time.Millisecond)
	for range clients - stalled {
		if err := <-done; err != nil {
			t.Error("a healthy client:", err)
		}
	}
	stop()
	watch.Wait()
	if got := behind.Load(); got < stalled {
		t.Errorf("at most %d sessions were behind: nothing stalled", got)
	}
	if got := most.Load(); got > 1024 {
		t.Errorf("%d bytes were held for one session", got)
	}
	var again sync.WaitGroup
	for _, v := range all[:stalled] {
		again.Go(func() {
			if err := v.until(messages - 1); err != nil || v.gaps > 0 {
				t.Errorf("a client that reads again: %v, %d gaps", err, v.gaps)
			}
		})
	}
	again.Wait()
	t.Logf("%d sessions were behind at once, the most that was held for one are %d bytes", behind.Load(), most.Load())
}

// TestStalledReadersWhoFellOutOfTheRing are told so before what comes after it, and go on with the rest. A gap takes so
// little room that it may be taken before the reader reads; what is evicted after that is another gap.
func TestStalledReadersWhoFellOutOfTheRing(t *testing.T) {
	const clients, messages = 10, 1_000
	s := stands(t, Config{RingBytes: 64 << 10, StallAfter: time.Hour})
	var all []*viewer
	for range clients {
		all = append(all, s.view())
	}
	s.publish(0, messages, 500*time.Microsecond)
	s.until("read", 10*time.Second, func() bool { return s.room.partitions[0].next.Load() == messages })
	for _, v := range all {
		if err := v.until(messages - 1); err != nil || v.gaps == 0 || v.gaps > 3 {
			t.Errorf("%v, %d gaps", err, v.gaps)
		}
	}
}

// TestReadersWhoStayStalledAreClosed after the stall time, and no earlier; they come back with the cursor.
func TestReadersWhoStayStalledAreClosed(t *testing.T) {
	const stall = 2 * time.Second
	s := stands(t, Config{StallAfter: stall})
	lazy, well := s.view(), s.view()
	begun := time.Now()
	done := make(chan error, 1)
	go func() { done <- well.until(999) }()
	s.publish(0, 1_000, 500*time.Microsecond)
	s.until("alone", 10*time.Second, func() bool { return s.room.Sessions() == 1 })
	if took := time.Since(begun); took < stall {
		t.Errorf("closed after %s", took)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	var closed *subscriber.Closed
	if err := lazy.until(999); err == nil || errors.As(err, &closed) && closed.Code != int(core.CloseSlow) {
		t.Errorf("the stalled one: %v", err)
	}
}

package deliver

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/subscriber"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/notifier/internal/core"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket"
)

// pipe is a socket that takes as many bytes as the test has made room for.
type pipe struct {
	room  int
	tail  []byte
	sent  []byte
	taken time.Time
	code  int
}

func (p *pipe) Hold(int, *socket.Budget) {}

func (p *pipe) Read() ([]byte, error) { select {} }

func (p *pipe) take(b []byte) int {
	n := min(p.room, len(b))
	p.room -= n
	p.sent = append(p.sent, b[:n]...)
	if n > 0 {
		p.taken = p.taken.Add(1)
	}
	return n
}

func (p *pipe) Write(frames ...[]byte) (whole int, err error) {
	if clear, _ := p.Flush(); !clear {
		return 0, nil
	}
	for _, f := range frames {
		n := p.take(f)
		if n == 0 {
			return whole, nil
		}
		whole++
		if n < len(f) {
			p.tail = slices.Clone(f[n:])
			return whole, nil
		}
	}
	return whole, nil
}

func (p *pipe) Flush() (bool, error) {
	p.tail = p.tail[p.take(p.tail):]
	return len(p.tail) == 0, nil
}

func (p *pipe) Waiting() int                   { return len(p.tail) }
func (p *pipe) LastTaken() time.Time           { return p.taken }
func (p *pipe) Close(code int, _ string) error { p.code = code; return nil }

// events cuts what has arrived into the frames of the protocol; half a frame stays.
func (p *pipe) events(t interface{ Fatalf(string, ...any) }) (events []subscriber.Event) {
	for len(p.sent) >= 2 {
		head, size := 2, int(p.sent[1])
		if size == 126 {
			if len(p.sent) < 4 {
				return events
			}
			head, size = 4, int(binary.BigEndian.Uint16(p.sent[2:]))
		}
		if len(p.sent) < head+size {
			return events
		}
		got, err := subscriber.Decode(p.sent[head : head+size])
		if err != nil || p.sent[0] != 0x81 {
			t.Fatalf("%x: %v", p.sent[:head+size], err)
		}
		events = append(events, got...)
		p.sent = p.sent[head+size:]
	}
	return events
}

// listener is a client with what it knows: for every channel the number that it expects next.
type listener struct {
	session  *session
	socket   *pipe
	channels []core.Channel
	next     map[core.Channel]int
	heard    map[core.Channel]bool // in this session
	gap      map[core.Channel]bool // it was told of one, and nothing of the channel came since
	resumed  bool
	again    map[core.Channel]bool // what it had may come again: at the beginning of a session that resumed
	cursor   string
	gaps     int
}

// model is a room without goroutines: the test takes every step of the actors and of the sweeper itself.
type model struct {
	*rapid.T
	room      *Room
	now       time.Time
	offsets   []int64
	published map[core.Channel][]bool // may it expire
	clients   []*listener
}

var modelChannels = []core.Channel{"topic:acme:a", "topic:acme:b", "topic:acme:c", "tenant:acme"}

func (m *model) append() {
	messages := map[int][]kafka.Message{}
	for range rapid.IntRange(1, 12).Draw(m.T, "batch") {
		c := rapid.SampledFrom(modelChannels).Draw(m.T, "channel")
		expires := rapid.IntRange(0, 5).Draw(m.T, "expires") == 0
		n := len(m.published[c])
		m.published[c] = append(m.published[c], expires)
		data := strconv.Quote(fmt.Sprintf("%0*d", rapid.IntRange(1, 4_000).Draw(m.T, "size"), 0))
		r := record(len(m.offsets), c, strconv.Itoa(n), data, func(n *logv1.Notification) {
			n.ExpiresAt = timestamppb.New(m.now.Add(time.Hour))
			if expires {
				n.ExpiresAt = timestamppb.New(m.now.Add(time.Duration(rapid.IntRange(-1, 3).Draw(m.T, "in")) * time.Second))
			}
		})
		if rapid.IntRange(0, 9).Draw(m.T, "hole") == 0 {
			m.offsets[r.Partition]++
		}
		r.Offset = m.offsets[r.Partition]
		m.offsets[r.Partition]++
		messages[r.Partition] = append(messages[r.Partition], r)
	}
	for p, batch := range messages {
		m.room.partitions[p].apply(m.Context(), portion{messages: batch, start: -1}, m.now)
	}
}

// turn lets sweeper and actors do all that they can do at once.
func (m *model) turn() {
	w := &m.room.sweeper
	in := w.in
	w.in = nil
	for _, s := range in {
		s.since = m.now
		if !w.retry(s, m.now) {
			w.in = append(w.in, s)
		}
	}
	for _, p := range m.room.partitions {
		for len(p.posts) > 0 {
			p.handle(<-p.posts)
		}
		for range rapid.IntRange(0, 20).Draw(m.T, "pieces") {
			p.catchUp()
		}
	}
}

// hello begins a session at the client's cursor, as the reader does.
func (m *model) hello(c *listener) {
	c.socket = &pipe{room: 1 << 20}
	s := &session{room: m.room, conn: c.socket, opened: m.now, user: "user:acme:ann"}
	c.session, c.heard, c.again = s, map[core.Channel]bool{}, map[core.Channel]bool{}
	offsets := make([]int64, len(m.room.partitions))
	for i, p := range m.room.partitions {
		offsets[i] = p.next.Load()
	}
	if c.resumed = c.cursor != ""; !c.resumed {
		for _, channel := range c.channels {
			c.next[channel] = len(m.published[channel])
		}
	} else {
		resumed, ok := m.room.opened(s.user, c.cursor)
		if !ok {
			m.Fatalf("cursor %q is refused", c.cursor)
		}
		for i := range offsets {
			offsets[i] = min(offsets[i], resumed[i])
		}
	}
	c.cursor = m.room.sealed(s.user, offsets)
	by := map[int][]core.Channel{}
	for _, channel := range c.channels {
		p := envelope.Shard(string(channel), len(offsets))
		by[p] = append(by[p], channel)
	}
	for p := range by {
		s.sit(m.room.partitions[p], offsets[p])
	}
	for p, channels := range by {
		m.room.partitions[p].handle(post{kind: register, session: s, channels: channels, from: offsets[p], answer: true})
		if rapid.Bool().Draw(m.T, "narrow") {
			c.socket.room = 0
		}
	}
	m.read(c)
}

func (m *model) leave(c *listener) {
	m.read(c)
	c.session.closed.Store(true)
	for _, t := range c.session.seated() {
		t.part.handle(post{kind: leave, session: c.session})
	}
}

// read judges what a client gets.
func (m *model) read(c *listener) {
	for _, e := range c.socket.events(m.T) {
		channel := core.Channel(e.Channel)
		if e.Cursor != "" {
			c.cursor = e.Cursor
		}
		switch e.T {
		case subscriber.Sub:
			c.heard[channel], c.again[channel] = true, c.resumed
		case subscriber.Gap:
			c.gaps++
			covered := []core.Channel{channel}
			if e.Scope == "channels" {
				covered = c.channels
			}
			for _, one := range covered {
				c.gap[one] = true
			}
		case subscriber.Msg:
			n, err := strconv.Atoi(e.ID)
			if err != nil || !c.heard[channel] || !slices.Contains(c.channels, channel) {
				m.Fatalf("%+v came, subscribed %v", e, c.heard)
			}
			m.advance(c, channel, n)
			c.again[channel] = false
			c.next[channel] = n + 1
		}
	}
}

// advance judges that n comes next of a channel.
func (m *model) advance(c *listener, channel core.Channel, n int) {
	switch want := c.next[channel]; {
	case n >= want:
		for missed := want; missed < n; missed++ {
			if !m.published[channel][missed] && !c.gap[channel] {
				m.Fatalf("%s: %d after %d in silence", channel, n, want-1)
			}
		}
		c.gap[channel] = false
	default: // again, after a resume only; then in order from there
		if !c.again[channel] {
			m.Fatalf("%s: %d again, expected %d", channel, n, want)
		}
	}
}

// TestNothingIsMissedInSilence: whatever is appended, evicted and expires, however sockets stall and clients come and go, every client gets the
// notifications of a channel in order and once in a session, or is told of a gap before what comes after it.
func TestNothingIsMissedInSilence(t *testing.T) {
	gaps := 0
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.IntRange(1, 3).Draw(t, "partitions")
		room, err := New(Config{Topic: "t", Partitions: parts, RingBytes: int64(parts) * rapid.Int64Range(500, 200_000).Draw(t, "ring")}, ports(newLog(parts)))
		if err != nil {
			t.Fatal(err)
		}
		m := &model{T: t, room: room, now: time.Now(), offsets: make([]int64, parts), published: map[core.Channel][]bool{}}
		for range rapid.IntRange(1, 3).Draw(t, "clients") {
			c := &listener{next: map[core.Channel]int{}, gap: map[core.Channel]bool{}}
			c.channels = rapid.SliceOfNDistinct(rapid.SampledFrom(modelChannels), 1, 4, rapid.ID[core.Channel]).Draw(t, "channels")
			m.hello(c)
			m.clients = append(m.clients, c)
		}
		client := func() *listener { return rapid.SampledFrom(m.clients).Draw(t, "client") }
		t.Repeat(map[string]func(*rapid.T){
			"append": func(*rapid.T) { m.append() },
			"turn":   func(*rapid.T) { m.turn() },
			"time":   func(*rapid.T) { m.now = m.now.Add(700 * time.Millisecond) },
			"read":   func(*rapid.T) { c := client(); m.read(c); c.socket.room += rapid.IntRange(0, 30_000).Draw(t, "bytes") },
			"stall":  func(*rapid.T) { client().socket.room = 0 },
			"tell": func(*rapid.T) {
				c := client()
				c.session.offer(c.session.cursorFrame(-1, 0))
			},
			"resume": func(*rapid.T) { c := client(); m.leave(c); m.hello(c) },
			"subscribe": func(*rapid.T) {
				c := client()
				channel := rapid.SampledFrom(modelChannels).Draw(t, "channel")
				if !slices.Contains(c.channels, channel) {
					c.channels = append(c.channels, channel)
					c.next[channel] = len(m.published[channel])
					room.partitions[envelope.Shard(string(channel), parts)].handle(
						post{kind: register, session: c.session, channels: []core.Channel{channel}, from: fromNow, answer: true})
				}
			},
			"": func(t *rapid.T) {
				for _, c := range m.clients {
					if c.socket.code != 0 {
						t.Fatalf("a session was closed with %d", c.socket.code)
					}
				}
			},
		})
		for range 200 { // now everybody reads
			for _, c := range m.clients {
				c.socket.room = 1 << 20
				m.read(c)
			}
			m.turn()
		}
		for _, c := range m.clients {
			m.read(c)
			for _, s := range c.session.seated() {
				if s.at.Load() != live {
					t.Fatalf("a seat is behind at %d, the ring is [%d, %d)", s.at.Load(), s.part.ring.Start(), s.part.ring.Next())
				}
			}
			for _, channel := range c.channels {
				m.advance(c, channel, len(m.published[channel]))
			}
			gaps += c.gaps
		}
	})
	if gaps == 0 {
		t.Error("there was no gap to judge")
	}
}

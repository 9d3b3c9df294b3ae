package deliver

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spillway/spillway/services/notifier/internal/core"
	"github.com/spillway/spillway/services/notifier/internal/deliver/frame"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket"
)

const (
	// maxOwed bounds the answers that wait for a socket: those to one hello with all channels, and a ping with its cursor. What would exceed it ends the
	// session.
	maxOwed = 64 << 10
	// internalError is RFC 6455's code for what is the server's fault; a socket that broke does not hear it.
	internalError = 1011
	// cursorEvery is how often a client is told its cursor while messages come.
	cursorEvery = time.Second
)

// session is one client. Its goroutine is the reader's; the actors, the sweeper and the clock write to it.
type session struct {
	room    *Room
	conn    Conn
	address string
	opened  time.Time

	// Written by the reader, read by all.
	user   string                          // its channel, "" before hello
	who    atomic.Pointer[core.Subscriber] // nil before hello was answered
	heard  atomic.Int64                    // when the client last said something, since opened
	closed atomic.Bool

	mu      sync.Mutex
	seats   []*seat
	owed    [][]byte      // answers that the socket did not take, before anything else; whole frames
	bytes   int           // in owed
	settled chan struct{} // closed once nothing is owed; nil: nothing is

	told  atomic.Int64 // when the client was last told its cursor, since opened
	stale atomic.Bool  // messages came after that

	// The clock's, since opened.
	pinged time.Duration // when the client was last sent a ping, or came to be owed one
	lagged time.Duration // when it was last seen to lag

	// The sweeper's, but for swept.
	swept   atomic.Bool   // it is in the sweeper's hands
	backoff time.Duration // until the next try
	since   time.Time     // something waits without a break since then
	tried   time.Time
	taken   time.Time // what the socket said when it was last put back
}

// age is the time on the session's own clock, which is cheaper to keep than moments.
func (s *session) age(now time.Time) int64 { return int64(now.Sub(s.opened)) }

// write offers frames to the socket and returns how many are taken. The others are the caller's: it knows where it was.
func (s *session) write(frames ...[]byte) (whole int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() || !s.settle() {
		s.room.sweeper.add(s)
		return 0
	}
	whole, err := s.conn.Write(frames...)
	if err != nil {
		s.end(0, "")
		return whole
	}
	if whole < len(frames) || s.conn.Waiting() > 0 {
		s.room.sweeper.add(s)
	}
	return whole
}

// say sends an answer, and owes it when the socket is full.
func (s *session) say(payload []byte) {
	f := socket.Text(payload)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return
	}
	if s.settle() {
		whole, err := s.conn.Write(f)
		if err != nil {
			s.end(0, "")
			return
		}
		if s.conn.Waiting() > 0 {
			s.room.sweeper.add(s)
		}
		if whole == 1 {
			return
		}
	}
	if s.bytes += len(f); s.bytes > maxOwed {
		s.end(core.CloseSlow, core.CloseSlow.Reason())
		return
	}
	if s.settled == nil {
		s.settled = make(chan struct{})
	}
	s.owed = append(s.owed, f)
	s.room.sweeper.add(s)
}

// offer sends what may be lost, and returns how many are taken: nothing of the others is kept when the socket is full.
func (s *session) offer(payloads ...[]byte) (taken int) {
	frames := make([][]byte, len(payloads))
	for i, p := range payloads {
		frames[i] = socket.Text(p)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() || len(s.owed) > 0 || s.conn.Waiting() > 0 {
		return 0
	}
	whole, err := s.conn.Write(frames...)
	if err != nil {
		s.end(0, "")
		return 0
	}
	if s.conn.Waiting() > 0 {
		s.room.sweeper.add(s)
	}
	return whole
}

// lags tells whether the client has not taken everything yet that it is to be given.
func (s *session) lags() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.owed) > 0 || s.conn.Waiting() > 0 || slices.ContainsFunc(s.seats, (*seat).behind)
}

// settle offers what is owed and tells whether nothing is any more. The caller holds mu.
func (s *session) settle() bool {
	if len(s.owed) == 0 {
		return true
	}
	whole, err := s.conn.Write(s.owed...)
	if err != nil {
		s.end(0, "")
		return false
	}
	for _, f := range s.owed[:whole] {
		s.bytes -= len(f)
	}
	if s.owed = s.owed[whole:]; len(s.owed) > 0 {
		return false
	}
	s.owed = nil
	close(s.settled)
	s.settled = nil
	return true
}

// answered waits until nothing is owed: a client that does not read its answers is not read either. false: the session is over.
func (s *session) answered() bool {
	s.mu.Lock()
	settled := s.settled
	s.mu.Unlock()
	if settled != nil {
		<-settled // by the sweeper, or by close at the stall time at the latest
	}
	return !s.closed.Load()
}

// held is how many bytes wait for the client: what is owed, and what is left of a frame that was begun, with a pong.
func (s *session) held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes + s.conn.Waiting()
}

// close ends the session, once, with a numbered reason.
func (s *session) close(code core.Code) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(code, code.Reason())
}

// end closes the socket, once; code 0: it is broken. The reader then ends and takes the session out of the room. The caller holds mu.
func (s *session) end(code core.Code, reason string) {
	if !s.closed.CompareAndSwap(false, true) {
		return
	}
	s.room.meters.ended(code)
	if s.settled != nil {
		close(s.settled)
		s.settled = nil
	}
	s.owed, s.bytes = nil, 0
	_ = s.conn.Close(cmp.Or(int(code), internalError), reason) // never waits; a broken one says so again
}

// cursor is where the client is, given that it has been sent everything of one partition below an offset (-1 as partition: nothing is given).
//
// The order matters: a partition publishes its next offset after all live sessions were given what lies below, so a seat that is found live after
// that offset was read was given it, too.
func (s *session) cursor(partition int, offset int64) string {
	offsets := make([]int64, len(s.room.partitions))
	for i, p := range s.room.partitions {
		offsets[i] = p.next.Load()
	}
	s.mu.Lock()
	for _, seat := range s.seats {
		if at := seat.at.Load(); at != live {
			offsets[seat.part.number] = max(0, at) // below the ring's start may be below zero
		}
	}
	s.mu.Unlock()
	if partition >= 0 {
		offsets[partition] = offset
	}
	return s.room.sealed(s.user, offsets)
}

// cursorFrame is the frame that says so.
func (s *session) cursorFrame(partition int, offset int64) []byte {
	return frame.Cursor{Cursor: s.cursor(partition, offset)}.Append(nil)
}

// due tells whether the client is to be told its cursor.
func (s *session) due(now time.Time) bool {
	return s.age(now)-s.told.Load() >= int64(cursorEvery)
}

// seated returns the seats as they are.
func (s *session) seated() []*seat {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seats)
}

// seatIn returns the session's seat in a partition, nil when it has none.
func (s *session) seatIn(p *partition) *seat {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seat := range s.seats {
		if seat.part == p {
			return seat
		}
	}
	return nil
}

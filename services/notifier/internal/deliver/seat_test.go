package deliver

import (
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

// still is a room without goroutines, whose only partition the test turns itself.
func still(t *testing.T, cfg Config) (*Room, *partition) {
	t.Helper()
	cfg.Topic, cfg.Partitions = "t", 1
	room, err := New(cfg, ports(newLog(1)))
	if err != nil {
		t.Fatal(err)
	}
	return room, room.partitions[0]
}

// seated makes a session in it that hears a channel from now on.
func seated(room *Room, conn Conn, channel core.Channel) *session {
	s := &session{room: room, conn: conn, opened: time.Now(), since: time.Now(), user: "user:acme:ann"}
	room.partitions[0].handle(post{kind: register, session: s, channels: []core.Channel{channel}, from: fromNow})
	return s
}

// batchOf is n small records of a channel from an offset on; their ids are their offsets.
func batchOf(channel core.Channel, from, n int) (messages []kafka.Message) {
	for i := from; i < from+n; i++ {
		m := record(1, channel, strconv.Itoa(i), "1", nil)
		m.Offset = int64(i)
		messages = append(messages, m)
	}
	return messages
}

// watched is a socket that looks at something whenever it is written to.
type watched struct {
	pipe
	look func()
}

func (w *watched) Write(frames ...[]byte) (int, error) {
	w.look()
	return w.pipe.Write(frames...)
}

// A seat is behind for as long as a write to it goes on: the write may give the session to the sweeper, who lets go again of a session whose socket has room
// and that is behind nowhere. Behind only afterwards, the seat would be nobody's, and its client given nothing more.
func TestASeatIsBehindBeforeItsWrite(t *testing.T) {
	room, p := still(t, Config{})
	socket := &watched{pipe: pipe{room: 150}}
	writes := 0
	var s *session
	socket.look = func() {
		writes++
		if at := s.seats[0].at.Load(); at != 0 {
			t.Errorf("write %d: the seat is at %d", writes, at)
		}
	}
	s = seated(room, socket, "tenant:acme")
	p.apply(t.Context(), portion{messages: batchOf("tenant:acme", 0, 5), start: -1}, time.Now())
	if at := s.seats[0].at.Load(); writes != 1 || at != 2 { // one went out, one was begun
		t.Errorf("%d writes, the seat is at %d", writes, at)
	}

	// The sweeper comes as soon as it can, and finds what to do.
	socket.look = func() {}
	socket.room = 1 << 20
	if w := &room.sweeper; len(w.in) != 1 || !w.retry(s, time.Now()) {
		t.Error("the sweeper keeps it")
	}
	if len(p.posts) != 1 {
		t.Fatal("nobody gives the session the rest")
	}
	p.handle(<-p.posts)
	for range 5 {
		p.catchUp()
	}
	if s.seats[0].behind() {
		t.Errorf("the seat is at %d", s.seats[0].at.Load())
	}
}

// A seat that resumes is never live before it was given what it lacks: a cursor that another partition makes meanwhile would be ahead of the client.
func TestASeatThatResumesIsNeverLiveBefore(t *testing.T) {
	room, p := still(t, Config{})
	p.apply(t.Context(), portion{messages: batchOf("tenant:acme", 0, 10), start: -1}, time.Now())
	var watch atomic.Pointer[seat]
	var seen atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if s := watch.Load(); s != nil && !s.behind() {
				seen.Add(1)
			}
		}
	}()
	for i := range 20_000 {
		s := &session{room: room, conn: &pipe{}, opened: time.Now(), user: "user:acme:ann"}
		one := s.sit(p, 3)
		watch.Store(one)
		p.handle(post{kind: register, session: s, channels: []core.Channel{"tenant:acme"}, from: 3})
		watch.Store(nil)
		p.handle(post{kind: leave, session: s})
		p.waiting = nil
		if i%64 == 0 {
			runtime.Gosched()
		}
	}
	close(stop)
	<-done
	if n := seen.Load(); n > 0 {
		t.Errorf("%d times live", n)
	}
}

// However many notifications come at once for however many sessions, what the partition notes of who gets what is bounded, and everybody gets everything in order.
func TestABurstToAllIsDeliveredInBoundedMemory(t *testing.T) {
	const sessions, messages = 200, 1_000
	room, p := still(t, Config{})
	var all []*listener
	now := time.Now()
	for range sessions {
		c := &listener{socket: &pipe{room: 1 << 20}}
		c.session = seated(room, c.socket, "tenant:acme")
		all = append(all, c)
	}
	slow := all[0]
	slow.socket.room = 1_000
	for _, s := range all {
		s.session.told.Store(-int64(time.Hour)) // a cursor is due with the first write
	}
	p.apply(t.Context(), portion{messages: batchOf("tenant:acme", 0, messages), start: -1}, now)
	if most := 2 * (maxLinks + sessions); cap(p.links) > most {
		t.Errorf("%d links are kept, want at most %d", cap(p.links), most)
	}
	if got := slow.session.seats[0].position(); got == 0 || got > 10 {
		t.Errorf("the slow one is at %d", got)
	}
	slow.socket.room = 1 << 20
	room.sweeper.retry(slow.session, now)
	for p.handle(<-p.posts); len(p.waiting) > 0; {
		p.catchUp()
	}
	for i, c := range all {
		next, cursors := 0, 0
		for _, e := range c.socket.events(t) {
			switch {
			case e.Cursor != "":
				cursors++
				if offsets, ok := room.opened("user:acme:ann", e.Cursor); !ok || offsets[0] != int64(next) {
					t.Fatalf("session %d: after %d a cursor of %v", i, next-1, offsets)
				}
			case e.ID != strconv.Itoa(next):
				t.Fatalf("session %d: %s after %d", i, e.ID, next-1)
			default:
				next++
			}
		}
		if next != messages || cursors == 0 {
			t.Fatalf("session %d got %d and %d cursors", i, next, cursors)
		}
	}
}

// A log that begins anew is a gap to everybody, also to who subscribed at an offset that it has not reached again: and after it they are given what
// comes, be they live or behind. The cursors are good.
func TestALogThatWentBackIsAGapToAll(t *testing.T) {
	room, p := still(t, Config{})
	p.apply(t.Context(), portion{messages: batchOf("system", 0, 50), start: -1}, time.Now())
	full, fast := &listener{socket: &pipe{}}, &listener{socket: &pipe{room: 1 << 20}}
	for _, c := range []*listener{full, fast} {
		c.session = seated(room, c.socket, "tenant:acme")
	}
	p.apply(t.Context(), portion{start: 0}, time.Now())
	for _, c := range []*listener{full, fast} {
		if offsets, ok := room.opened("user:acme:ann", c.session.cursor(-1, 0)); !ok || offsets[0] != 0 {
			t.Errorf("a cursor of %v", offsets)
		}
	}
	for len(p.waiting) > 0 {
		p.catchUp()
	}
	p.apply(t.Context(), portion{messages: batchOf("tenant:acme", 0, 5), start: -1}, time.Now())
	full.socket.room = 1 << 20
	for _, s := range room.sweeper.in {
		room.sweeper.retry(s, time.Now())
	}
	for len(p.posts) > 0 {
		p.handle(<-p.posts)
	}
	for len(p.waiting) > 0 {
		p.catchUp()
	}
	for name, c := range map[string]*listener{"live": fast, "behind": full} {
		got := ""
		for _, e := range c.socket.events(t) {
			if e.Cursor == "" || e.Reason != "" {
				got += e.T + e.ID + " "
			}
		}
		if want := "gap msg0 msg1 msg2 msg3 msg4 "; got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

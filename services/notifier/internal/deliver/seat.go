package deliver

import (
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spillway/spillway/services/notifier/internal/core"
	"github.com/spillway/spillway/services/notifier/internal/deliver/frame"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket"
)

const (
	// live is the position of a seat that was given everything.
	live = math.MaxInt64
	// piece bounds what a seat is given at once when it catches up, in bytes; scan bounds the entries that are looked at for it.
	piece = 16 << 10
	scan  = 4096
	// fromNow is what registers a channel from what comes next.
	fromNow = int64(-1)
)

// seat is a session's place in a partition. Its actor owns it; the position may be read by all.
type seat struct {
	session *session
	part    *partition
	at      atomic.Int64 // live, or the first offset that the session was not given

	channels []listening
	waiting  bool   // in the actor's line
	batch    uint64 // scratch of deliver
	last     int
}

// listening is one channel of a seat, with the first offset that is of interest: what was before it was subscribed to is not.
type listening struct {
	channel core.Channel
	from    int64
}

// post is something that an actor is asked to do.
type post struct {
	kind     kind
	session  *session
	channels []core.Channel
	from     int64         // of register: an offset, or fromNow
	answer   bool          // of register: a sub for each channel
	done     chan struct{} // closed when it is done; nil: nobody waits
}

type kind uint8

const (
	register kind = iota
	unregister
	retry
	leave
)

// post hands something to the actor and waits until it is done; false: the room has ended.
func (p *partition) post(m post) bool {
	m.done = make(chan struct{})
	select {
	case p.posts <- m:
	case <-p.room.ctx.Done():
		return false
	}
	select {
	case <-m.done:
		return true
	case <-p.room.ctx.Done():
		return false
	}
}

// try hands something to the actor if its mailbox has room.
func (p *partition) try(m post) bool {
	select {
	case p.posts <- m:
		return true
	default:
		return false
	}
}

func (p *partition) handle(m post) {
	t := m.session.seatIn(p)
	switch m.kind {
	case register:
		p.register(t, m)
	case unregister:
		if t != nil {
			p.unregister(t, m.channels)
		}
	case retry:
		if t != nil && len(t.channels) > 0 && t.behind() {
			p.wait(t)
		}
	case leave:
		if t != nil {
			for _, l := range t.channels {
				p.remove(l.channel, t)
			}
			t.channels = nil
		}
	}
	if m.done != nil {
		close(m.done)
	}
}

// sit makes the session's seat in a partition. One that has no channels yet holds its place in cursors until its actor has registered them.
func (s *session) sit(p *partition, at int64) *seat {
	t := &seat{session: s, part: p}
	t.at.Store(at)
	s.mu.Lock()
	s.seats = append(s.seats, t)
	s.mu.Unlock()
	return t
}

// register seats the session for channels that it does not have yet, and answers for each before anything of it is sent. From an offset on, which the
// caller took from a cursor or from next, the seat is behind and catches up; one beyond the ring's end is that of a replica that reads faster, and
// what comes next is the next.
func (p *partition) register(t *seat, m post) {
	from := p.ring.Next()
	if m.from != fromNow {
		from = min(m.from, from)
	}
	if t == nil {
		t = m.session.sit(p, live)
	}
	if len(t.channels) == 0 {
		// Stored once: a cursor that another partition makes meanwhile must not find a seat live that resumes further back.
		if from < p.ring.Next() {
			t.fall(from)
			p.wait(t)
		} else {
			t.level()
		}
	}
	for _, c := range m.channels {
		if m.answer && c != core.System {
			m.session.say(frame.Sub{Channel: string(c)}.Append(nil))
		}
		t.channels = append(t.channels, listening{channel: c, from: from})
		p.index[c] = append(p.index[c], t)
	}
}

func (p *partition) unregister(t *seat, channels []core.Channel) {
	for _, c := range channels {
		t.channels = slices.DeleteFunc(t.channels, func(l listening) bool { return l.channel == c })
		p.remove(c, t)
	}
	if len(t.channels) > 0 {
		return
	}
	t.level() // nothing is missed where nothing is heard
	s := t.session
	s.mu.Lock()
	s.seats = slices.DeleteFunc(s.seats, func(other *seat) bool { return other == t })
	s.mu.Unlock()
}

// remove takes a seat out of the index of a channel.
func (p *partition) remove(c core.Channel, t *seat) {
	seats := p.index[c]
	i := slices.Index(seats, t)
	if i < 0 {
		return
	}
	last := len(seats) - 1
	seats[i], seats[last] = seats[last], nil
	if last == 0 {
		delete(p.index, c)
		return
	}
	p.index[c] = seats[:last]
}

// fall says that the session was not given what is at an offset and beyond it.
func (t *seat) fall(offset int64) { t.at.Store(offset) }

// level says that the session was given everything.
func (t *seat) level() { t.at.Store(live) }

// behind tells whether there is something that the session was not given.
func (t *seat) behind() bool { return t.at.Load() != live }

// position is the first offset that the seat was not given.
func (t *seat) position() int64 { return min(t.at.Load(), t.part.ring.Next()) }

// hears tells whether an entry is for the seat.
func (t *seat) hears(e *core.Entry) bool {
	for i := range t.channels {
		if l := &t.channels[i]; l.channel == e.Channel {
			return e.Offset >= l.from
		}
	}
	return false
}

// replay gives a seat that is behind one piece of what it lacks, and tells whether to go on. A seat whose position is older than the ring is told
// so, and goes on where the ring begins.
func (p *partition) replay(t *seat, now time.Time) (more bool) {
	at := t.at.Load()
	if at == live || t.session.closed.Load() {
		return false
	}
	if at < p.ring.Start() {
		gap, missed := p.missed(t, at)
		at = p.ring.Start()
		if missed {
			gap.Cursor = t.session.cursor(p.number, at)
			if t.session.write(socket.Text(gap.Append(nil))) == 0 {
				return false
			}
			p.room.meters.gap(frame.GapRing)
		}
		t.fall(at)
	}
	p.frames, p.offsets = p.frames[:0], p.offsets[:0]
	reached, size, looked, ms := p.ring.Next(), 0, 0, now.UnixMilli()
	for e := range p.ring.From(at) {
		if looked++; looked > scan || len(p.frames) > 0 && size+len(e.Frame) > piece {
			reached = e.Offset
			break
		}
		if t.hears(e) && !e.Expired(ms) {
			p.frames, p.offsets = append(p.frames, e.Frame), append(p.offsets, e.Offset)
			size += len(e.Frame)
		}
	}
	if n := len(p.frames); n > 0 {
		whole := p.send(t, reached, now)
		clear(p.frames)
		if whole < n {
			t.fall(p.offsets[whole])
			return false
		}
	}
	if reached == p.ring.Next() {
		t.level()
		return false
	}
	t.fall(reached)
	return true
}

// missed is the gap of a seat at an offset below the ring's start, if one of its channels may have missed something.
func (p *partition) missed(t *seat, at int64) (gap frame.Gap, missed bool) {
	for _, l := range t.channels {
		if !p.ring.Missed(l.channel, max(at, l.from)) {
			continue
		}
		if missed || l.channel == core.System {
			return frame.Gap{Scope: frame.ScopeChannels, Reason: frame.GapRing}, true
		}
		gap, missed = frame.Gap{Scope: frame.ScopeChannel, Channel: string(l.channel), Reason: frame.GapRing}, true
	}
	return gap, missed
}

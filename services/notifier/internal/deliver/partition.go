package deliver

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/notifier/internal/core"
	"github.com/spillway/spillway/services/notifier/internal/deliver/frame"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket"
)

const (
	// behindBytes and levelBytes bound one fetch as the log has it, compressed. The answer is unpacked as a whole, and what repeats itself is 250 times as
	// much then: 4 MiB, or 1 MiB, and one batch. Of that at most 512 KiB and a record are kept (kafka.Client.Fetch), which bounds what a partition holds
	// beside its ring: one such portion that the actor works on, one that was fetched. Partitions whose log goes on after what was fetched last share
	// catchUps; the others have an answer at once, which is small unless the log has grown faster than it is read.
	behindBytes = 16 << 10
	levelBytes  = 4 << 10
	// catchUps is how many partitions that are not level fetch at once: at a start all of them are behind. As many as there are cores in the smallest
	// machine; more would not be faster.
	catchUps = 2
	// pollWait is how long the broker may keep a fetch waiting; callSlack what the call may take beyond that before it counts as lost: not shorter
	// than a busy broker, because a cancelled connection stays busy until it answers.
	pollWait  = 500 * time.Millisecond
	callSlack = 5 * time.Second
	// Retries wait from retryMin, doubling, to retryMax, each with jitter. refusedPause is the pause after brokers have turned us away.
	retryMin     = 10 * time.Millisecond
	retryMax     = 500 * time.Millisecond
	refusedPause = 2 * time.Second
	// mailbox is how many posts wait for an actor; readers wait for room, the sweeper does not.
	mailbox = 1024
	// maxLinks bounds what is noted at once of who gets what, 16 bytes each: an entry more than that, which is as many as there are sessions. A fetch of
	// small notifications to a channel that all hear would be hundreds of megabytes otherwise.
	maxLinks = 64 << 10
)

// partition is one partition of the log: a goroutine that fetches and one, the actor, that owns everything below.
type partition struct {
	room      *Room
	number    int
	fetched   chan portion // without a buffer: one at work, one fetched
	posts     chan post
	next      atomic.Int64              // of the ring, published after everything below it was delivered
	confirmed atomic.Pointer[time.Time] // that next was the log's end

	// The actor's.
	ring    *core.Ring
	index   map[core.Channel][]*seat
	waiting []*seat // behind, with room in their sockets: a piece each in turn
	batch   uint64
	touched []*seat
	links   []link
	frames  [][]byte // of one write
	numbers []int    // of their entries, when they are of the batch
	offsets []int64  // of them, when they are of the ring
	entries []core.Entry
}

// portion is what one fetch brought, or a new beginning.
type portion struct {
	messages []kafka.Message
	start    int64     // the ring begins anew here; -1: it goes on
	level    time.Time // the log ended here at that time; zero: it goes on
}

// link chains the entries of a batch that a seat gets, the last first.
type link struct{ entry, before int }

func newPartition(r *Room, number int) *partition {
	return &partition{
		room: r, number: number, fetched: make(chan portion), posts: make(chan post, mailbox),
		ring: core.NewRing(r.cfg.RingBytes/int64(r.cfg.Partitions), 0), index: map[core.Channel][]*seat{},
	}
}

// fetch reads the partition and hands it to the actor.
func (p *partition) fetch(ctx context.Context) error {
	at, pause, down := place{next: -1, begin: true}, retryMin, false
	for ctx.Err() == nil {
		err := p.poll(ctx, &at)
		switch {
		case err == nil:
			if down {
				p.room.ports.Out.InfoContext(ctx, "notifications are read again", slog.Int("partition", p.number))
			}
			down, pause = false, retryMin
			continue
		case ctx.Err() != nil:
			return nil
		case kafka.OutOfRange(err): // trimmed away under us, or a new broker
			at.begin = true
		case !down:
			p.room.ports.Out.WarnContext(ctx, "notifications cannot be read", slog.Int("partition", p.number), slog.Any("error", err))
			down = true
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause/2 + rand.N(pause)):
		}
		if pause = min(2*pause, retryMax); kafka.Refused(err) {
			pause = refusedPause
		}
		refresh, cancel := context.WithTimeout(ctx, callSlack)
		_ = p.room.ports.Log.Refresh(refresh) // the next poll tells whether it helped
		cancel()
	}
	return nil
}

// place is where a partition's fetches are.
type place struct {
	next  int64 // the offset to go on at
	begin bool  // it is to be looked up where the log begins and ends
	level bool  // the log ended at next when it was looked at last
}

// poll does one fetch. Unless the partition is level it waits for its turn before it and has it until the actor takes what was fetched.
func (p *partition) poll(ctx context.Context, at *place) error {
	if at.begin {
		if err := p.find(ctx, at); err != nil {
			return err
		}
	}
	most := levelBytes
	if !at.level {
		select {
		case p.room.catching <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-p.room.catching }()
		most = behindBytes
	}
	call, cancel := context.WithTimeout(ctx, pollWait+callSlack)
	defer cancel()
	sent := time.Now()
	batch, err := p.room.ports.Log.Fetch(call, p.room.cfg.Topic, p.number, at.next, most, pollWait)
	if err != nil {
		return err
	}
	news := portion{messages: batch.Messages, start: -1}
	if n := len(batch.Messages); n > 0 {
		at.next = batch.Messages[n-1].Offset + 1
	}
	if at.level = at.next >= batch.HighWatermark; at.level {
		news.level = sent // what an answer proves is older than its arrival
	}
	if !p.hand(ctx, news) {
		return ctx.Err()
	}
	return nil
}

// find looks up where the log begins and ends. If what comes next is not there, the partition begins anew.
func (p *partition) find(ctx context.Context, at *place) error {
	call, cancel := context.WithTimeout(ctx, callSlack)
	defer cancel()
	sent := time.Now()
	ends, err := p.room.ports.Log.Ends(call, p.room.cfg.Topic, []int{p.number})
	if err != nil {
		return err
	}
	if end := ends[p.number]; at.next < end.First || at.next > end.Next {
		start := max(end.First, end.Next-p.room.cfg.Back)
		first := portion{start: start}
		if start == end.Next {
			first.level = sent
		}
		if !p.hand(ctx, first) {
			return ctx.Err()
		}
		at.next, at.level = start, start == end.Next
	}
	at.begin = false
	return nil
}

func (p *partition) hand(ctx context.Context, news portion) bool {
	select {
	case p.fetched <- news:
		return true
	case <-ctx.Done():
		return false
	}
}

// run is the actor. Between two things that come in from outside, one seat that is behind gets a piece: neither starves the other.
func (p *partition) run(ctx context.Context) error {
	for {
		var ready chan struct{}
		if len(p.waiting) > 0 {
			ready = always
		}
		select {
		case <-ctx.Done():
			return nil
		case news := <-p.fetched:
			p.apply(ctx, news, time.Now())
		case m := <-p.posts:
			p.handle(m)
		case <-ready:
		}
		p.catchUp()
	}
}

// always is ready to be received from.
var always = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// catchUp gives the first of the waiting seats a piece of what it lacks.
func (p *partition) catchUp() {
	if len(p.waiting) == 0 {
		return
	}
	t := p.waiting[0]
	p.waiting[0] = nil
	if p.waiting = p.waiting[1:]; len(p.waiting) == 0 {
		p.waiting = nil
	}
	t.waiting = false
	if p.replay(t, time.Now()) {
		p.wait(t)
	}
}

// wait puts a seat in line for its next piece.
func (p *partition) wait(t *seat) {
	if !t.waiting {
		t.waiting = true
		p.waiting = append(p.waiting, t)
	}
}

// apply takes what was fetched into the ring and gives it to the seats that are live.
func (p *partition) apply(ctx context.Context, news portion, now time.Time) {
	if news.start >= 0 {
		p.reset(news.start)
	}
	if len(news.messages) > 0 {
		spans := p.take(ctx, news.messages, now)
		p.deliver(now, spans)
		spans.end()
		clear(p.entries) // what the ring drops is nobody's any more
		p.next.Store(p.ring.Next())
	}
	if !news.level.IsZero() {
		p.confirmed.Store(&news.level)
	}
}

// reset begins anew at an offset. Unless that is where the ring ends, something cannot be read any more, or is read again: everybody is told. In a log
// that went back an offset means something else than it did, also the one from which on a channel is of interest.
func (p *partition) reset(start int64) {
	if start == p.ring.Next() {
		return
	}
	for _, seats := range p.index {
		for _, t := range seats {
			t.fall(min(t.position(), start-1)) // below the ring: a gap
			for i := range t.channels {
				t.channels[i].from = min(t.channels[i].from, start-1)
			}
			p.wait(t)
		}
	}
	p.ring.Reset(start)
	p.next.Store(start)
}

// take decodes and encodes messages, once for all who get them, into entries and the ring. A record that this release cannot read is passed over: nobody
// can be given it, and the position moves on.
func (p *partition) take(ctx context.Context, messages []kafka.Message, now time.Time) *spans {
	p.entries = p.entries[:0]
	var spans *spans
	fresh := p.confirmed.Load() != nil // a replica that starts reads what others have delivered long ago
	if fresh {
		spans = p.room.spans()
	}
	for i := range messages {
		m := &messages[i]
		var n logv1.Notification
		if envelope.CheckVersion(m.Headers) != nil || proto.Unmarshal(m.Value, &n) != nil {
			p.room.meters.skip("unreadable")
			continue
		}
		e := core.Entry{Offset: m.Offset, Channel: core.Channel(n.GetChannel())}
		if n.GetExpiresAt() != nil {
			e.Expires = max(1, n.GetExpiresAt().AsTime().UnixMilli())
		}
		if e.Expired(now.UnixMilli()) {
			p.room.meters.skip("expired")
			continue
		}
		payload, err := frame.Msg{
			ID: n.GetId(), Channel: n.GetChannel(), Class: class(n.GetClass()), Key: n.GetKey(), At: n.GetAt().AsTime(), Data: n.GetData(),
		}.Append(make([]byte, 0, len(n.GetData())+len(n.GetChannel())+len(n.GetKey())+160))
		if err != nil {
			p.room.meters.skip("unreadable")
			continue
		}
		e.Frame = socket.Text(payload)
		p.entries = append(p.entries, e)
		p.ring.Append(e)
		spans.begin(len(p.entries)-1, p.number, m, &n)
		if fresh {
			p.room.meters.age(now.Sub(n.GetAt().AsTime()))
		}
		m.Key, m.Value, m.Headers = nil, nil, nil // it is a frame now
	}
	p.ring.Skip(messages[len(messages)-1].Offset + 1)
	return spans
}

// deliver gives the entries to the live seats, in the order of the log, as many at once as maxLinks allows.
func (p *partition) deliver(now time.Time, spans *spans) {
	for first := 0; first < len(p.entries); {
		first = p.round(first, now, spans)
	}
}

// round gives the entries from the first on to the live seats, one write for each, and returns which one is the next. A seat whose socket does not
// take all of them is behind from the first that it did not take.
func (p *partition) round(first int, now time.Time, spans *spans) (next int) {
	p.batch++
	p.links = p.links[:0]
	for next = first; next < len(p.entries) && len(p.links) < maxLinks; next++ {
		for _, t := range p.index[p.entries[next].Channel] {
			if t.behind() {
				continue
			}
			if t.batch != p.batch {
				t.batch, t.last = p.batch, -1
				p.touched = append(p.touched, t)
			}
			p.links = append(p.links, link{entry: next, before: t.last})
			t.last = len(p.links) - 1
		}
	}
	reached := p.ring.Next()
	if next < len(p.entries) {
		reached = p.entries[next].Offset
	}
	for i, t := range p.touched {
		p.numbers = p.numbers[:0]
		for l := t.last; l >= 0; l = p.links[l].before {
			p.numbers = append(p.numbers, p.links[l].entry)
		}
		slices.Reverse(p.numbers)
		p.frames = p.frames[:0]
		for _, n := range p.numbers {
			p.frames = append(p.frames, p.entries[n].Frame)
		}
		// Behind before the write: the sweeper may get the session in it, and lets go again whoever is behind nowhere.
		t.fall(p.entries[p.numbers[0]].Offset)
		if whole := p.send(t, reached, now); whole == len(p.numbers) {
			t.level()
		} else {
			t.fall(p.entries[p.numbers[whole]].Offset)
			p.room.meters.slow()
			p.numbers = p.numbers[:whole]
		}
		spans.took(p.numbers)
		p.touched[i] = nil
	}
	p.touched = p.touched[:0]
	clear(p.frames)
	return next
}

// send writes p.frames to a seat's socket, and then the cursor if it is due: with all of them the client has everything of this partition below reached. It
// returns how many were taken. A cursor is made only for who takes everything, because it costs more than a try does and the stalled are tried often.
func (p *partition) send(t *seat, reached int64, now time.Time) int {
	s := t.session
	whole := s.write(p.frames...)
	if whole == 0 {
		return 0
	}
	p.room.meters.delivered(whole)
	if whole < len(p.frames) || !s.due(now) {
		s.stale.Store(true)
		return whole
	}
	s.stale.Store(false) // before the cursor is made: what comes later makes it stale again
	if s.offer(s.cursorFrame(p.number, reached)) == 1 {
		s.told.Store(s.age(now))
	} else {
		s.stale.Store(true)
	}
	return whole
}

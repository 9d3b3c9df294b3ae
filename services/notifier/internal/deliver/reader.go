package deliver

import (
	"errors"
	"log/slog"
	"runtime/debug"
	"slices"
	"time"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/services/notifier/internal/core"
	"github.com/spillway/spillway/services/notifier/internal/deliver/frame"
)

const (
	// rate and burst are how many objects a client may send, a second and at once; a message that holds none counts as one.
	rate, burst = 10, 20
	// refreshRate and refreshBurst are how many of them may be a refresh: a token that was not seen yet costs more than everything else.
	refreshRate, refreshBurst = 0.2, 3
	// maxOver is how many times a client that is over that is told so before the session is ended. They are forgotten once it has rested until the burst is
	// there again: what ends it is one flood, not what comes together in days.
	maxOver = 50
	// pong is how clients spell it, byte by byte; other spellings do as well.
	pong = `{"t":"pong"}`
)

// reader is what only the goroutine of a session needs.
type reader struct {
	*session
	pace      core.Pace
	refreshes core.Pace
	over      int
	channels  []core.Channel // subscribed, without system
}

// read is the goroutine of a session: it ends when the socket is closed, by whom ever.
func (s *session) read() {
	r := &reader{session: s, pace: core.Pace{Rate: rate, Burst: burst}, refreshes: core.Pace{Rate: refreshRate, Burst: refreshBurst}}
	r.run()
}

// run reads until the socket is closed. After the hello it goes on in a new goroutine with a small stack: judging a token makes one grow, and it would
// stay so for as long as the session is idle.
func (r *reader) run() {
	over := true
	defer func() {
		if v := recover(); v != nil {
			r.room.ports.Out.Error("a session has failed", slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
		}
		if over {
			r.mu.Lock()
			r.end(0, "")
			r.mu.Unlock()
			r.room.leave(r.session)
		}
	}()
	greeted := r.who.Load() != nil
	for {
		message, err := r.conn.Read()
		if err != nil {
			return
		}
		if now := time.Now(); !r.message(message, now) || !r.answered() {
			return
		}
		if !greeted && r.who.Load() != nil {
			over = false
			r.conn.Hold(frame.MaxMessage, r.room.budget)
			go r.run()
			return
		}
	}
}

// message does what a client says; false: the session is over.
func (r *reader) message(message []byte, now time.Time) bool {
	r.heard.Store(r.age(now))
	if r.pace.Full(now) {
		r.over = 0
	}
	if !r.pace.Take(now) {
		return r.tooMuch("at most 10 objects a second: this message was ignored")
	}
	if string(message) == pong && r.who.Load() != nil { // what nearly all messages are, with the small stack
		return true
	}
	return r.decode(message, now)
}

// tooMuch tells a client that it is over its rate; false: once too often, and the session is over.
func (r *reader) tooMuch(text string) bool {
	if r.over++; r.over > maxOver {
		r.close(core.CloseFlood)
		return false
	}
	r.say(frame.Error{Code: frame.CodeRate, Text: text}.Append(nil))
	return true
}

func (r *reader) decode(message []byte, now time.Time) bool {
	frames, err := frame.Decode(message, nil)
	if err != nil {
		if r.who.Load() == nil {
			r.close(core.CloseProtocol)
			return false
		}
		r.say(frame.Error{Code: frame.CodeInvalid, Text: err.Error()}.Append(nil))
		return true
	}
	for i := range frames {
		if i > 0 && !r.pace.Take(now) { // the first one was the message's
			return r.tooMuch("at most 10 objects a second: the rest of this message was ignored")
		}
		if !r.frame(&frames[i], now) || !r.answered() {
			return false
		}
	}
	return true
}

// frame does one thing that a client asks for; what is answered by an actor is waited for, so a session has the answers to one frame outstanding.
func (r *reader) frame(f *frame.Client, now time.Time) bool {
	if r.who.Load() == nil && f.Kind != frame.Unknown {
		if f.Kind != frame.ClientHello {
			r.close(core.CloseProtocol)
			return false
		}
		return r.hello(f, now)
	}
	switch f.Kind {
	case frame.Subscribe:
		return r.subscribe(f.Channel)
	case frame.Unsubscribe:
		return r.unsubscribe(core.Channel(f.Channel))
	case frame.Refresh:
		if !r.refreshes.Take(now) {
			return r.tooMuch("at most one refresh in 5 s: this one was ignored")
		}
		return r.refresh(f.Auth, now)
	case frame.ClientHello:
		r.say(frame.Error{Code: frame.CodeUnexpected, Text: "a session has one hello"}.Append(nil))
	case frame.Unknown:
		r.room.meters.unknown()
	case frame.Pong, frame.Ack: // heard; what was acknowledged is not kept in this release
	}
	return true
}

// hello makes a session of somebody: it is answered by hello, a gap if the cursor is worth nothing, and a sub for each channel; then comes what the cursor
// says is lacking.
func (r *reader) hello(f *frame.Client, now time.Time) bool {
	who, ok := r.verify(f.Auth, now)
	if !ok {
		return false
	}
	user := string(core.UserChannel(who.Rights.Tenant, who.User))
	if !r.room.join(user) {
		r.close(core.CloseFull)
		return false
	}
	r.user = user // from here on leave counts it out
	offsets := make([]int64, len(r.room.partitions))
	for i, p := range r.room.partitions {
		offsets[i] = p.next.Load()
	}
	resumed, good := []int64(nil), true
	if f.Cursor != "" {
		if resumed, good = r.room.opened(user, f.Cursor); good {
			for i := range offsets {
				offsets[i] = min(offsets[i], resumed[i])
			}
		}
	}
	cursor := r.room.sealed(user, offsets)
	r.say(frame.Hello{Session: newID(), Cursor: cursor, Ping: r.room.cfg.PingEvery, Expires: who.Expires, MaxIn: frame.MaxMessage}.Append(nil))
	if !good {
		r.room.meters.gap(frame.GapCursor)
		r.say(frame.Gap{Scope: frame.ScopeChannels, Reason: frame.GapCursor, Cursor: cursor}.Append(nil))
	}
	r.told.Store(r.age(now))

	// Channels of one partition are registered together: they have one position. All seats are there before the first of them is sent anything, because a
	// cursor that is told says where the client is in every partition.
	byPartition := map[*partition][]core.Channel{}
	for _, name := range f.Channels {
		c, refusal := r.judge(name, who.Rights)
		switch {
		case refusal != "":
			r.say(frame.Sub{Channel: name, Error: refusal}.Append(nil))
		case c == core.System || slices.Contains(r.channels, c):
			r.say(frame.Sub{Channel: name}.Append(nil))
		default:
			r.channels = append(r.channels, c)
			p := r.partition(c)
			byPartition[p] = append(byPartition[p], c)
		}
	}
	system := r.partition(core.System)
	byPartition[system] = append(byPartition[system], core.System)
	for p := range byPartition {
		r.sit(p, offsets[p.number])
	}
	for p, channels := range byPartition {
		if !p.post(post{kind: register, session: r.session, channels: channels, from: offsets[p.number], answer: true}) {
			return false
		}
	}
	r.who.Store(&who) // from here on the clock tells it cursors
	return true
}

// verify judges a token, and closes the session if it is not good.
func (r *reader) verify(token string, now time.Time) (core.Subscriber, bool) {
	who, err := r.room.ports.Verify(token, now)
	switch {
	case errors.Is(err, rpc.ErrNotReady):
		r.close(core.CloseUnready)
	case err != nil || who.User == "" || who.Rights.Tenant == "":
		r.close(core.CloseToken)
	default:
		return who, true
	}
	return who, false
}

// judge returns the channel of a name, or why it cannot be subscribed to.
func (r *reader) judge(name string, rights core.Rights) (core.Channel, string) {
	c, err := core.ParseChannel(name)
	switch {
	case err != nil:
		return "", frame.CodeInvalid
	case !rights.Allows(c):
		return "", frame.CodeNotAllowed
	case c != core.System && !slices.Contains(r.channels, c) && len(r.channels) >= r.room.cfg.Channels:
		return "", frame.CodeTooMany
	}
	return c, ""
}

func (r *reader) subscribe(name string) bool {
	c, refusal := r.judge(name, r.who.Load().Rights)
	if refusal != "" || c == core.System || slices.Contains(r.channels, c) {
		r.say(frame.Sub{Channel: name, Error: refusal}.Append(nil))
		return true
	}
	r.channels = append(r.channels, c)
	return r.partition(c).post(post{kind: register, session: r.session, channels: []core.Channel{c}, from: fromNow, answer: true})
}

func (r *reader) unsubscribe(c core.Channel) bool {
	i := slices.Index(r.channels, c)
	if i < 0 { // system is nobody's to leave
		return true
	}
	r.channels = slices.Delete(r.channels, i, i+1)
	return r.partition(c).post(post{kind: unregister, session: r.session, channels: []core.Channel{c}})
}

// refresh puts a new token in the place of the old one. Channels that it does not cover are left, and the client is told.
func (r *reader) refresh(token string, now time.Time) bool {
	who, ok := r.verify(token, now)
	if !ok {
		return false
	}
	if string(core.UserChannel(who.Rights.Tenant, who.User)) != r.user {
		r.close(core.CloseToken)
		return false
	}
	r.who.Store(&who)
	for _, c := range slices.Clone(r.channels) {
		if who.Rights.Allows(c) {
			continue
		}
		if !r.unsubscribe(c) {
			return false
		}
		r.room.meters.gap(frame.GapRights)
		r.say(frame.Gap{Scope: frame.ScopeChannel, Channel: string(c), Reason: frame.GapRights, Cursor: r.cursor(-1, 0)}.Append(nil))
	}
	return true
}

// partition is where a channel's notifications are.
func (r *reader) partition(c core.Channel) *partition {
	return r.room.partitions[envelope.Shard(string(c), len(r.room.partitions))]
}

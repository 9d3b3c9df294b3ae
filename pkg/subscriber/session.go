package subscriber

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Config is what a session begins with.
type Config struct {
	// Token is a subscriber token, good for ten minutes at most; Refresh brings the next.
	Token string
	// Channels are subscribed by hello; each is answered by a Sub. At most 256, and what the notifier allows a session.
	Channels []string
	// Cursor is where to go on, from an earlier session of the same user; "": from now.
	Cursor string
	// Origin is sent as a browser would; "": none.
	Origin string
	// Dial makes connections; nil: the network's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// MaxMessage bounds a message of the server, in bytes; 0: 64 KiB, twice what a notification can be.
	MaxMessage int64
}

const (
	defaultMessage = 64 << 10
	// writeWithin bounds how long a small frame may wait for room in the socket.
	writeWithin = 10 * time.Second
)

// Refused is Dial's error when the notifier answered the handshake with something else than a websocket.
type Refused struct {
	Status     int           // of HTTP
	RetryAfter time.Duration // 0: not said
}

// Error says what the answer was.
func (r *Refused) Error() string { return "websocket refused: " + http.StatusText(r.Status) }

// Closed is the error of a session that the notifier ended with a close frame.
type Closed struct {
	Code   int
	Reason string
}

// Error says how it was closed.
func (c *Closed) Error() string {
	return fmt.Sprintf("closed by the notifier: %d %s", c.Code, c.Reason)
}

// Advice is what to do after a session has ended.
type Advice int

// The advices, by the ranges of close codes.
const (
	// ComeBack with the cursor after a short random wait, which doubles while it fails. Also after a broken connection.
	ComeBack Advice = iota
	// Renew the token, then come back with the cursor.
	Renew
	// Stop: the same again would end the same way.
	Stop
)

// Advise says what to do after err, which Dial or Next returned.
func Advise(err error) Advice {
	var closed *Closed
	var refused *Refused
	switch {
	case errors.As(err, &closed):
		switch c := closed.Code; {
		case 4100 <= c && c <= 4199:
			return Renew
		case 4200 <= c && c <= 4299, c == 1002, c == 1003, c == 1007, c == 1008, c == 1009:
			return Stop
		}
	case errors.As(err, &refused):
		if refused.Status >= 400 && refused.Status < 500 && refused.Status != http.StatusTooManyRequests {
			return Stop
		}
	case errors.Is(err, ErrMalformed):
		return Stop
	}
	return ComeBack
}

// Session is one connection. Next belongs to one goroutine at a time; the rest may be called from any.
type Session struct {
	ws     *websocket.Conn
	hello  Event
	events chan Event
	stop   chan struct{} // closed by Close and Cut
	once   sync.Once
	end    error // why events is closed; written before it is

	mu     sync.Mutex
	cursor string
}

// Dial connects, says hello and waits for the answer. ctx bounds that only. After an error, Advise says what to do.
func Dial(ctx context.Context, url string, cfg Config) (*Session, error) {
	transport := &http.Transport{DialContext: cfg.Dial, DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
	options := &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}, Subprotocols: []string{Subprotocol}}
	if cfg.Origin != "" {
		options.HTTPHeader = http.Header{"Origin": {cfg.Origin}}
	}
	ws, answer, err := websocket.Dial(ctx, url, options)
	if err != nil {
		if answer != nil && answer.StatusCode != http.StatusSwitchingProtocols {
			seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
			return nil, &Refused{Status: answer.StatusCode, RetryAfter: time.Duration(min(max(seconds, 0), 3600)) * time.Second}
		}
		return nil, fmt.Errorf("dial notifier: %w", err)
	}
	limit := cfg.MaxMessage
	if limit <= 0 {
		limit = defaultMessage
	}
	ws.SetReadLimit(limit)
	s := &Session{ws: ws, events: make(chan Event), stop: make(chan struct{}), cursor: cfg.Cursor}
	first, err := s.greet(ctx, cfg)
	if err != nil {
		_ = ws.CloseNow()
		return nil, err
	}
	go s.read(first)
	return s, nil
}

// greet says hello and returns what came in one message with the answer.
func (s *Session) greet(ctx context.Context, cfg Config) ([]Event, error) {
	hello := Request{T: "hello", Auth: cfg.Token, Cursor: cfg.Cursor, Channels: cfg.Channels}
	if err := s.ws.Write(ctx, websocket.MessageText, Encode(hello)); err != nil {
		return nil, fmt.Errorf("say hello: %w", closed(err))
	}
	for {
		events, err := s.receive(ctx)
		if err != nil {
			return nil, fmt.Errorf("wait for hello: %w", err)
		}
		for i, e := range events {
			switch e.T {
			case Hello:
				s.hello, s.cursor = e, e.Cursor
				return events[i+1:], nil
			case ping:
				_ = s.send(ctx, Request{T: "pong"})
			case Error:
				return nil, fmt.Errorf("wait for hello: the notifier answered %s: %s", e.Code.Word, e.Text)
			}
		}
	}
}

func (s *Session) receive(ctx context.Context) ([]Event, error) {
	kind, message, err := s.ws.Read(ctx)
	if err != nil {
		return nil, closed(err)
	}
	if kind != websocket.MessageText {
		return nil, fmt.Errorf("%w: a binary message", ErrMalformed)
	}
	return Decode(message)
}

// read hands over one event after the other, until the connection ends.
func (s *Session) read(events []Event) {
	defer close(s.events)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		for _, e := range events {
			if e.T == ping {
				_ = s.send(ctx, Request{T: "pong"}) // a connection that is broken is seen by receive
				continue
			}
			select {
			case s.events <- e:
			case <-s.stop:
				s.end = net.ErrClosed
				return
			}
		}
		var err error
		if events, err = s.receive(ctx); err != nil {
			s.end = err
			select {
			case <-s.stop:
				s.end = net.ErrClosed
			default:
				_ = s.ws.CloseNow()
			}
			return
		}
	}
}

// Next waits for the next event. The end of ctx ends the wait and not the session; every other error is the end of the session: *Closed, net.ErrClosed after Close, or
// what the network said.
func (s *Session) Next(ctx context.Context) (Event, error) {
	select {
	case e, ok := <-s.events:
		if !ok {
			return Event{}, s.end
		}
		if e.Cursor != "" {
			s.mu.Lock()
			s.cursor = e.Cursor
			s.mu.Unlock()
		}
		return e, nil
	case <-ctx.Done():
		return Event{}, ctx.Err()
	}
}

// Hello is the notifier's answer to hello.
func (s *Session) Hello() Event { return s.hello }

// Cursor covers everything that Next had returned when the notifier issued it: what an earlier call of Next returned after it may come again. It is what to dial again with.
func (s *Session) Cursor() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor
}

// Subscribe asks for a channel; a Sub answers.
func (s *Session) Subscribe(ctx context.Context, channel string) error {
	return s.send(ctx, Request{T: "subscribe", Channel: channel})
}

// Unsubscribe ends a channel; nothing answers, and messages that are on their way may still come.
func (s *Session) Unsubscribe(ctx context.Context, channel string) error {
	return s.send(ctx, Request{T: "unsubscribe", Channel: channel})
}

// Refresh brings a newer token of the same user. Channels that it does not cover end with a Gap.
func (s *Session) Refresh(ctx context.Context, token string) error {
	return s.send(ctx, Request{T: "refresh", Auth: token})
}

// Ack tells the notifier how far the caller has come, with a cursor that it issued.
func (s *Session) Ack(ctx context.Context, cursor string) error {
	return s.send(ctx, Request{T: "ack", Cursor: cursor})
}

// Send sends requests in one message; it is for what the methods above do not cover.
func (s *Session) Send(ctx context.Context, requests ...Request) error {
	return s.send(ctx, requests...)
}

func (s *Session) send(ctx context.Context, requests ...Request) error {
	ctx, cancel := context.WithTimeout(ctx, writeWithin)
	defer cancel()
	if err := s.ws.Write(ctx, websocket.MessageText, Encode(requests...)); err != nil {
		return closed(err)
	}
	return nil
}

// Close says goodbye and ends the session; it waits a few seconds at most for the notifier's answer.
func (s *Session) Close() error {
	var err error
	s.once.Do(func() {
		close(s.stop)
		err = s.ws.Close(websocket.StatusNormalClosure, "")
		_ = s.ws.CloseNow()
	})
	return err
}

// Cut ends the session without a word, as a broken network does.
func (s *Session) Cut() {
	s.once.Do(func() {
		close(s.stop)
		_ = s.ws.CloseNow()
	})
}

// closed gives a close frame our own type.
func closed(err error) error {
	var frame websocket.CloseError
	if errors.As(err, &frame) {
		return &Closed{Code: int(frame.Code), Reason: frame.Reason}
	}
	return err
}

package subscriber_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/spillway/spillway/pkg/subscriber"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// play serves one websocket with a script; it ends when the script does.
func play(t *testing.T, script func(ctx context.Context, c *websocket.Conn)) (url string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{subscriber.Subprotocol}})
		if err != nil {
			return
		}
		defer c.CloseNow()
		script(r.Context(), c)
	}))
	t.Cleanup(s.Close)
	return "ws" + strings.TrimPrefix(s.URL, "http") + "/v1/ws"
}

func say(t *testing.T, c *websocket.Conn, text string) {
	t.Helper()
	if err := c.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
		t.Error(err)
	}
}

func hear(t *testing.T, c *websocket.Conn, want string) {
	t.Helper()
	_, got, err := c.Read(t.Context())
	if err != nil || string(got) != want {
		t.Errorf("heard %q, %v, want %q", got, err, want)
	}
}

const welcome = `{"t":"hello","session":"s1","cursor":"c0","ping_s":25,"expires_at":"2026-03-04T05:06:07.000Z","max_in":16384}`

func TestSession(t *testing.T) {
	asked := make(chan struct{})
	url := play(t, func(_ context.Context, c *websocket.Conn) {
		hear(t, c, `{"t":"hello","auth":"tok","cursor":"old","channels":["user:t:u"]}`)
		say(t, c, welcome+"\n"+`{"t":"sub","channel":"user:t:u","ok":true}`)
		say(t, c, `{"t":"wizard","id":7}`)
		say(t, c, `{"t":"ping"}`)
		hear(t, c, `{"t":"pong"}`)
		say(t, c, `{"t":"msg","id":"j1","channel":"user:t:u","class":"EVENT","ts":"2026-03-04T05:06:07.089Z","data":{"a":[1, 2]},"later":{}}`)
		say(t, c, `{"t":"cursor","cursor":"c1"}`)
		<-asked
		hear(t, c, `{"t":"subscribe","channel":"topic:t:x"}`)
		say(t, c, `{"t":"error","code":"RATE","text":"slower"}`+"\n"+`{"t":"go","code":4003,"after_ms":250}`)
		_ = c.Close(4003, "restart")
	})
	s, err := subscriber.Dial(t.Context(), url, subscriber.Config{Token: "tok", Cursor: "old", Channels: []string{"user:t:u"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if h := s.Hello(); h.Session != "s1" || h.PingS != 25 || h.MaxIn != 16384 || h.ExpiresAt.Year() != 2026 || s.Cursor() != "c0" {
		t.Errorf("%+v", h)
	}
	next := func() subscriber.Event {
		t.Helper()
		e, err := s.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if e := next(); e.T != subscriber.Sub || !e.OK || e.Channel != "user:t:u" {
		t.Errorf("%+v", e)
	}
	if e := next(); e.T != "wizard" {
		t.Errorf("%+v", e)
	}
	if e := next(); e.T != subscriber.Msg || e.ID != "j1" || e.Class != "EVENT" || e.TS.Nanosecond() != 89e6 || string(e.Data) != `{"a":[1, 2]}` || s.Cursor() != "c0" {
		t.Errorf("%+v", e)
	}
	if e := next(); e.T != subscriber.Cursor || s.Cursor() != "c1" {
		t.Errorf("%+v", e)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Next(ended); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := s.Subscribe(t.Context(), "topic:t:x"); err != nil {
		t.Error(err)
	}
	close(asked)
	if e := next(); e.T != subscriber.Error || e.Code.Word != "RATE" || e.Text != "slower" {
		t.Errorf("%+v", e)
	}
	if e := next(); e.T != subscriber.Go || e.Code.Number != 4003 || e.AfterMS != 250 {
		t.Errorf("%+v", e)
	}
	_, err = s.Next(t.Context())
	var closed *subscriber.Closed
	if !errors.As(err, &closed) || closed.Code != 4003 || closed.Reason != "restart" || subscriber.Advise(err) != subscriber.ComeBack {
		t.Error(err)
	}
}

// TestCloseAndCut: an event that nobody takes does not keep a session alive.
func TestCloseAndCut(t *testing.T) {
	for name, end := range map[string]func(*subscriber.Session){
		"close": func(s *subscriber.Session) { _ = s.Close() },
		"cut":   (*subscriber.Session).Cut,
	} {
		over := make(chan error, 1)
		url := play(t, func(ctx context.Context, c *websocket.Conn) {
			_, _, _ = c.Read(ctx)
			say(t, c, welcome+"\n"+`{"t":"cursor","cursor":"c1"}`)
			_, _, err := c.Read(ctx)
			over <- err
		})
		s, err := subscriber.Dial(t.Context(), url, subscriber.Config{Token: "tok"})
		if err != nil {
			t.Fatal(err)
		}
		end(s)
		end(s)
		for err == nil {
			_, err = s.Next(t.Context())
		}
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-over; (websocket.CloseStatus(err) == websocket.StatusNormalClosure) != (name == "close") {
			t.Errorf("%s: the server saw %v", name, err)
		}
	}
}

func TestDialRefused(t *testing.T) {
	status := http.StatusServiceUnavailable
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "7")
		http.Error(w, r.Header.Get("Origin"), status)
	}))
	defer s.Close()
	_, err := subscriber.Dial(t.Context(), s.URL, subscriber.Config{Origin: "https://a"})
	var refused *subscriber.Refused
	if !errors.As(err, &refused) || refused.Status != status || refused.RetryAfter != 7*time.Second || subscriber.Advise(err) != subscriber.ComeBack {
		t.Error(err)
	}
	status = http.StatusForbidden
	if _, err = subscriber.Dial(t.Context(), s.URL, subscriber.Config{}); subscriber.Advise(err) != subscriber.Stop {
		t.Error(err)
	}
	url := play(t, func(ctx context.Context, c *websocket.Conn) {
		_, _, _ = c.Read(ctx)
		_ = c.Close(4101, "token expired")
	})
	if _, err = subscriber.Dial(t.Context(), url, subscriber.Config{}); subscriber.Advise(err) != subscriber.Renew {
		t.Error(err)
	}
	url = play(t, func(ctx context.Context, c *websocket.Conn) {
		_, _, _ = c.Read(ctx)
		say(t, c, `{"x":1}`)
	})
	if _, err = subscriber.Dial(t.Context(), url, subscriber.Config{}); subscriber.Advise(err) != subscriber.Stop || !errors.Is(err, subscriber.ErrMalformed) {
		t.Error(err)
	}
}

// FuzzDecode: what a server sends never panics, and what is returned has a t.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(welcome))
	f.Add([]byte(welcome + "\n\n" + `{"t":"go","code":4000}` + "\r\n"))
	f.Add([]byte(`{"t":"error","code":"RATE"}`))
	f.Add([]byte(`{"t":"wizard","id":{"deep":[[[]]]}}`))
	f.Add([]byte(`{"t":"msg","code":null,"ts":"yesterday"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, message []byte) {
		events, err := subscriber.Decode(message)
		if (err == nil) == (len(events) == 0) || err != nil && !errors.Is(err, subscriber.ErrMalformed) {
			t.Fatal(events, err)
		}
		for _, e := range events {
			if e.T == "" {
				t.Fatal("no t")
			}
		}
	})
}

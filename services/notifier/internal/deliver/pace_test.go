package deliver

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/subscriber"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

// What is paced is what a client asks for, not how it puts it into messages; and of that, tokens are the dearest.
func TestObjectsArePacedAndRefreshesMore(t *testing.T) {
	judged := 0
	bubbleOf(t, Config{}, func(p *Ports) {
		p.Verify = func(text string, now time.Time) (core.Subscriber, error) {
			judged++
			return verify(text, now)
		}
	}, func(t *testing.T, w *world) {
		c, err := w.raw()
		if err != nil {
			t.Fatal(err)
		}
		hear := func(want string) {
			t.Helper()
			for {
				message, err := c.read()
				if err != nil {
					t.Fatal(err)
				}
				events, err := subscriber.Decode([]byte(message))
				if err != nil || len(events) != 1 {
					t.Fatal(message, err)
				}
				if got := event(events[0]); got == want {
					return
				} else if got != subscriber.Cursor && got != "ping" {
					t.Fatalf("heard %q, want %q", got, want)
				}
			}
		}
		auth := strconv.Quote(ann().String())
		c.write(`{"t":"hello","auth":` + auth + "}")
		hear("hello")
		time.Sleep(5 * time.Second)

		subscribe := strings.Repeat(`{"t":"subscribe","channel":"user:acme:bob"}`+"\n", 64)
		c.write(subscribe)
		for range burst {
			hear("sub user:acme:bob NOT_ALLOWED")
		}
		hear("error RATE")
		time.Sleep(time.Second)
		c.write(subscribe)
		for range rate {
			hear("sub user:acme:bob NOT_ALLOWED")
		}
		hear("error RATE")
		time.Sleep(30 * time.Second)

		refresh := strings.Repeat(`{"t":"refresh","auth":`+auth+"}\n", 5)
		c.write(refresh + `{"t":"subscribe","channel":"user:acme:ann"}`)
		hear("error RATE")
		hear("error RATE")
		hear("sub user:acme:ann ok")
		if judged != 1+refreshBurst {
			t.Errorf("%d tokens were judged", judged)
		}
		time.Sleep(5 * time.Second)
		c.write(refresh)
		for range 4 {
			hear("error RATE")
		}
		for range maxOver - 6 { // without a rest
			c.write(`{"t":"refresh","auth":` + auth + "}")
			time.Sleep(200 * time.Millisecond)
		}
		if judged > 1+refreshBurst+1+3 {
			t.Errorf("%d tokens were judged", judged)
		}
		_ = c.ws.CloseNow()
	})
}

package deliver

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/spillway/spillway/pkg/subscriber"
)

// Those that have not said who they are hold little: each at most a hello, all together their budget, and there are not many of them. Whoever says hello is let in
// meanwhile, also with the longest token there is.
func TestS29StrangersHoldLittle(t *testing.T) {
	const sessions = 8 * 1000
	bubble(t, Config{Sessions: sessions}, func(t *testing.T, w *world) {
		half := strings.Repeat(" ", maxHello-512)
		codes := make(chan int, sessions)
		in, refused := 0, 0
		for range sessions/strangersShare + 50 {
			c, err := w.raw()
			if err != nil {
				refused++
				continue
			}
			in++
			message, err := c.ws.Writer(w.ctx, websocket.MessageText)
			if err == nil {
				_, err = message.Write([]byte(half)) // and never more
			}
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				_, err := c.read()
				closed := (*subscriber.Closed)(nil)
				if !errors.As(err, &closed) {
					closed = &subscriber.Closed{}
				}
				codes <- closed.Code
			}()
			synctest.Wait()
			if used := w.room.socket.Budget.Used(); used > strangersBytes {
				t.Fatalf("%d bytes are held for them", used)
			}
		}
		if refused != 0 { // those over the budget were closed, and so did not count
			t.Errorf("%d refused", refused)
		}
		long := ann()
		w.dial(long, "user:acme:ann")
		time.Sleep(10 * time.Second)
		got := map[int]int{}
		for range in {
			got[<-codes]++
		}
		if got[1013] < in/2 || got[4005]+got[1013]+got[0] != in {
			t.Errorf("of %d closed with %v", in, got)
		}

		long.Patterns = append(long.Patterns, "topic:acme:"+strings.Repeat("x", 8<<10-300))
		if n := len(long.String()); n < 8<<10-200 || n > 8<<10 {
			t.Fatal(n)
		}
		s := w.dial(long, "user:acme:ann")
		w.expect(s, "sub user:acme:ann ok")
		long.Patterns[len(long.Patterns)-1] += strings.Repeat("x", 3<<10)
		if _, err := w.try(subscriber.Config{Token: long.String()}); err == nil || ending(err) != "close 1009" {
			t.Errorf("a hello that is too long: %v", err)
		}

		var silent []*raw
		for range sessions / strangersShare {
			c, err := w.raw()
			if err != nil {
				t.Fatal(len(silent), err)
			}
			silent = append(silent, c)
		}
		if _, err := w.try(subscriber.Config{Token: ann().String()}); err == nil || ending(err) != "refused 503" {
			t.Errorf("one more without a hello: %v", err)
		}
		silent[0].write(`{"t":"hello","auth":` + strconv.Quote(ann().String()) + `}`)
		synctest.Wait()
		w.dial(ann())
		for _, c := range silent {
			_ = c.ws.CloseNow()
		}
	})
}

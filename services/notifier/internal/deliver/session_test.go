package deliver

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spillway/spillway/pkg/subscriber"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestANotificationReachesWhoHearsItsChannel(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, w *world) {
		a := w.dial(ann(), "topic:acme:orders", "user:acme:ann")
		b := w.dial(ann())
		var subs []string
		subs = append(subs, w.next(a), w.next(a)) // in any order: two partitions
		if subs[0] == subs[1] {
			t.Fatalf("answers %v", subs)
		}
		w.publish("topic:acme:orders", "1")
		w.publish("topic:acme:other", "2")
		w.expect(a, "msg topic:acme:orders 1")
		w.publish("user:acme:ann", "3")
		w.expect(a, "msg user:acme:ann 3")
		if err := b.Subscribe(w.ctx, "topic:acme:other"); err != nil {
			t.Fatal(err)
		}
		w.expect(b, "sub topic:acme:other ok")
		w.publish("topic:acme:other", "4")
		w.publish("topic:acme:orders", "5")
		w.expect(b, "msg topic:acme:other 4", "nothing")
		w.expect(a, "msg topic:acme:orders 5")
		if err := a.Unsubscribe(w.ctx, "topic:acme:orders"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.publish("topic:acme:orders", "6")
		w.expect(a, "nothing")
	})
}

func TestWhatIsRefusedLeavesTheSessionOpen(t *testing.T) {
	bubble(t, Config{Channels: 2}, func(t *testing.T, w *world) {
		s := w.dial(ann(), "tenant:acme", "tenant:other", "topic:acme:*", "topic:acme:a", "topic:acme:b", "system", "topic:acme:a")
		got := map[string]bool{}
		for range 7 {
			got[w.next(s)] = true
		}
		for _, want := range []string{"sub tenant:acme ok", "sub tenant:other NOT_ALLOWED", "sub topic:acme:* INVALID", "sub topic:acme:a ok",
			"sub topic:acme:b TOO_MANY_CHANNELS", "sub system ok"} {
			if !got[want] {
				t.Errorf("no %q among %v", want, got)
			}
		}
		for _, c := range []struct {
			send subscriber.Request
			want string
		}{
			{subscriber.Request{T: "hello", Auth: "x"}, "error UNEXPECTED"},
			{subscriber.Request{T: "subscribe"}, "error INVALID"},
			{subscriber.Request{T: "subscribe", Channel: "user:acme:bob"}, "sub user:acme:bob NOT_ALLOWED"},
			{subscriber.Request{T: "subscribe", Channel: "tenant:acme"}, "sub tenant:acme ok"},
			{subscriber.Request{T: "unheard-of"}, ""},
			{subscriber.Request{T: "ack", Cursor: "x"}, ""},
			{subscriber.Request{T: "unsubscribe", Channel: "topic:acme:b"}, ""},
		} {
			if err := s.Send(w.ctx, c.send); err != nil {
				t.Fatal(err)
			}
			if c.want != "" {
				w.expect(s, c.want)
			}
		}
		w.publish("tenant:acme", "1")
		w.expect(s, "msg tenant:acme 1")
	})
}

func TestWhatExpiredIsNotDelivered(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, w *world) {
		s := w.dial(ann(), "tenant:acme")
		w.expect(s, "sub tenant:acme ok")
		cursor := s.Hello().Cursor
		soon := func(n *logv1.Notification) { n.ExpiresAt = timestamppb.New(time.Now().Add(time.Second)) }
		past := func(n *logv1.Notification) { n.ExpiresAt = timestamppb.Now() }
		w.log.append(record(4, "tenant:acme", "1", "1", past))
		w.log.append(record(4, "tenant:acme", "2", "2", soon))
		w.publish("tenant:acme", "3")
		w.expect(s, "msg tenant:acme 2", "msg tenant:acme 3")
		time.Sleep(time.Second)
		again, err := w.try(subscriber.Config{Token: ann().String(), Channels: []string{"tenant:acme"}, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		w.expect(again, "sub tenant:acme ok", "msg tenant:acme 3", "nothing")
	})
}

func TestACursorResumesExactly(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, w *world) {
		s := w.dial(ann(), "tenant:acme")
		w.expect(s, "sub tenant:acme ok")
		w.publish("tenant:acme", "1")
		w.expect(s, "msg tenant:acme 1")
		time.Sleep(3 * time.Second)
		w.expect(s, "nothing") // takes the cursor that has come
		cursor := s.Cursor()
		if cursor == s.Hello().Cursor {
			t.Fatal("no cursor came")
		}
		s.Cut()
		for i := 2; i < 200; i++ {
			w.publish("tenant:acme", fmt.Sprint(i))
			w.publish("topic:acme:later", fmt.Sprint(i))
		}
		synctest.Wait()
		// What is subscribed to now also begins where the cursor was.
		s, err := w.try(subscriber.Config{Token: ann().String(), Channels: []string{"tenant:acme", "topic:acme:later"}, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		next := map[string]int{"tenant:acme": 2, "topic:acme:later": 2}
		for e := w.next(s); e != "nothing"; e = w.next(s) {
			var channel string
			var n int
			if k, _ := fmt.Sscanf(e, "msg %s %d", &channel, &n); k == 2 {
				if n != next[channel] {
					t.Fatalf("%s, want %d", e, next[channel])
				}
				next[channel]++
			}
		}
		if next["tenant:acme"] != 200 || next["topic:acme:later"] != 200 {
			t.Errorf("next %v", next)
		}
	})
}

// The hello alone is enough to come back with, also for channels that were not asked for yet.
func TestAClientThatReceivedNothingResumes(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, w *world) {
		s := w.dial(ann())
		cursor := s.Hello().Cursor
		s.Cut()
		w.publish("tenant:acme", "1")
		synctest.Wait()
		s, err := w.try(subscriber.Config{Token: ann().String(), Channels: []string{"tenant:acme"}, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		w.expect(s, "sub tenant:acme ok", "msg tenant:acme 1", "nothing")
	})
}

func TestACursorThatIsNotTheClientsIsAGap(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, w *world) {
		s := w.dial(ann())
		good := s.Hello().Cursor
		other, key, parts := ports(w.log), ports(w.log), ports(w.log)
		other.Cluster = func() string { return "another" }
		key.CursorKey = []byte("another key of thirty-two bytes, or more")
		offsets := []int64{0, 0, 0, 0}
		of := func(p Ports, n int, user string) string {
			r, err := New(Config{Topic: "t", Partitions: n}, p)
			if err != nil {
				t.Fatal(err)
			}
			return r.sealed(user, offsets[:n])
		}
		flipped := []byte(good)
		flipped[10] ^= 1
		for name, cursor := range map[string]string{
			"another cluster": of(other, 4, "user:acme:ann"), "another key": of(key, 4, "user:acme:ann"), "3 partitions": of(parts, 3, "user:acme:ann"),
			"another user": of(parts, 4, "user:acme:bob"), "another tenant": of(parts, 4, "user:other:ann"),
			"a byte changed": string(flipped), "cut": good[:len(good)-4], "longer": good + "AAAA", "no base64": "*", "short": "AAAA",
		} {
			s, err := w.try(subscriber.Config{Token: ann().String(), Channels: []string{"tenant:acme"}, Cursor: cursor})
			if err != nil {
				t.Fatal(name, err)
			}
			if got := w.next(s) + ", " + w.next(s); got != "gap channels cursor, sub tenant:acme ok" {
				t.Errorf("%s: %s", name, got)
			}
			w.publish("tenant:acme", name)
			w.expect(s, "msg tenant:acme "+name)
			s.Cut()
		}
		if s, err := w.try(subscriber.Config{Token: ann().String(), Cursor: of(parts, 4, "user:acme:ann")}); err != nil || w.next(s) != "nothing" {
			t.Errorf("its own is refused: %v", err)
		}
	})
}

func TestTokensOfSessions(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, w *world) {
		for _, c := range []struct{ token, want string }{
			{"later", "close 4004"}, {"forged", "close 4101"}, {token{User: "ann", Expires: time.Now().Add(time.Hour)}.String(), "close 4101"},
		} {
			if _, err := w.try(subscriber.Config{Token: c.token}); err == nil || ending(err) != c.want {
				t.Errorf("%s: %v", c.token, err)
			}
		}
		k := ann()
		k.Expires = time.Now().Add(10 * time.Minute)
		s, other := w.dial(k, "tenant:acme", "topic:acme:a"), w.dial(k)
		w.next(s)
		w.next(s)
		w.pass(9*time.Minute, s, other)
		k.Expires, k.Patterns = time.Now().Add(10*time.Minute), []string{"tenant:acme"}
		if err := s.Refresh(w.ctx, k.String()); err != nil {
			t.Fatal(err)
		}
		w.expect(s, "gap channel topic:acme:a rights")
		w.publish("topic:acme:a", "1")
		w.publish("tenant:acme", "2")
		w.expect(s, "msg tenant:acme 2")
		passed := make(chan struct{})
		go func() { defer close(passed); w.pass(3*time.Minute, s) }()
		begun := time.Now()
		for w.next(other) == "nothing" { // expired a minute from now, plus the grace
		}
		if over := time.Since(begun); over > 2*time.Minute+20*time.Second || over < time.Minute {
			t.Errorf("an expired session lived for %s", over)
		}
		<-passed
		k.User = "bob"
		if err := s.Refresh(w.ctx, k.String()); err != nil {
			t.Fatal(err)
		}
		w.expect(s, "close 4101")
	})
}

func TestExpiredSessionsAreTold(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, w *world) {
		k := ann()
		k.Expires = time.Now().Add(5 * time.Second)
		s := w.dial(k)
		begun := time.Now()
		got := "nothing"
		for got == "nothing" {
			got = w.next(s)
		}
		if after := time.Since(begun); got != "close 4100" || after < 65*time.Second || after > 67*time.Second {
			t.Errorf("%s after %s", got, after)
		}
	})
}

func TestWhoSaysNoHelloIsSentAway(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, w *world) {
		mute, err := w.raw()
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		_, err = mute.read()
		if after := time.Since(begun); ending(err) != "close 4005" || after < 5*time.Second || after > 7*time.Second {
			t.Errorf("%v after %s", err, after)
		}
		for _, first := range []string{`{"t":"subscribe","channel":"tenant:acme"}`, `{"t":"pong"}`, `no frame`} {
			c, err := w.raw()
			if err != nil {
				t.Fatal(err)
			}
			c.write(first)
			if _, err = c.read(); ending(err) != "close 4200" {
				t.Errorf("%s: %v", first, err)
			}
		}
	})
}

func TestWhoNeverAnswersAPingIsSentAway(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, w *world) {
		s := w.dial(ann())
		c, err := w.raw()
		if err != nil {
			t.Fatal(err)
		}
		go w.pass(time.Minute, s)
		c.write(`{"t":"hello","auth":` + fmt.Sprintf("%q", ann().String()) + `}`)
		begun, pings := time.Now(), 0
		for {
			message, err := c.read()
			if err != nil {
				if after := time.Since(begun); ending(err) != "close 4002" || after < 50*time.Second || after > 55*time.Second || pings < 2 {
					t.Errorf("%v after %s and %d pings", err, after, pings)
				}
				break
			}
			if message == `{"t":"ping"}` {
				pings++
			}
		}
		w.pass(time.Minute, s) // this client answers by itself
		w.publish("system", "1")
		w.expect(s, "msg system 1")
	})
}

// A client that catches up for longer than pings have time reads all the while and has a full socket nearly always. It is asked all the same, and neither silent
// nor stalled: it gets everything, and is told where it is.
func TestWhoReadsSlowlyIsNotSilent(t *testing.T) {
	const messages, every = 2_000, 2 * time.Second
	bubble(t, Config{PingEvery: every}, func(t *testing.T, w *world) {
		c, err := w.raw()
		if err != nil {
			t.Fatal(err)
		}
		c.write(fmt.Sprintf(`{"t":"hello","auth":%q,"channels":["tenant:acme"]}`, ann().String()))
		for subscribed := false; !subscribed; { // what comes before that is not for it
			message, err := c.read()
			if err != nil {
				t.Fatal(err)
			}
			subscribed = strings.HasPrefix(message, `{"t":"sub"`)
		}
		go func() {
			for i := range messages {
				w.log.append(record(4, "tenant:acme", fmt.Sprint(i), fmt.Sprintf("\"%0700d\"", 1), nil))
			}
		}()
		begun, pings, cursors := time.Now(), 0, 0
		for got := 0; got < messages; {
			message, err := c.read()
			if err != nil {
				t.Fatalf("after %s, %d messages and %d pings: %v", time.Since(begun), got, pings, err)
			}
			switch {
			case message == `{"t":"ping"}`:
				pings++
				c.write(`{"t":"pong"}`)
			case strings.HasPrefix(message, `{"t":"cursor"`):
				cursors++
			case strings.HasPrefix(message, `{"t":"msg"`):
				got++
				time.Sleep(20 * time.Millisecond) // 40 KB a second
			}
		}
		if asked := int(time.Since(begun) / every); pings < asked-2 || pings > asked+2 || cursors < pings {
			t.Errorf("%d pings and %d cursors in %s", pings, cursors, time.Since(begun))
		}
		_ = c.ws.CloseNow()
	})
}

func TestLimitsOfAClient(t *testing.T) {
	bubble(t, Config{PerUser: 2, Sessions: 4, PerAddress: 3}, func(t *testing.T, w *world) {
		a := w.dial(ann())
		w.dial(ann())
		if _, err := w.try(subscriber.Config{Token: ann().String()}); err == nil || ending(err) != "close 4003" {
			t.Errorf("a third of a user: %v", err)
		}
		time.Sleep(5 * time.Second)
		bob := ann()
		bob.User = "bob"
		w.dial(bob)
		if _, err := w.try(subscriber.Config{Token: bob.String()}); err == nil || ending(err) != "refused 503" {
			t.Errorf("a fourth of an address: %v", err)
		}
		over := 0
		for i := range 100 {
			if a.Send(w.ctx, subscriber.Request{T: "subscribe", Channel: fmt.Sprintf("user:acme:%d", i)}) != nil {
				break
			}
			got := w.next(a)
			if got == "error RATE" {
				over++
			}
			if got == "close 4201" {
				if i < burst-1+maxOver || i > burst+maxOver || over != maxOver { // a pong may be among them
					t.Errorf("ended at message %d after %d that were over", i, over)
				}
				return
			}
		}
		t.Error("a flood goes on")
	})
}

// Strikes lapse: a session that is over its rate now and then, as a page that subscribes to much at once, is never ended for it.
func TestStrikesLapse(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, w *world) {
		s := w.dial(ann())
		over := 0
		for range 10 {
			for i := range 40 {
				if err := s.Send(w.ctx, subscriber.Request{T: "subscribe", Channel: fmt.Sprintf("user:acme:%d", i)}); err != nil {
					t.Fatal(err)
				}
				switch got := w.next(s); got {
				case "error RATE":
					over++
				case fmt.Sprintf("sub user:acme:%d NOT_ALLOWED", i):
				default:
					t.Fatalf("%q after %d that were over", got, over)
				}
			}
			w.pass(10*time.Second, s)
		}
		if over <= 2*maxOver {
			t.Errorf("%d were over: nothing was to lapse", over)
		}
	})
}

func TestADrainSendsEverybodyAwayInSlots(t *testing.T) {
	bubble(t, Config{PerUser: 100}, func(t *testing.T, w *world) {
		const n, over = 40, 40 * drainSlot // not the ten seconds that thousands may have
		var all []*subscriber.Session
		for range n {
			all = append(all, w.dial(ann()))
		}
		ended := make(chan time.Duration, n)
		begun := time.Now()
		for _, s := range all {
			go func() {
				e, err := s.Next(w.ctx)
				if err != nil || e.T != subscriber.Go || e.Code.Number != 4000 || e.AfterMS > over.Milliseconds() || e.AfterMS <= 0 {
					t.Errorf("got %+v, %v", e, err)
				}
				for err == nil {
					_, err = s.Next(w.ctx)
				}
				if took := time.Since(begun).Milliseconds(); ending(err) != "close 4000" || took < e.AfterMS-20 || took > e.AfterMS+20 {
					t.Errorf("%v after %d ms, told %d ms", err, took, e.AfterMS)
				}
				ended <- time.Since(begun)
			}()
		}
		ctx, cancel := context.WithTimeout(w.ctx, 30*time.Second)
		defer cancel()
		w.room.Drain(ctx)
		if took := time.Since(begun); w.room.Sessions() != 0 || took < over || took > over+3*drainTick {
			t.Errorf("%d sessions after %s", w.room.Sessions(), took)
		}
		early := 0
		for range n {
			if <-ended < over/2 {
				early++
			}
		}
		if early < n/2-2 || early > n/2+2 {
			t.Errorf("%d of %d left in the first half", early, n)
		}
		if _, err := w.try(subscriber.Config{Token: ann().String()}); err == nil || ending(err) != "refused 503" {
			t.Errorf("a session begins in a drain: %v", err)
		}
	})
}

func TestReadinessIsThatOfTheLog(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, w *world) {
		if err := w.room.Check(); err != nil {
			t.Error(err)
		}
		w.log.fail(context.DeadlineExceeded)
		time.Sleep(31 * time.Second)
		if w.room.Check() == nil {
			t.Error("ready without the log")
		}
		w.log.fail(nil)
		time.Sleep(10 * time.Second)
		if err := w.room.Check(); err != nil {
			t.Error(err)
		}
	})
}

// A replica that starts reads what its predecessor had, so that a rolling restart is no gap.
func TestTheNextReplicaHasWhatTheFormerHad(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, w *world) {
		s := w.dial(ann(), "tenant:acme")
		w.expect(s, "sub tenant:acme ok")
		cursor := s.Hello().Cursor
		w.publish("tenant:acme", "1")
		w.expect(s, "msg tenant:acme 1")
		second := serve(t, w.room.cfg, ports(w.log), w.log)
		again, err := second.try(subscriber.Config{Token: ann().String(), Channels: []string{"tenant:acme"}, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		w.publish("tenant:acme", "2")
		second.expect(again, "sub tenant:acme ok", "msg tenant:acme 1", "msg tenant:acme 2")
		second.end()
	})
}

// Records that were trimmed before they were read are a gap for everybody who heard the channel.
func TestATrimmedLogIsAGap(t *testing.T) {
	bubble(t, Config{Partitions: 1}, func(t *testing.T, w *world) {
		s := w.dial(ann(), "tenant:acme")
		w.expect(s, "sub tenant:acme ok")
		p := w.room.partitions[0]
		w.publish("tenant:acme", "1")
		w.expect(s, "msg tenant:acme 1")
		if !p.hand(w.ctx, portion{start: 10}) {
			t.Fatal("not taken")
		}
		w.expect(s, "gap channels ring")
		if got := p.next.Load(); got != 10 {
			t.Errorf("next is %d", got)
		}
	})
}

// Sockets that are cut in the middle of a frame hold the rest of that frame and nothing else, however much comes, and get the rest when they read again.
func TestOnlyTheFrameThatWasBegunIsHeld(t *testing.T) {
	bubble(t, Config{StallAfter: time.Minute}, func(t *testing.T, w *world) {
		s := w.dial(ann(), "tenant:acme")
		w.expect(s, "sub tenant:acme ok")
		most := 0
		for i := range 300 {
			w.log.append(record(4, "tenant:acme", fmt.Sprint(i), fmt.Sprintf("\"%0700d\"", 1), nil))
			synctest.Wait()
			for _, one := range w.room.all() {
				most = max(most, one.held())
			}
		}
		if most == 0 || most > 1024 {
			t.Errorf("%d bytes were held", most)
		}
		time.Sleep(20 * time.Second) // tried a hundred times in vain
		for i := range 300 {
			w.expect(s, fmt.Sprint("msg tenant:acme ", i))
		}
		w.expect(s, "nothing")
	})
}

// A client that is not read for the stall time is closed; the sweeper forgets it.
func TestAStallHasItsTime(t *testing.T) {
	bubble(t, Config{}, func(t *testing.T, w *world) {
		s, other := w.dial(ann(), "tenant:acme"), w.dial(ann())
		w.expect(s, "sub tenant:acme ok")
		w.pass(30*time.Minute, s, other) // half an hour without anything to take is no stall
		for i := range 100 {
			w.log.append(record(4, "tenant:acme", fmt.Sprint(i), fmt.Sprintf("\"%0700d\"", 1), nil))
		}
		go w.pass(time.Minute, other)
		time.Sleep(9 * time.Second)
		if n := w.room.Sessions(); n != 2 {
			t.Errorf("%d sessions after 9 s", n)
		}
		time.Sleep(4 * time.Second)
		if n := w.room.Sessions(); n != 1 {
			t.Errorf("%d sessions after 13 s", n)
		}
	})
}

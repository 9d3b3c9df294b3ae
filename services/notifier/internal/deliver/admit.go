package deliver

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/spillway/spillway/services/notifier/internal/core"
	"github.com/spillway/spillway/services/notifier/internal/deliver/socket"
)

// Path is where websockets are taken.
const Path = "/v1/ws"

// retryWithin is the time, in seconds, over which those that are refused are spread.
const retryWithin = 5

// What clients may make the replica hold before a whole message of them is there.
const (
	// maxHello bounds the first message: a token of the greatest length, a cursor, and some channels.
	maxHello = 10 << 10
	// strangersBytes is what all hellos together may take that are not whole, and assembling what all messages after hello may. A message's first bytes are
	// free: a hello with an ordinary token, and after it everything but a refresh, is never refused because of what others do.
	strangersBytes, freeHello = 4 << 20, 2 << 10
	assembling, freeMessage   = 12 << 20, 512
	// strangersShare is the part of all sessions that may be without a hello, and leastStrangers how many may be in any case. A hello is there within a
	// round trip, so this bounds who sends none, and not a crowd that comes back.
	strangersShare, leastStrangers = 8, 128
)

// ServeHTTP takes websockets at Path. It returns once the session has begun. Before Run has read every partition to its end, while the room is full and
// once Drain was called it answers 503 with Retry-After, before any upgrade.
func (r *Room) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path != Path {
		http.NotFound(w, req)
		return
	}
	address, _, err := net.SplitHostPort(req.RemoteAddr)
	if err != nil {
		address = req.RemoteAddr
	}
	if code := r.enter(address); code != 0 {
		r.meters.refused(code)
		w.Header().Set("Retry-After", strconv.Itoa(1+rand.IntN(retryWithin)))
		http.Error(w, code.Reason(), http.StatusServiceUnavailable)
		return
	}
	conn, err := socket.Accept(w, req, r.socket)
	if err != nil { // answered by Accept
		r.depart(address)
		return
	}
	r.begin(conn, address)
}

// enter counts a session in, or says why there can be none.
func (r *Room) enter(address string) core.Code {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.leaving:
		return core.CloseDraining
	case !r.running || !r.read():
		return core.CloseUnready
	case len(r.sessions)+r.entering >= r.cfg.Sessions || r.addresses[address] >= r.cfg.PerAddress ||
		r.strangers >= max(r.cfg.Sessions/strangersShare, leastStrangers):
		return core.CloseFull
	}
	r.entering++
	r.strangers++
	r.addresses[address]++
	r.readers.Add(1)
	return 0
}

// depart counts a session out that never began.
func (r *Room) depart(address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entering--
	r.strangers--
	r.left(address)
}

// left counts an address out. The caller holds mu.
func (r *Room) left(address string) {
	r.readers.Done()
	if r.addresses[address]--; r.addresses[address] == 0 {
		delete(r.addresses, address)
	}
}

// begin makes a session of a socket that was counted in.
func (r *Room) begin(conn Conn, address string) *session {
	s := &session{room: r, conn: conn, address: address, opened: time.Now(), since: time.Now()}
	// The first ping comes at any time within the interval, so that a storm of arrivals does not become one of pings.
	s.pinged = -rand.N(r.cfg.PingEvery)
	r.mu.Lock()
	r.entering--
	r.sessions[s] = struct{}{}
	over := !r.running || r.leaving
	r.mu.Unlock()
	if over { // Run or Drain did not see it
		s.close(core.CloseDraining)
	}
	go s.read()
	return s
}

// join counts a session of a user in, who is known from its hello on.
func (r *Room) join(user string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.users[user] >= r.cfg.PerUser {
		return false
	}
	r.users[user]++
	r.strangers--
	return true
}

// leave takes a session that is over out of everything.
func (r *Room) leave(s *session) {
	for _, t := range s.seated() {
		t.part.post(post{kind: leave, session: s})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, s)
	if s.user != "" {
		if r.users[s.user]--; r.users[s.user] == 0 {
			delete(r.users, s.user)
		}
	} else {
		r.strangers--
	}
	r.left(s.address)
}

// id names a session in logs and in its hello.
func newID() string { return fmt.Sprintf("%016x", rand.Uint64()) }

package subscriber

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Subprotocol is what the protocol is called in a handshake.
const Subprotocol = "spillway.v1"

// The values of Event.T that a caller sees. A caller ignores those that it does not know.
const (
	Hello    = "hello"    // the session is on: Session, Cursor, PingS, ExpiresAt, MaxIn
	Msg      = "msg"      // a notification: ID, Channel, Class, Key, TS, Data
	Cursor   = "cursor"   // everything before it is what Cursor covers
	Sub      = "sub"      // answers a subscribe: Channel, OK, Error
	Gap      = "gap"      // messages were missed, or may have been: Scope, Channel, Reason, Cursor
	Pressure = "pressure" // the product is under pressure: Level, Since, DelayedMS
	Go       = "go"       // the session will be closed with Code in AfterMS; then come back at once: Code, AfterMS
	Error    = "error"    // something that the client sent was not understood or over a limit: Code, Text
	ping     = "ping"
)

// Event is one frame of the server. Only the fields named beside the values of T are set.
type Event struct {
	T string `json:"t"`

	ID      string          `json:"id"`      // of the notification; that of the job for what a job of type notify sent
	Channel string          `json:"channel"` // canonical spelling
	Class   string          `json:"class"`   // EVENT, STATE or EPHEMERAL
	Key     string          `json:"key"`     // "": none
	TS      time.Time       `json:"ts"`      // when it was published, in milliseconds
	Data    json.RawMessage `json:"data"`    // one JSON value

	Cursor    string    `json:"cursor"`
	Session   string    `json:"session"`
	PingS     int       `json:"ping_s"`     // seconds between the server's pings
	ExpiresAt time.Time `json:"expires_at"` // of the token: Refresh before
	MaxIn     int       `json:"max_in"`     // longest text message that the server takes, in bytes

	OK     bool   `json:"ok"`
	Error  string `json:"error"`  // code of a Sub that is not OK
	Scope  string `json:"scope"`  // of a Gap: channels (any of the session's) or channel (the named one)
	Reason string `json:"reason"` // of a Gap: ring, cursor or rights

	Level     string    `json:"level"`
	Since     time.Time `json:"since"`
	DelayedMS int64     `json:"delayed_ms"`
	AfterMS   int64     `json:"after_ms"`
	Code      Code      `json:"code"`
	Text      string    `json:"text"`
}

// Code is a number in a Go (the close code that follows) and a word in an Error.
type Code struct {
	Number int
	Word   string
}

// UnmarshalJSON reads either.
func (c *Code) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &c.Word)
	}
	return json.Unmarshal(b, &c.Number)
}

// ErrMalformed means that the server sent what is not the protocol.
var ErrMalformed = errors.New("not protocol spillway.v1")

// Decode reads the frames of one text message of the server. Frames with an unknown T are among them.
func Decode(message []byte) ([]Event, error) {
	var events []Event
	for line := range bytes.Lines(message) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			// A frame of a later release may use a name of ours in another way; then only its t counts.
			var head struct {
				T string `json:"t"`
			}
			if json.Unmarshal(line, &head) != nil || known[head.T] {
				return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
			}
			e = Event{T: head.T}
		}
		if e.T == "" {
			return nil, fmt.Errorf("%w: no field t", ErrMalformed)
		}
		events = append(events, e)
	}
	if len(events) == 0 {
		return nil, fmt.Errorf("%w: empty message", ErrMalformed)
	}
	return events, nil
}

var known = map[string]bool{
	Hello: true, Msg: true, Cursor: true, Sub: true, Gap: true, Pressure: true, Go: true, Error: true, ping: true,
}

// Request is one frame of the client. The functions below make them; T decides which fields count.
type Request struct {
	T        string   `json:"t"`
	Auth     string   `json:"auth,omitempty"`
	Cursor   string   `json:"cursor,omitempty"`
	Channels []string `json:"channels,omitempty"`
	Channel  string   `json:"channel,omitempty"`
}

// Encode writes requests as one text message, one a line.
func Encode(requests ...Request) []byte {
	var b bytes.Buffer
	for i, r := range requests {
		if i > 0 {
			b.WriteByte('\n')
		}
		line, err := json.Marshal(r)
		if err != nil { // strings only
			panic(err)
		}
		b.Write(line)
	}
	return b.Bytes()
}

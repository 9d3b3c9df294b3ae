package frame

import (
	"encoding/json"
	"errors"
	"strconv"
	"time"
	"unicode/utf8"
)

// TimeFormat is how moments are spelt (ts, expires_at): RFC 3339 in UTC with milliseconds, what a browser's Date reads and writes.
const TimeFormat = "2006-01-02T15:04:05.000Z"

// What a gap covers.
const (
	// ScopeChannels: any channel of the session may have missed messages.
	ScopeChannels = "channels"
	// ScopeChannel: the named channel may have, the others did not.
	ScopeChannel = "channel"
)

// Why there is a gap.
const (
	// GapRing: the position is older than what the replica still holds.
	GapRing = "ring"
	// GapCursor: the cursor was not one of this user, tenant or cluster, or not a cursor at all; the session is live from now.
	GapCursor = "cursor"
	// GapRights: the refreshed token does not cover the channel any more; it is unsubscribed.
	GapRights = "rights"
)

// Codes of Error frames and errors of Sub frames.
const (
	// CodeInvalid: a message or a channel's name could not be understood.
	CodeInvalid = "INVALID"
	// CodeNotAllowed: the token's channels do not cover it.
	CodeNotAllowed = "NOT_ALLOWED"
	// CodeTooMany: the session has as many channels as it may have.
	CodeTooMany = "TOO_MANY_CHANNELS"
	// CodeRate: messages come faster than allowed; this one was ignored.
	CodeRate = "RATE"
	// CodeUnexpected: a frame that has no place now, such as a second hello.
	CodeUnexpected = "UNEXPECTED"
)

// ErrData means that a notification's data cannot be sent: it is not one JSON value in UTF-8. A client would drop the connection over it, come back and get it again.
var ErrData = errors.New("data is not JSON in UTF-8")

// Hello answers the client's hello.
type Hello struct {
	Session string        // id of the session, for logs
	Cursor  string        // where the session starts
	Ping    time.Duration // a client that hears nothing for twice as long may reconnect; whole seconds
	Expires time.Time     // of the token
	MaxIn   int           // longest text message of the client, in bytes
}

// Append writes the frame.
func (h Hello) Append(b []byte) []byte {
	b = appendText(append(b, `{"t":"hello","session":`...), h.Session)
	b = appendText(append(b, `,"cursor":`...), h.Cursor)
	b = strconv.AppendInt(append(b, `,"ping_s":`...), int64(h.Ping/time.Second), 10)
	b = appendTime(append(b, `,"expires_at":`...), h.Expires)
	b = strconv.AppendInt(append(b, `,"max_in":`...), int64(h.MaxIn), 10)
	return append(b, '}')
}

// Msg is one notification.
type Msg struct {
	ID      string
	Channel string
	Class   string    // EVENT, STATE or EPHEMERAL
	Key     string    // "": none
	At      time.Time // when it was published
	Data    []byte    // one JSON value
}

// Append writes the frame, or returns b as it was and ErrData. Line breaks in data, which JSON allows between its parts, become spaces.
func (m Msg) Append(b []byte) ([]byte, error) {
	if !utf8.Valid(m.Data) || !json.Valid(m.Data) {
		return b, ErrData
	}
	b = appendText(append(b, `{"t":"msg","id":`...), m.ID)
	b = appendText(append(b, `,"channel":`...), m.Channel)
	b = appendText(append(b, `,"class":`...), m.Class)
	if m.Key != "" {
		b = appendText(append(b, `,"key":`...), m.Key)
	}
	b = appendTime(append(b, `,"ts":`...), m.At)
	b = append(b, `,"data":`...)
	data := len(b)
	b = append(b, m.Data...)
	for i, c := range b[data:] {
		if c == '\n' || c == '\r' {
			b[data+i] = ' '
		}
	}
	return append(b, '}'), nil
}

// Cursor says where the client is now.
type Cursor struct{ Cursor string }

// Append writes the frame.
func (c Cursor) Append(b []byte) []byte {
	return append(appendText(append(b, `{"t":"cursor","cursor":`...), c.Cursor), '}')
}

// Sub answers a subscribe, and each channel of a hello.
type Sub struct {
	Channel string
	Error   string // "": ok; else a code
}

// Append writes the frame.
func (s Sub) Append(b []byte) []byte {
	b = appendText(append(b, `{"t":"sub","channel":`...), s.Channel)
	if s.Error == "" {
		return append(b, `,"ok":true}`...)
	}
	return append(appendText(append(b, `,"ok":false,"error":`...), s.Error), '}')
}

// Gap says that messages were missed, or may have been.
type Gap struct {
	Scope   string
	Channel string // of ScopeChannel
	Reason  string
	Cursor  string // where the session goes on
}

// Append writes the frame.
func (g Gap) Append(b []byte) []byte {
	b = appendText(append(b, `{"t":"gap","scope":`...), g.Scope)
	if g.Channel != "" {
		b = appendText(append(b, `,"channel":`...), g.Channel)
	}
	b = appendText(append(b, `,"reason":`...), g.Reason)
	return append(appendText(append(b, `,"cursor":`...), g.Cursor), '}')
}

// Go tells the client its slot: the server closes with Code when After has passed, and then the client comes back.
type Go struct {
	Code  int
	After time.Duration // whole milliseconds
}

// Append writes the frame.
func (g Go) Append(b []byte) []byte {
	b = strconv.AppendInt(append(b, `{"t":"go","code":`...), int64(g.Code), 10)
	b = strconv.AppendInt(append(b, `,"after_ms":`...), g.After.Milliseconds(), 10)
	return append(b, '}')
}

// Error answers what could not be understood or is over a limit. The session goes on.
type Error struct {
	Code string
	Text string // for people; at most 200 bytes are sent
}

// Append writes the frame.
func (e Error) Append(b []byte) []byte {
	text := e.Text
	if len(text) > maxErrorText {
		text = text[:maxErrorText]
	}
	b = appendText(append(b, `{"t":"error","code":`...), e.Code)
	return append(appendText(append(b, `,"text":`...), text), '}')
}

const maxErrorText = 200

// Ping asks for a pong.
const Ping = `{"t":"ping"}`

const lowerHex = "0123456789abcdef"

// appendText writes a JSON string. Bytes that are not UTF-8 become U+FFFD: a browser drops the connection over them.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c < ' ' || c == 0x7f:
				b = append(b, '\\', 'u', '0', '0', lowerHex[c>>4], lowerHex[c&15])
			default:
				b = append(b, c)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		b = utf8.AppendRune(b, r) // U+FFFD for what is no character
		i += n
	}
	return append(b, '"')
}

func appendTime(b []byte, t time.Time) []byte {
	return append(t.UTC().AppendFormat(append(b, '"'), TimeFormat), '"')
}

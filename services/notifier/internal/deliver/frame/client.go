package frame

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Bounds of what a client may send in one text message.
const (
	// MaxMessage bounds a text message of a client, in bytes; hello says it to clients as max_in.
	MaxMessage = 16 << 10
	// MaxObjects bounds the objects in one text message. A client that lists channels one by one needs 64 subscribes.
	MaxObjects = 64
	// MaxChannels bounds the list in a client's hello. A session may have fewer: what is beyond that is refused one by one, while a hello that exceeds
	// this is no frame and ends the session.
	MaxChannels = 256
	// maxDepth bounds the nesting of what is skipped. Our own frames have depth 2.
	maxDepth = 16
	// maxFields bounds the fields of one object, so that a small message cannot become a large map.
	maxFields = 32
	// maxT is how much is kept of a t that is not known, for a log line.
	maxT = 32
	// maxCursor bounds a cursor (1 KiB encoded) and maxChannel a channel's name (two parts of 128 bytes, each byte escaped).
	maxCursor  = 2 << 10
	maxChannel = 1 << 10
)

// ErrInvalid means that a client's message could not be understood. The session goes on: it is answered by an Error frame whose text is the error's.
var ErrInvalid = errors.New("not understood")

// Kind tells the frames of a client apart.
type Kind uint8

// The frames of a client. Unknown is one with a t that this release does not know: it is counted and otherwise ignored.
const (
	Unknown Kind = iota
	ClientHello
	Subscribe
	Unsubscribe
	Ack
	Refresh
	Pong
)

// kinds are the values of t.
var kinds = map[string]Kind{
	"hello": ClientHello, "subscribe": Subscribe, "unsubscribe": Unsubscribe, "ack": Ack, "refresh": Refresh, "pong": Pong,
}

// Client is one frame of a client. Only the fields of its kind are set.
type Client struct {
	Kind Kind
	// T is the t of an Unknown frame, cut to 32 bytes of valid UTF-8.
	T string
	// Auth is the token of ClientHello and Refresh; never empty in them. It is a secret: never log it.
	Auth string
	// Cursor is that of ClientHello ("": none) and Ack (never empty); at most 2 KiB, not judged here.
	Cursor string
	// Channels are those of ClientHello: at most MaxChannels, each not judged here.
	Channels []string
	// Channel is that of Subscribe and Unsubscribe, at most 1 KiB, not judged here.
	Channel string
}

// Decode reads one text message and appends its frames to dst. It never keeps a reference to message. The error is ErrInvalid; then none of the message's frames
// may be acted upon, although dst may have grown.
func Decode(message []byte, dst []Client) ([]Client, error) {
	if len(message) > MaxMessage {
		return dst, fmt.Errorf("%w: more than %d bytes", ErrInvalid, MaxMessage)
	}
	if !utf8.Valid(message) {
		return dst, fmt.Errorf("%w: not UTF-8", ErrInvalid)
	}
	objects := 0
	for line := range bytes.Lines(message) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if objects++; objects > MaxObjects {
			return dst, fmt.Errorf("%w: more than %d objects in a message", ErrInvalid, MaxObjects)
		}
		c, err := decode(line)
		if err != nil {
			return dst, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		dst = append(dst, c)
	}
	if objects == 0 {
		return dst, fmt.Errorf("%w: empty", ErrInvalid)
	}
	return dst, nil
}

// decode reads one object. A map and not a struct, because encoding/json would take the field T for t.
func decode(line []byte) (Client, error) {
	if err := bounded(line); err != nil {
		return Client{}, err
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil || fields == nil {
		return Client{}, errors.New("not a JSON object on one line")
	}
	var t string
	if err := text(fields, "t", &t, MaxMessage); err != nil {
		return Client{}, err
	}
	if t == "" {
		return Client{}, errors.New("no field t")
	}
	c := Client{Kind: kinds[t]}
	var err error
	switch c.Kind {
	case ClientHello:
		err = errors.Join(need(fields, "auth", &c.Auth, MaxMessage), text(fields, "cursor", &c.Cursor, maxCursor), list(fields, &c.Channels))
	case Subscribe, Unsubscribe:
		err = need(fields, "channel", &c.Channel, maxChannel)
	case Ack:
		err = need(fields, "cursor", &c.Cursor, maxCursor)
	case Refresh:
		err = need(fields, "auth", &c.Auth, MaxMessage)
	case Unknown:
		c.T = cut(t)
	case Pong:
	}
	if err != nil {
		return Client{}, fmt.Errorf("%s: %w", t, err)
	}
	return c, nil
}

// bounded looks at the brackets and commas of a line before anything is allocated for it.
func bounded(line []byte) error {
	depth, fields, quoted := 0, 1, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			if depth++; depth > maxDepth {
				return fmt.Errorf("nested deeper than %d", maxDepth)
			}
		case c == '}' || c == ']':
			depth--
		case c == ',' && depth == 1:
			if fields++; fields > maxFields {
				return fmt.Errorf("more than %d fields", maxFields)
			}
		}
	}
	return nil
}

// text reads an optional string field; null is as good as absent.
func text(fields map[string]json.RawMessage, name string, to *string, limit int) error {
	raw, ok := fields[name]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return fmt.Errorf("field %s is not a string", name)
	}
	if len(*to) > limit {
		return fmt.Errorf("field %s has more than %d bytes", name, limit)
	}
	return nil
}

// need reads a string field that must be there.
func need(fields map[string]json.RawMessage, name string, to *string, limit int) error {
	if err := text(fields, name, to, limit); err != nil {
		return err
	}
	if *to == "" {
		return fmt.Errorf("no field %s", name)
	}
	return nil
}

// list reads hello's channels.
func list(fields map[string]json.RawMessage, to *[]string) error {
	raw, ok := fields["channels"]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return errors.New("field channels is not a list of strings")
	}
	if len(*to) > MaxChannels {
		return fmt.Errorf("field channels has more than %d", MaxChannels)
	}
	for _, channel := range *to {
		if channel == "" || len(channel) > maxChannel {
			return fmt.Errorf("field channels has one of %d bytes, want 1 to %d", len(channel), maxChannel)
		}
	}
	return nil
}

// cut keeps the head of t, without half a character.
func cut(t string) string {
	if len(t) <= maxT {
		return t
	}
	n := maxT
	for n > 0 && !utf8.RuneStart(t[n]) {
		n--
	}
	return t[:n]
}

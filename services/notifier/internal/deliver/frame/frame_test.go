package frame_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spillway/spillway/pkg/subscriber"
	"github.com/spillway/spillway/services/notifier/internal/deliver/frame"
)

var at = time.Date(2026, 3, 4, 5, 6, 7, 89_999_999, time.FixedZone("", 3600))

// TestServerToClient: what this package writes is what pkg/subscriber reads, also when the texts are hostile.
func TestServerToClient(t *testing.T) {
	utc := at.UTC().Truncate(time.Millisecond)
	nasty := "a\"\\\n\x00\x7f</script>é\u2028"
	msg := func(m frame.Msg) []byte {
		b, err := m.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for i, c := range []struct {
		frame []byte
		want  subscriber.Event
	}{
		{frame.Hello{Session: "s", Cursor: "c", Ping: 25 * time.Second, Expires: at, MaxIn: 16384}.Append(nil), subscriber.Event{T: "hello", Session: "s", Cursor: "c", PingS: 25, ExpiresAt: utc, MaxIn: 16384}},
		{msg(frame.Msg{ID: nasty, Channel: nasty, Class: "EVENT", Key: nasty, At: at, Data: []byte("{\"a\":\n[1,\r\n2]}")}), subscriber.Event{T: "msg", ID: nasty, Channel: nasty, Class: "EVENT", Key: nasty, TS: utc, Data: json.RawMessage(`{"a": [1,  2]}`)}},
		{msg(frame.Msg{Data: []byte(`null`)}), subscriber.Event{T: "msg", Data: json.RawMessage("null")}},
		{frame.Cursor{Cursor: nasty}.Append(nil), subscriber.Event{T: "cursor", Cursor: nasty}},
		{frame.Sub{Channel: nasty}.Append(nil), subscriber.Event{T: "sub", Channel: nasty, OK: true}},
		{frame.Sub{Channel: "x", Error: frame.CodeTooMany}.Append(nil), subscriber.Event{T: "sub", Channel: "x", Error: "TOO_MANY_CHANNELS"}},
		{frame.Gap{Scope: frame.ScopeChannels, Reason: frame.GapRing, Cursor: "c"}.Append(nil), subscriber.Event{T: "gap", Scope: "channels", Reason: "ring", Cursor: "c"}},
		{frame.Gap{Scope: frame.ScopeChannel, Channel: "x", Reason: frame.GapRights, Cursor: "c"}.Append(nil), subscriber.Event{T: "gap", Scope: "channel", Channel: "x", Reason: "rights", Cursor: "c"}},
		{frame.Go{Code: 4000, After: 1500 * time.Millisecond}.Append(nil), subscriber.Event{T: "go", Code: subscriber.Code{Number: 4000}, AfterMS: 1500}},
		{frame.Error{Code: frame.CodeRate, Text: strings.Repeat("x", 300)}.Append(nil), subscriber.Event{T: "error", Code: subscriber.Code{Word: "RATE"}, Text: strings.Repeat("x", 200)}},
		{frame.Error{Code: "X", Text: "\xff\xc3"}.Append(nil), subscriber.Event{T: "error", Code: subscriber.Code{Word: "X"}, Text: "\ufffd\ufffd"}},
		{[]byte(frame.Ping), subscriber.Event{T: "ping"}},
	} {
		if !json.Valid(c.frame) || !utf8.Valid(c.frame) || bytes.ContainsAny(c.frame, "\r\n") {
			t.Errorf("%d: %q", i, c.frame)
		}
		got, err := subscriber.Decode(c.frame)
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], c.want) {
			t.Errorf("%d: %s\n got %+v, %v\nwant %+v", i, c.frame, got, err, c.want)
		}
	}
}

func TestDataThatCannotBeSent(t *testing.T) {
	for _, data := range []string{"", "{", "1 2", "\"\xff\"", "nul", "{\"a\":1}\n{\"t\":\"go\"}", "\"a\nb\""} {
		b, err := frame.Msg{Data: []byte(data)}.Append([]byte("before"))
		if !errors.Is(err, frame.ErrData) || string(b) != "before" {
			t.Errorf("%q: %q, %v", data, b, err)
		}
	}
}

// TestClientToServer: what pkg/subscriber writes is what this package reads.
func TestClientToServer(t *testing.T) {
	message := subscriber.Encode(
		subscriber.Request{T: "hello", Auth: "tok", Cursor: "c", Channels: []string{"a", "b"}}, subscriber.Request{T: "subscribe", Channel: "user:t:é<"},
		subscriber.Request{T: "unsubscribe", Channel: "x"}, subscriber.Request{T: "ack", Cursor: "c"}, subscriber.Request{T: "refresh", Auth: "tok"},
		subscriber.Request{T: "pong"}, subscriber.Request{T: "wizard" + strings.Repeat("é", 20), Channel: "x"})
	got, err := frame.Decode(message, nil)
	want := []frame.Client{
		{Kind: frame.ClientHello, Auth: "tok", Cursor: "c", Channels: []string{"a", "b"}}, {Kind: frame.Subscribe, Channel: "user:t:é<"},
		{Kind: frame.Unsubscribe, Channel: "x"}, {Kind: frame.Ack, Cursor: "c"}, {Kind: frame.Refresh, Auth: "tok"},
		{Kind: frame.Pong}, {Kind: frame.Unknown, T: "wizard" + strings.Repeat("é", 13)},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestDecodeTolerates(t *testing.T) {
	for message, want := range map[string]frame.Client{
		"\n \r\n{\"t\":\"pong\"}\r\n\n":                     {Kind: frame.Pong},
		`{"t":"ack","cursor":"c","later":{"a":[[{}]]}}`:     {Kind: frame.Ack, Cursor: "c"},
		`{"T":"go","t":"pong"}`:                             {Kind: frame.Pong},
		`{"t":"hello","auth":"a","Auth":"b","cursor":null}`: {Kind: frame.ClientHello, Auth: "a"},
		`{"t":"hello","auth":"a","channels":null}`:          {Kind: frame.ClientHello, Auth: "a"},
		`{"t":"unheard","auth":7}`:                          {Kind: frame.Unknown, T: "unheard"},
		`{"t":"pong","x":"{[{[{[{[{[{[{[{[{[{[,,,\"]]"}`:    {Kind: frame.Pong},
	} {
		got, err := frame.Decode([]byte(message), nil)
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], want) {
			t.Errorf("%s: %+v, %v", message, got, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	for name, message := range map[string]string{
		"empty":               "",
		"blank":               " \n\r\n ",
		"not JSON":            "hello",
		"a list":              `[{"t":"pong"}]`,
		"null":                `null`,
		"a number":            `7`,
		"over two lines":      "{\"t\":\n\"pong\"}",
		"two on a line":       `{"t":"pong"}{"t":"pong"}`,
		"the second is bad":   "{\"t\":\"pong\"}\n{",
		"no t":                `{"channel":"x"}`,
		"empty t":             `{"t":""}`,
		"t is no string":      `{"t":7}`,
		"t of another case":   `{"T":"pong"}`,
		"hello without auth":  `{"t":"hello"}`,
		"auth is no string":   `{"t":"hello","auth":{}}`,
		"channels no list":    `{"t":"hello","auth":"a","channels":"x"}`,
		"channels of numbers": `{"t":"hello","auth":"a","channels":[1]}`,
		"an empty channel":    `{"t":"hello","auth":"a","channels":[""]}`,
		"257 channels":        `{"t":"hello","auth":"a","channels":["x"` + strings.Repeat(`,"x"`, 256) + `]}`,
		"subscribe nothing":   `{"t":"subscribe"}`,
		"a long channel":      `{"t":"subscribe","channel":"` + long(1025) + `"}`,
		"a long cursor":       `{"t":"ack","cursor":"` + long(2049) + `"}`,
		"refresh without":     `{"t":"refresh","auth":null}`,
		"deep":                `{"t":"pong","x":` + strings.Repeat("[", 16) + strings.Repeat("]", 16) + `}`,
		"8,000 deep":          `{"t":"pong","x":` + strings.Repeat("[", 8000) + strings.Repeat("]", 8000) + `}`,
		"33 fields":           `{"t":"pong"` + strings.Repeat(`,"a":1`, 32) + `}`,
		"65 objects":          strings.Repeat("{\"t\":\"pong\"}\n", 65),
		"too long":            `{"t":"pong","x":"` + long(16<<10) + `"}`,
		"not UTF-8":           "{\"t\":\"\xff\"}",
	} {
		if got, err := frame.Decode([]byte(message), nil); !errors.Is(err, frame.ErrInvalid) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// FuzzDecode: a client's bytes never panic; what is decoded is within its bounds, and means the same when it is said again.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"t":"hello","auth":"a","cursor":"c","channels":["user:t:u"]}` + "\n" + `{"t":"subscribe","channel":"x"}`))
	f.Add([]byte(`{"t":"unheard","x":[{"a":"\u0000\""}]}`))
	f.Add([]byte(`{"t":"refresh","auth":"\ud800"}`))
	f.Add([]byte(`{"t":"ack","cursor":"c","t":"pong"}`))
	f.Add([]byte("{\"t\":\"pong\"}\r\n\n{}"))
	f.Fuzz(func(t *testing.T, message []byte) {
		before := bytes.Clone(message)
		got, err := frame.Decode(message, nil)
		if !bytes.Equal(before, message) {
			t.Fatal("the message was changed")
		}
		if err != nil {
			if !errors.Is(err, frame.ErrInvalid) || len(err.Error()) > 2*len(message)+500 {
				t.Fatal(err)
			}
			return
		}
		if len(got) == 0 || len(got) > frame.MaxObjects || len(message) > frame.MaxMessage {
			t.Fatal(len(got))
		}
		names := map[frame.Kind]string{frame.ClientHello: "hello", frame.Subscribe: "subscribe", frame.Unsubscribe: "unsubscribe", frame.Ack: "ack", frame.Refresh: "refresh", frame.Pong: "pong"}
		for _, c := range got {
			if len(c.T) > 32 || len(c.Channels) > frame.MaxChannels || (c.Kind == frame.Unknown) != (c.T != "") {
				t.Fatalf("%+v", c)
			}
			again := subscriber.Encode(subscriber.Request{T: names[c.Kind] + c.T, Auth: c.Auth, Cursor: c.Cursor, Channels: c.Channels, Channel: c.Channel})
			if len(again) > frame.MaxMessage { // escapes
				continue
			}
			if len(c.Channels) == 0 {
				c.Channels = nil
			}
			if twice, err := frame.Decode(again, nil); err != nil || len(twice) != 1 || !reflect.DeepEqual(twice[0], c) {
				t.Fatalf("%s: %+v, %v, want %+v", again, twice, err, c)
			}
		}
	})
}

// BenchmarkMsg is what a partition's actor pays once for each notification.
func BenchmarkMsg(b *testing.B) {
	m := frame.Msg{ID: "0198c0e4-7c5a-7d2e-8f3a-000000000000", Channel: "user:tenant-1:anna", Class: "EVENT", At: at, Data: fmt.Appendf(nil, `{"text":%q}`, strings.Repeat("x", 240))}
	var buffer []byte
	for b.Loop() {
		buffer, _ = m.Append(buffer[:0])
	}
	b.SetBytes(int64(len(buffer)))
}

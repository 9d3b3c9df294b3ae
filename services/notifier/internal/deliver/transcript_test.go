package deliver

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/spillway/spillway/pkg/subscriber"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

func protocol(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../../../docs/reference/websocket.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestCloseCodesAreInTheProtocol: each code with its reason, and no other.
func TestCloseCodesAreInTheProtocol(t *testing.T) {
	var want strings.Builder
	for c := core.Code(4000); c < 4300; c++ {
		if c.Reason() != "" {
			fmt.Fprintf(&want, "| %d | %s |\n", c, c.Reason())
		}
	}
	var got strings.Builder
	for line := range strings.Lines(protocol(t)) {
		if code, err := strconv.Atoi(strings.Trim(line[:min(len(line), 7)], "| ")); err == nil && code >= 4000 {
			got.WriteString(line)
		}
	}
	if got.String() != want.String() {
		t.Errorf("docs/reference/websocket.md has\n%s\nwant\n%s", got.String(), want.String())
	}
}

// TestTranscripts runs what the protocol's document shows against a room.
func TestTranscripts(t *testing.T) {
	blocks := strings.Split(protocol(t), "```transcript\n")[1:]
	if len(blocks) < 8 {
		t.Fatalf("only %d transcripts were found", len(blocks))
	}
	for i, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		t.Run(fmt.Sprint(i+1), func(t *testing.T) {
			bubble(t, Config{}, func(t *testing.T, w *world) {
				less, bob := ann(), ann()
				less.Patterns = []string{"user:acme:ann"}
				bob.User, bob.Patterns = "bob", []string{"user:acme:bob"}
				p := play{w: w, names: map[string]string{"$ann": ann().String(), "$ann-less": less.String(), "$bob": bob.String()}}
				p.connect()
				for line := range strings.Lines(block) {
					p.line(strings.TrimSpace(line))
					if t.Failed() {
						t.Errorf("at %s", line)
						break
					}
				}
				_ = p.client.ws.CloseNow()
			})
		})
	}
}

// play is a transcript that runs.
type play struct {
	w      *world
	client *raw
	names  map[string]string
	heard  []string // lines of a message that were not looked at yet
}

func (p *play) connect() {
	client, err := p.w.raw()
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.client, p.heard = client, nil
}

func (p *play) line(line string) {
	who, what, _ := strings.Cut(line, " ")
	switch {
	case line == "C binary":
		if err := p.client.ws.Write(p.w.ctx, websocket.MessageBinary, []byte("x")); err != nil {
			p.w.t.Error(err)
		}
	case who == "C":
		p.say(what)
	case who == "S":
		p.hear(what)
	case who == "+":
		p.happen(what)
	default:
		p.w.t.Errorf("who is %q?", who)
	}
}

// say sends a line, with names replaced by what they stand for. What a client of ours sends is what the codec reads.
func (p *play) say(line string) {
	var fields map[string]any
	if json.Unmarshal([]byte(line), &fields) == nil {
		for k, v := range fields {
			if text, ok := v.(string); ok && p.names[text] != "" {
				fields[k] = p.names[text]
			}
		}
		b, err := json.Marshal(fields)
		if err != nil {
			p.w.t.Fatal(err)
		}
		line = string(b)
	}
	p.client.write(line)
}

// hear compares the next line of the server.
func (p *play) hear(want string) {
	if len(p.heard) == 0 {
		ctx, cancel := context.WithTimeout(p.w.ctx, 20*time.Second)
		defer cancel()
		_, message, err := p.client.ws.Read(ctx)
		if code := websocket.CloseStatus(err); code > 0 {
			if got := fmt.Sprint("close ", int(code)); got != want {
				p.w.t.Errorf("heard %s", got)
			}
			return
		}
		if err != nil {
			p.w.t.Errorf("heard %v", err)
			return
		}
		p.heard = strings.Split(string(message), "\n")
	}
	line := p.heard[0]
	p.heard = p.heard[1:]
	if _, err := subscriber.Decode([]byte(line)); err != nil {
		p.w.t.Errorf("the client's codec: %v", err)
	}
	var got, wanted map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		p.w.t.Errorf("heard %s: %v", line, err)
		return
	}
	if err := json.Unmarshal([]byte(want), &wanted); err != nil {
		wanted = map[string]any{"t": want} // a close
	}
	if t := got["t"]; t != wanted["t"] && (t == "ping" || t == "cursor") { // which come at times of the session's own
		p.hear(want)
		return
	}
	for k, v := range maps.Clone(wanted) {
		text, _ := v.(string)
		if _, there := got[k]; there && text == "…" {
			wanted[k] = got[k]
		}
		if name, is := got[k].(string); is && strings.HasPrefix(text, "$") {
			p.names[text], wanted[k] = name, name
		}
	}
	if !reflect.DeepEqual(got, wanted) {
		p.w.t.Errorf("heard %s at %v", line, time.Now())
	}
}

func (p *play) happen(what string) {
	synctest.Wait() // what was said before is done
	words := strings.SplitN(what, " ", 4)
	switch words[0] {
	case "publish":
		p.w.log.append(record(p.w.room.cfg.Partitions, core.Channel(words[1]), words[2], words[3], nil))
	case "cut":
		_ = p.client.ws.CloseNow()
	case "connect":
		_ = p.client.ws.CloseNow()
		p.connect()
	case "drain":
		ctx, cancel := context.WithTimeout(p.w.ctx, 10*time.Second)
		p.w.t.Cleanup(cancel)
		go p.w.room.Drain(ctx)
	default:
		d, err := time.ParseDuration(what)
		if err != nil {
			p.w.t.Fatal(err)
		}
		time.Sleep(d)
	}
}

package plain

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// writeWithin is the ordinary deadline of a write to a client.
const writeWithin = 10 * time.Second

// hub has the websocket clients by channel.
type hub struct {
	mu       sync.Mutex
	channels map[string][]*websocket.Conn
}

func newHub() *hub { return &hub{channels: make(map[string][]*websocket.Conn)} }

// ServeHTTP accepts a client of the channel that the query names.
func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // it has been answered
	}
	channel := r.URL.Query().Get("channel")
	h.mu.Lock()
	h.channels[channel] = append(h.channels[channel], conn)
	h.mu.Unlock()
	ctx := conn.CloseRead(context.WithoutCancel(r.Context())) // ends with the connection
	<-ctx.Done()
	h.drop(channel, conn)
}

// send writes to every client of a channel, one after the other, as the loops
// of most hubs do. A client that cannot be written to is dropped.
func (h *hub) send(channel string, data []byte) {
	h.mu.Lock()
	clients := slices.Clone(h.channels[channel])
	h.mu.Unlock()
	for _, c := range clients {
		ctx, cancel := context.WithTimeout(context.Background(), writeWithin)
		err := c.Write(ctx, websocket.MessageText, data)
		cancel()
		if err != nil {
			h.drop(channel, c)
		}
	}
}

func (h *hub) drop(channel string, conn *websocket.Conn) {
	h.mu.Lock()
	h.channels[channel] = slices.DeleteFunc(h.channels[channel], func(c *websocket.Conn) bool { return c == conn })
	h.mu.Unlock()
	_ = conn.CloseNow()
}

package deliver

import (
	"context"
	"net"
	"net/http"

	"github.com/coder/websocket"

	"github.com/spillway/spillway/pkg/subscriber"
)

// raw is a client that says only what the test says.
type raw struct {
	w  *world
	ws *websocket.Conn
}

func (w *world) raw() (*raw, error) {
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return w.net.DialContext(ctx, network, address)
		},
		DisableKeepAlives: true,
	}}
	ws, _, err := websocket.Dial(w.ctx, "ws://notifier"+Path, &websocket.DialOptions{HTTPClient: client, Subprotocols: []string{subscriber.Subprotocol}})
	return &raw{w: w, ws: ws}, err
}

func (c *raw) write(text string) {
	c.w.t.Helper()
	if err := c.ws.Write(c.w.ctx, websocket.MessageText, []byte(text)); err != nil {
		c.w.t.Fatal(err)
	}
}

func (c *raw) read() (string, error) {
	_, message, err := c.ws.Read(c.w.ctx)
	if err != nil {
		if code := websocket.CloseStatus(err); code > 0 {
			err = &subscriber.Closed{Code: int(code)}
		}
		_ = c.ws.CloseNow()
	}
	return string(message), err
}

package rpc_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
)

func TestAdmin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := rpctest.NewNetwork()
		broken := true
		a, err := rpc.NewAdmin(rpc.AdminConfig{
			Listener: network.Listen("admin"), Log: slog.New(slog.DiscardHandler),
			Checks: func(context.Context) []rpc.Check {
				return []rpc.Check{{Name: "control", OK: true}, {Name: "broker", OK: !broken, Detail: "no answer\nfor 3 s"}}
			},
			Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "a_metric 1") }),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return network.Dial(ctx, "admin") }}}
		get := func(path string) (int, string) {
			t.Helper()
			r, err := client.Get("http://admin" + path)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			return r.StatusCode, string(body)
		}
		lines := `{"name":"control","ok":true}` + "\n" + `{"name":"broker","ok":%v,"detail":"no answer\nfor 3 s"}` + "\n"
		for path, want := range map[string]string{
			"/livez": "200 ", "/readyz": "503 " + fmt.Sprintf(lines, false), "/metrics": "200 a_metric 1",
			"/": "404 404 page not found\n", "/debug/pprof/": "404 404 page not found\n",
		} {
			if code, body := get(path); fmt.Sprint(code, " ", body) != want {
				t.Errorf("%s: %d %q, want %q", path, code, body, want)
			}
		}
		broken = false
		if code, body := get("/readyz"); code != 200 || body != fmt.Sprintf(lines, true) {
			t.Errorf("%d %s", code, body)
		}
		client.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

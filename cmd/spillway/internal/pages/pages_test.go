package pages

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/spillway/spillway/pkg/rpc"
)

// serve serves pages on a free port for a test and returns their address.
func serve(t *testing.T, change func(*Config)) string {
	t.Helper()
	config := Config{
		Websocket: func() string { return "ws://127.0.0.1:7422/v1/ws" },
		Token:     func(user, tenant string) (string, error) { return "token of " + user + " " + tenant, nil },
	}
	if change != nil {
		change(&config)
	}
	p, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, l) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

// ask sends one request; a header that is set to "" is left out.
func ask(t *testing.T, method, address, path, body string, headers map[string]string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://"+address+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Origin", "http://"+address)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Spillway-Page", "1")
	}
	for name, value := range headers {
		switch {
		case name == "Host":
			r.Host = value
		case value == "":
			r.Header.Del(name)
		default:
			r.Header.Set(name, value)
		}
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

const me = `{"user": "alice", "tenant": "acme"}`

// S30: what a browser may do with these pages is said in every answer, also in refusals.
func TestEveryAnswerIsProtected(t *testing.T) {
	address := serve(t, nil)
	for _, path := range []string{"/", "/inbox", "/assets/inbox.js", "/assets/style.css", "/assets/icon.svg", "/nothing"} {
		resp, _ := ask(t, "GET", address, path, "", nil)
		csp := resp.Header.Get("Content-Security-Policy")
		for _, want := range []string{
			"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self' ws://127.0.0.1:7422", "frame-ancestors 'none'", "base-uri 'none'",
			"form-action 'none'", "require-trusted-types-for 'script'", "trusted-types 'none'",
		} {
			if !strings.Contains("; "+csp+";", "; "+want+";") {
				t.Errorf("%s: no %q in %q", path, want, csp)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") {
			t.Errorf("%s: %q", path, csp)
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "Cache-Control": "no-store",
			"Cross-Origin-Resource-Policy": "same-origin", "Access-Control-Allow-Origin": "",
		} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
	}
}

// A websocket that is none must not become a part of the policy.
func TestPolicyTakesOnlyAWebsocketsOrigin(t *testing.T) {
	for address, want := range map[string]string{
		"ws://127.0.0.1:7422/v1/ws": "ws://127.0.0.1:7422", "wss://n.example/v1/ws": "wss://n.example", "": "", "http://127.0.0.1:1/": "",
		"ws://a;script-src *": "", "ws:opaque": "", "ws://a b/": "", "ws://": "",
	} {
		if got := socketOrigin(address); got != want {
			t.Errorf("%q: %q, want %q", address, got, want)
		}
	}
}

// A name that somebody rebinds to loopback gets nothing, whatever it asks for.
func TestOnlyItsOwnNamesAreServed(t *testing.T) {
	address := serve(t, nil)
	_, port, _ := net.SplitHostPort(address)
	for host, want := range map[string]int{
		address: 200, "localhost:" + port: 200,
		"localhost": 421, "127.0.0.1": 421, "evil.example:" + port: 421, "evil.example": 421, "127.0.0.1:1": 421, "localhost.evil.example:" + port: 421,
		"127.0.0.1.evil.example:" + port: 421, "127.0.0.1:" + port + ".evil.example": 421, "[::1]:" + port: 421, "0.0.0.0:" + port: 421, "2130706433:" + port: 421,
	} {
		for _, path := range []string{"/", "/inbox"} {
			if resp, _ := ask(t, "GET", address, path, "", map[string]string{"Host": host}); resp.StatusCode != want {
				t.Errorf("GET %s of %s: %d, want %d", path, host, resp.StatusCode, want)
			}
		}
		resp, body := ask(t, "POST", address, "/session", me, map[string]string{"Host": host, "Origin": "http://" + host})
		if resp.StatusCode != want || want != 200 && strings.Contains(body, "token of") {
			t.Errorf("POST /session of %s: %d, want %d: %s", host, resp.StatusCode, want, body)
		}
	}
}

// S24: no other page gets a token or publishes, by script, form or preflight, and nothing changes on a GET.
func TestOnlyThesePagesGetATokenOrPublish(t *testing.T) {
	published := 0
	address := serve(t, func(c *Config) {
		c.Publish = func(context.Context, Notification) (string, error) { published++; return "id", nil }
	})
	_, port, _ := net.SplitHostPort(address)
	for name, headers := range map[string]map[string]string{
		"no header of ours":    {"Spillway-Page": ""},
		"another page":         {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
		"another page, lying":  {"Origin": "https://evil.example"},
		"another port":         {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"},
		"the other name of it": {"Origin": "http://localhost:" + port},
		"https":                {"Origin": "https://" + address},
		"null":                 {"Origin": "null"},
		"no origin":            {"Origin": ""},
		"same site only":       {"Sec-Fetch-Site": "same-site"},
		"typed address":        {"Sec-Fetch-Site": "none"},
	} {
		for path, body := range map[string]string{"/session": me, "/publish": `{"tenant": "acme", "channel": "tenant:acme", "data": 1}`} {
			if resp, got := ask(t, "POST", address, path, body, headers); resp.StatusCode != http.StatusForbidden || strings.Contains(got, "token of") {
				t.Errorf("%s: POST %s: %d %s", name, path, resp.StatusCode, got)
			}
		}
	}
	for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""} {
		if resp, _ := ask(t, "POST", address, "/session", me, map[string]string{"Content-Type": kind}); resp.StatusCode != http.StatusUnsupportedMediaType {
			t.Errorf("content type %q: %d", kind, resp.StatusCode)
		}
	}
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"} {
		for _, path := range []string{"/session", "/publish"} {
			resp, _ := ask(t, method, address, path+"?user=alice&tenant=acme", "", map[string]string{
				"Origin": "https://evil.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "spillway-page,content-type",
			})
			if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s %s: %d", method, path, resp.StatusCode)
			}
		}
	}
	if published != 0 {
		t.Errorf("%d were published", published)
	}
}

func TestSessionGivesATokenForTheUser(t *testing.T) {
	claims := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp": %d}`, time.Now().Add(10*time.Minute).Unix()))
	address := serve(t, func(c *Config) {
		c.Token = func(user, tenant string) (string, error) {
			if user != "Zoë" || tenant != "acme" {
				t.Errorf("token for %q of %q", user, tenant)
			}
			return "h." + claims + ".s", nil
		}
	})
	resp, body := ask(t, "POST", address, "/session", `{"user": "Zoë", "tenant": "acme"}`, nil)
	var got grant
	if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %s: %v", resp.StatusCode, body, err)
	}
	if got.Token != "h."+claims+".s" || got.Websocket != "ws://127.0.0.1:7422/v1/ws" || got.Publish {
		t.Errorf("%+v", got)
	}
	if life := time.Duration(got.ExpiresInMS) * time.Millisecond; life < 9*time.Minute || life > 10*time.Minute {
		t.Errorf("good for %v, want about 10 min", life)
	}
	for _, bad := range []string{``, `{}`, `[]`, `{"user": "", "tenant": "acme"}`, `{"user": "a\u0000", "tenant": "acme"}`, `{"user": "a", "tenant": 1}`,
		`{"user": "a", "tenant": "` + strings.Repeat("x", 129) + `"}`} {
		if resp, body := ask(t, "POST", address, "/session", bad, nil); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", bad, resp.StatusCode, body)
		}
	}
	if resp, _ := ask(t, "POST", address, "/session", `{"user": "`+strings.Repeat("x", maxBody)+`"}`, nil); resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a body over the limit: %d", resp.StatusCode)
	}
}

func TestWithoutANotifierThereIsNoSession(t *testing.T) {
	address := serve(t, func(c *Config) { c.Websocket = func() string { return "" } })
	if resp, body := ask(t, "POST", address, "/session", me, nil); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if _, body := ask(t, "GET", address, "/", "", nil); !strings.Contains(body, "No notifier runs here") || strings.Contains(body, `href="/inbox"`) {
		t.Errorf("the first page:\n%s", body)
	}
}

func TestPublishHandsOnWhatWasTyped(t *testing.T) {
	var got Notification
	fail := error(nil)
	address := serve(t, func(c *Config) {
		c.Publish = func(ctx context.Context, n Notification) (string, error) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("no deadline")
			}
			got = n
			return "an-id", fail
		}
	})
	const body = `{"tenant": "acme", "channel": "user:acme:alice", "data": {"title": "<b>&"}}`
	if resp, answer := ask(t, "POST", address, "/publish", body, nil); resp.StatusCode != 200 || answer != `{"id":"an-id"}` {
		t.Errorf("%d %s", resp.StatusCode, answer)
	}
	if got.Tenant != "acme" || got.Channel != "user:acme:alice" || string(got.Data) != `{"title": "<b>&"}` {
		t.Errorf("%+v, data %s", got, got.Data)
	}
	fail = errors.New("the log is away")
	if resp, answer := ask(t, "POST", address, "/publish", body, nil); resp.StatusCode != http.StatusBadGateway || answer != `{"error":"the log is away"}` {
		t.Errorf("%d %s", resp.StatusCode, answer)
	}
	fail = fmt.Errorf("publish: %w", (&rpc.Error{
		Code: codes.InvalidArgument, Message: "1 fields are invalid", Violations: []rpc.Violation{{Field: "channel", Description: "is of another tenant"}},
	}).Err())
	if resp, answer := ask(t, "POST", address, "/publish", body, nil); resp.StatusCode != http.StatusBadRequest || answer != `{"error":"channel: is of another tenant"}` {
		t.Errorf("%d %s", resp.StatusCode, answer)
	}
	fail = fmt.Errorf("publish: %w", errors.New("rpc error: code = ResourceExhausted desc = over its publish_rate"))
	if _, answer := ask(t, "POST", address, "/publish", body, nil); answer != `{"error":"over its publish_rate"}` {
		t.Error(answer)
	}
	for bad, want := range map[string]int{
		`{"tenant": "acme", "channel": "tenant:acme"}`:                                                   400,
		`{"tenant": "", "channel": "tenant:acme", "data": 1}`:                                            400,
		`{"tenant": "acme", "channel": "", "data": 1}`:                                                   400,
		`{"tenant": "acme", "channel": "tenant:acme", "data": {]}`:                                       400,
		`{"tenant": "acme", "channel": "tenant:acme", "data": "` + strings.Repeat("x", 16<<10) + `"}`:    413,
		`{"tenant": "acme", "channel": "tenant:acme", "data": "` + strings.Repeat("x", maxBody+1) + `"}`: 413,
	} {
		if resp, answer := ask(t, "POST", address, "/publish", bad, nil); resp.StatusCode != want {
			t.Errorf("%.80s: %d %s, want %d", bad, resp.StatusCode, answer, want)
		}
	}
}

func TestFirstPageSaysWhereEverythingIs(t *testing.T) {
	address := serve(t, func(c *Config) {
		c.Places = func() []Place {
			return []Place{{"enqueue", "127.0.0.1:7400", "gRPC"}, {"metrics", "http://127.0.0.1:7401/metrics", ""}, {"odd", "javascript:alert(1)", "<script>"}}
		}
	})
	_, body := ask(t, "GET", address, "/", "", nil)
	for _, want := range []string{`href="/inbox"`, "127.0.0.1:7400", `href="http://127.0.0.1:7401/metrics"`, "&lt;script&gt;"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in\n%s", want, body)
		}
	}
	if strings.Contains(body, `href="javascript`) {
		t.Errorf("a link to a script:\n%s", body)
	}
}

// What is embedded has to hold what doc.go says of it: the policy would stop the rest, and nobody should find out by an inbox that does nothing.
func TestAssetsHaveNothingInlineAndNoSinks(t *testing.T) {
	entries, err := files.ReadDir("assets")
	if err != nil || len(entries) < 8 {
		t.Fatalf("%d assets: %v", len(entries), err)
	}
	sink := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|javascript:|createContextualFragment|DOMParser|setHTML`)
	inline := regexp.MustCompile(`(?i)<script(?:\s[^>]*)?>[^<]|<style|\sstyle=|\son[a-z]+=|https?://`)
	for _, e := range entries {
		b, err := files.ReadFile("assets/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		if m := sink.Find(b); m != nil {
			t.Errorf("%s has %q", e.Name(), m)
		}
		if strings.HasSuffix(e.Name(), ".html") {
			if m := inline.Find(b); m != nil {
				t.Errorf("%s has %q", e.Name(), m)
			}
		}
		if bytes.Contains(b, []byte("\t")) || !bytes.HasSuffix(b, []byte("\n")) {
			t.Errorf("%s: tabs, or no line break at its end", e.Name())
		}
	}
}

func TestOnlyAssetsAreServed(t *testing.T) {
	address := serve(t, nil)
	for path, want := range map[string]string{
		"/assets/inbox.js": "text/javascript; charset=utf-8", "/assets/style.css": "text/css; charset=utf-8", "/assets/icon.svg": "image/svg+xml",
	} {
		if resp, _ := ask(t, "GET", address, path, "", nil); resp.StatusCode != 200 || resp.Header.Get("Content-Type") != want {
			t.Errorf("%s: %d %q", path, resp.StatusCode, resp.Header.Get("Content-Type"))
		}
	}
	for _, path := range []string{"/assets/", "/assets", "/assets/home.html", "/assets/..%2fpages.go", "/assets/%2e%2e/pages.go", "/pages.go", "/inbox/"} {
		if resp, _ := ask(t, "GET", address, path, "", nil); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}

// Connections over the limit wait; one that ends makes room.
func TestConnectionsAreBounded(t *testing.T) {
	address := serve(t, nil)
	var open []net.Conn
	for range maxConns {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		// An answer shows that it was accepted.
		fmt.Fprintf(c, "GET /inbox HTTP/1.1\r\nHost: %s\r\n\r\n", address)
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	one, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	fmt.Fprintf(one, "GET /inbox HTTP/1.1\r\nHost: %s\r\n\r\n", address)
	one.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := one.Read(make([]byte, 1)); err == nil {
		t.Fatalf("one too many got an answer of %d bytes", n)
	}
	open[0].Close()
	one.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := one.Read(make([]byte, 1)); err != nil {
		t.Fatalf("there is room and no answer: %v", err)
	}
}

func TestOrigins(t *testing.T) {
	if got := fmt.Sprint(Origins("127.0.0.1:7480")); got != "[http://127.0.0.1:7480 http://localhost:7480]" {
		t.Error(got)
	}
	if got := Origins("nowhere"); got != nil {
		t.Error(got)
	}
}

func TestWhatIsRequired(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("pages without a websocket and tokens")
	}
}

func TestOnlyLoopbackIsServed(t *testing.T) {
	p, err := New(Config{Websocket: func() string { return "" }, Token: func(_, _ string) (string, error) { return "", nil }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Serve(t.Context(), l); err == nil {
		t.Error("pages on all addresses")
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is still open: %v", err)
	}
}

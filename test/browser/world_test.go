package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-rod/rod"
	"github.com/go-rod/rod/lib/proto"

	"github.com/spillway/spillway/test/product"
)

// environment is the variable that decides whether tests run in a browser.
const environment = "SPILLWAY_TEST_BROWSER"

const (
	// installLimit bounds finding Chromium, and installing it where it is missing: 90 MB.
	installLimit = 5 * time.Minute
	// launchLimit bounds its start, 0.6 s on a quiet machine.
	launchLimit = 30 * time.Second
	// within bounds what a page has to show: a hundred times what it takes.
	within = 20 * time.Second
	// restarted bounds a notifier's return: it is started again at once, reads its log, and the page's longest pause is 20 s. A job that it held when it
	// was killed is given out again when its lease has ended, 20 s later.
	restarted = time.Minute
)

// chrome is a running browser.
type chrome struct {
	t       *testing.T
	browser *rod.Browser
}

// launch starts Chromium for a test. Without the environment variable the test is skipped.
func launch(t *testing.T) *chrome {
	t.Helper()
	switch value := os.Getenv(environment); value {
	case "chromium":
	case "":
		t.Skipf("not run: set %s=chromium to run it in Chromium", environment)
	default:
		t.Fatalf("%s is %q: it can be chromium, or unset", environment, value)
	}
	ctx, cancel := context.WithTimeout(t.Context(), installLimit)
	defer cancel()
	var said strings.Builder
	find := exec.CommandContext(ctx, "../../tools/chromium")
	find.Stderr = &said
	path, err := find.Output()
	if err != nil {
		t.Fatalf("no browser: %v\n%s", err, said.String())
	}
	flags := []string{
		"--headless=new", "--remote-debugging-port=0", "--user-data-dir=" + t.TempDir(), "--lang=en-US", "--no-proxy-server", "--no-first-run", "--disable-gpu",
		"--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
		"--disable-features=Translate,OptimizationHints,MediaRouter", "--force-color-profile=srgb", "--hide-scrollbars", "--log-level=3", "about:blank",
	}
	if os.Geteuid() == 0 {
		flags = append([]string{"--no-sandbox"}, flags...) // Chromium refuses root otherwise
	}
	cmd := exec.Command(strings.TrimSpace(string(path)), flags...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir(), "LANGUAGE=en_US")
	process := product.Launch(t, "chromium", cmd, false, nil)
	listening := regexp.MustCompile(`DevTools listening on (ws://\S+)`)
	var control string
	product.Until(t, launchLimit, "Chromium listens", func() bool {
		if process.Ended() {
			t.Fatalf("Chromium ended: %s", process.Said())
		}
		if m := listening.FindStringSubmatch(process.Said()); m != nil {
			control = m[1]
		}
		return control != ""
	})
	b := rod.New().ControlURL(control)
	if err := b.Connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() }) // best effort: the process is stopped next
	return &chrome{t, b}
}

// dev starts a product for a test.
func dev(t *testing.T) *product.Dev {
	t.Helper()
	dir, err := os.MkdirTemp("", "sw") // short: a path of a socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return product.StartDev(t, dir)
}

// inbox is the address of a user's inbox, with topics that it follows.
func inbox(t *testing.T, d *product.Dev, tenant, user string, topics ...string) string {
	t.Helper()
	query := url.Values{"tenant": {tenant}, "user": {user}, "topic": topics}
	return home(t, d) + "/inbox?" + query.Encode()
}

// home is where the pages are.
func home(t *testing.T, d *product.Dev) string {
	t.Helper()
	address := d.File().Endpoints.Pages
	if address == "" {
		t.Fatal("dev.json names no pages")
	}
	return address
}

// notification is what a job of type notify asks for.
type notification struct {
	Channel string `json:"channel"`
	Class   string `json:"class"`
	Key     string `json:"key,omitempty"`
	Data    any    `json:"data"`
}

// notify enqueues a job that becomes a notification, as callers do, and returns once it was accepted.
func notify(t *testing.T, d *product.Dev, tenant, channel string, data any) {
	t.Helper()
	send(t, d, tenant, notification{Channel: channel, Class: "EVENT", Data: data})
}

func send(t *testing.T, d *product.Dev, tenant string, n notification) {
	t.Helper()
	payload, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	out, said, code := product.Run(t, within, "job", "enqueue", "--data-dir", d.Dir, "--source", "crm", "--tenant", tenant, "--type", "notify", "--payload", string(payload))
	if code != 0 {
		t.Fatalf("job enqueue: exit %d: %s%s", code, out, said)
	}
}

// watch runs before anything else in every page: it counts what the policy had to stop and what ran although it must not, and holds on to the sockets
// and to what was sent over them.
const watch = `
window.violations = [];
window.ran = 0;
window.sockets = [];
window.sent = [];
document.addEventListener('securitypolicyviolation', (e) => violations.push(e.effectiveDirective + ' ' + e.blockedURI));
window.alert = window.confirm = window.prompt = () => { ran++; };
window.WebSocket = class extends WebSocket {
  constructor(...args) {
    super(...args);
    sockets.push(this);
  }
  send(text) {
    sent.push(JSON.parse(text));
    super.send(text);
  }
};
// inject is what a notifier would have sent; end is how it would have closed.
window.inject = (...objects) => sockets.at(-1).dispatchEvent(new MessageEvent('message', { data: objects.map((o) => typeof o === 'string' ? o : JSON.stringify(o)).join('\n') }));
window.end = (code, reason = '') => sockets.at(-1).dispatchEvent(new CloseEvent('close', { code, reason }));
window.titles = () => [...document.querySelectorAll('.note .title')].map((e) => e.textContent);
`

// tab is a page of the browser.
type tab struct {
	t    *testing.T
	page *rod.Page
}

// open opens a page after scripts of the test's own.
func (c *chrome) open(address string, scripts ...string) *tab {
	c.t.Helper()
	page, err := c.browser.Page(proto.TargetCreateTarget{URL: "about:blank"})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, script := range append([]string{watch}, scripts...) {
		if _, err := page.EvalOnNewDocument(script); err != nil {
			c.t.Fatal(err)
		}
	}
	p := &tab{c.t, page}
	p.load(address)
	return p
}

// live opens an inbox and waits until it is connected.
func (c *chrome) live(address string, scripts ...string) *tab {
	c.t.Helper()
	p := c.open(address, scripts...)
	p.live()
	return p
}

func (p *tab) load(address string) {
	p.t.Helper()
	page := p.page.Timeout(within)
	if err := page.Navigate(address); err != nil {
		p.t.Fatalf("%s: %v", address, err)
	}
	if err := page.WaitLoad(); err != nil {
		p.t.Fatalf("%s: %v", address, err)
	}
}

// live waits until the page says so and the notifier has answered for all channels.
func (p *tab) live() {
	p.t.Helper()
	p.until(within, "the inbox is live", `() => document.querySelector('#connection').dataset.state === 'live' && document.querySelector('#channels').childElementCount > 0
		&& ![...document.querySelectorAll('#channels .muted')].some((e) => e.textContent === '…')`)
}

// until waits for something to be true in the page; what the page shows is logged if it does not come true.
func (p *tab) until(limit time.Duration, what, script string, args ...any) {
	p.t.Helper()
	if err := p.page.Timeout(limit).Wait(rod.Eval(script, args...)); err != nil {
		p.t.Fatalf("not within %v: %s: %v\nthe page shows:\n%s", limit, what, err, p.shown())
	}
}

func (p *tab) shown() string {
	r, err := p.page.Timeout(within).Eval(`() => document.body.innerText + '\nsent: ' + JSON.stringify(window.sent?.map((o) => o.t)) + '\nstopped: ' + window.violations`)
	if err != nil {
		return err.Error()
	}
	return r.Value.Str()
}

// eval is the value of a script in the page, into a Go value.
func (p *tab) eval(into any, script string, args ...any) {
	p.t.Helper()
	r, err := p.page.Timeout(within).Eval(script, args...)
	if err != nil {
		p.t.Fatalf("%s: %v", script, err)
	}
	if into == nil {
		return
	}
	if err := json.Unmarshal([]byte(r.Value.JSON("", "")), into); err != nil {
		p.t.Fatalf("%s: %v", script, err)
	}
}

// titles are those of the notifications that are shown, newest first.
func (p *tab) titles() []string {
	p.t.Helper()
	var list []string
	p.eval(&list, `() => titles()`)
	return list
}

// shows waits until a title is shown.
func (p *tab) shows(limit time.Duration, title string) {
	p.t.Helper()
	p.until(limit, fmt.Sprintf("the notification %q is shown", title), `(title) => titles().includes(title)`, title)
}

// typeInto types text into a field, as a person does.
func (p *tab) typeInto(selector, text string) {
	p.t.Helper()
	e, err := p.page.Timeout(within).Element(selector)
	if err == nil {
		err = e.Input(text)
	}
	if err != nil {
		p.t.Fatalf("type into %s: %v", selector, err)
	}
}

func (p *tab) click(selector string) {
	p.t.Helper()
	e, err := p.page.Timeout(within).Element(selector)
	if err == nil {
		err = e.Click(proto.InputMouseButtonLeft, 1)
	}
	if err != nil {
		p.t.Fatalf("click %s: %v", selector, err)
	}
}

// clean fails the test if anything ran that came as data, or if the policy had to stop anything: the page itself must not try.
func (p *tab) clean() {
	p.t.Helper()
	var got struct {
		Ran        int
		Violations []string
		Scripts    int
		Handlers   int
		Links      int
	}
	p.eval(&got, `() => ({ ran, violations, scripts: document.scripts.length,
		handlers: [...document.querySelectorAll('*')].filter((e) => [...e.attributes].some((a) => a.name.startsWith('on'))).length,
		links: [...document.querySelectorAll('[href], [src], [action], [formaction]')].filter((e) => !/^(https?:\/\/127\.0\.0\.1:\d+|http:\/\/localhost:\d+)/.test(e.href ?? e.src)).length })`)
	if got.Ran != 0 || len(got.Violations) != 0 || got.Scripts > 1 || got.Handlers != 0 || got.Links != 0 {
		p.t.Errorf("ran %d, stopped by the policy %v, scripts %d, handlers %d, links elsewhere %d", got.Ran, got.Violations, got.Scripts, got.Handlers, got.Links)
	}
}

package browser

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-rod/rod/lib/proto"
)

// TestBrowserPictures leaves pictures for people, light and dark, wide and narrow, and checks what a machine can see: nothing is wider than the screen.
func TestBrowserPictures(t *testing.T) {
	c, d := launch(t), dev(t)
	dir, err := os.MkdirTemp("", "spillway-pages-")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("pictures in %s", dir)
	for _, scheme := range []string{"light", "dark"} {
		for _, size := range []struct{ width, height int }{{1280, 800}, {390, 844}, {360, 640}} {
			name := func(what string) string {
				return filepath.Join(dir, fmt.Sprintf("%s-%s-%dx%d.png", what, scheme, size.width, size.height))
			}
			p := c.open("about:blank")
			if err := p.page.SetViewport(&proto.EmulationSetDeviceMetricsOverride{Width: size.width, Height: size.height, DeviceScaleFactor: 1}); err != nil {
				t.Fatal(err)
			}
			media := proto.EmulationSetEmulatedMedia{Features: []*proto.EmulationMediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}}
			if err := media.Call(p.page); err != nil {
				t.Fatal(err)
			}
			p.load(home(t, d) + "/")
			p.picture(name("home"), size.width)
			p.load(inbox(t, d, "acme", "alice", "imports"))
			p.live()
			p.picture(name("empty"), size.width)
			p.eval(nil, `() => {
				const at = new Date(Date.now() - 60000).toISOString();
				inject({ t: 'msg', id: '0190-1', channel: 'tenant:acme', ts: at, data: { title: 'Maintenance on Sunday', text: 'From 02:00 to 02:20 UTC imports wait. Nothing is lost.' } },
					{ t: 'msg', id: '0190-2', channel: 'topic:acme:imports', ts: at, key: 'contacts.csv', data: { title: 'Import of contacts.csv finished', text: '1,204 contacts were added, 3 were skipped because their address is not valid.', rows: 1207, skipped: [17, 311, 980] } },
					{ t: 'gap', scope: 'channels', reason: 'ring', cursor: 'x' },
					{ t: 'msg', id: '0190-3', channel: 'user:acme:alice', ts: at, data: 'Bob assigned a conversation to you.' },
					{ t: 'msg', id: '0190-4', channel: 'user:acme:alice', ts: at, data: { title: '<img src=x onerror=alert(1)>', text: 'Averyveryverylongwordthatnobodywouldbreakbythemselves'.repeat(4) } },
					{ t: 'msg', id: '0190-5', channel: 'system', ts: at, data: { title: 'Reconnecting soon', text: 'This replica is being replaced.' } });
			}`)
			p.until(within, "all are shown", `() => document.querySelectorAll('.note').length === 5`)
			p.eval(nil, `() => { document.querySelector('.note[data-id="0190-2"] details').open = true; }`)
			p.picture(name("inbox"), size.width)
			if size.width < 860 {
				p.click("#panel")
				p.picture(name("panel"), size.width)
			}
			p.eval(nil, `() => end(4200, 'this is not spillway.v1')`)
			p.until(within, "it has stopped", `() => document.querySelector('#connection').dataset.state === 'stopped'`)
			p.picture(name("stopped"), size.width)
			p.clean()
			if err := p.page.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// picture writes what is on the screen to a file.
func (p *tab) picture(file string, width int) {
	p.t.Helper()
	var wide int
	p.eval(&wide, `() => document.documentElement.scrollWidth`)
	if wide > width {
		p.t.Errorf("%s: %d pixels wide on a screen of %d", filepath.Base(file), wide, width)
	}
	b, err := p.page.Timeout(within).Screenshot(false, &proto.PageCaptureScreenshot{Format: proto.PageCaptureScreenshotFormatPng})
	if err == nil {
		err = os.WriteFile(file, b, 0o600)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

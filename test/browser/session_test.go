package browser

import (
	"testing"
	"time"
)

// How a session ends decides how the page comes back: in its slot, with a new token, or not at all.
func TestBrowserComesBackAsItIsTold(t *testing.T) {
	c, d := launch(t), dev(t)
	p := c.live(inbox(t, d, "acme", "alice"), `
		window.grants = 0;
		const real = window.fetch;
		window.fetch = (...args) => { if (args[0] === '/session') grants++; return real(...args); };`)
	notify(t, d, "acme", "user:acme:alice", map[string]string{"title": "first"})
	p.shows(within, "first")
	sockets := 1
	back := func(what string) {
		t.Helper()
		sockets++
		p.until(within, what, `(n) => sockets.length === n && document.querySelector('#connection').dataset.state === 'live'`, sockets)
		var hello struct {
			Cursor   string
			Channels []string
		}
		p.eval(&hello, `() => sent.filter((o) => o.t === 'hello').at(-1)`)
		if hello.Cursor == "" || len(hello.Channels) != 2 {
			t.Errorf("%s: the hello has cursor %q and channels %v", what, hello.Cursor, hello.Channels)
		}
	}
	grants := func() (n int) {
		t.Helper()
		p.eval(&n, `() => grants`)
		return n
	}

	// 4000–4099 and what a network does: come back, with the same token.
	for _, code := range []int{4099, 1006} {
		p.eval(nil, `(code) => end(code)`, code)
		back("after an ordinary end")
	}
	if n := grants(); n != 1 {
		t.Errorf("%d tokens for ordinary ends, want 1", n)
	}
	// 4100–4199: with a new one.
	p.eval(nil, `() => end(4100)`)
	back("after the end of a token")
	if n := grants(); n != 2 {
		t.Errorf("%d tokens after the end of one, want 2", n)
	}
	// go: not before the slot.
	p.eval(nil, `() => { window.told = performance.now(); inject({ t: 'go', code: 4000, after_ms: 1500 }); end(4000); }`)
	back("in its slot")
	var waited float64
	p.eval(&waited, `() => performance.now() - told`)
	if waited < 1500 {
		t.Errorf("back after %.0f ms, the slot was 1500 ms", waited)
	}
	// go without an end: the page goes by itself.
	p.eval(nil, `() => inject({ t: 'go', code: 4000, after_ms: 100 })`)
	back("by itself")

	// A ping is answered; what is unknown is not.
	p.eval(nil, `() => { sent.length = 0; inject({ t: 'ping' }, { t: 'new-in-v9', x: 1 }, 'not JSON', '[]', 'null', { no: 't' }); }`)
	var answered []string
	p.eval(&answered, `() => sent.map((o) => o.t)`)
	if len(answered) != 1 || answered[0] != "pong" {
		t.Errorf("answered %v, want a pong", answered)
	}
	// A gap is shown, with its reason.
	p.eval(nil, `() => inject({ t: 'gap', scope: 'channels', reason: 'ring', cursor: 'x' })`)
	p.until(within, "the gap is shown", `() => document.querySelector('.gap')?.innerText.includes('longer than the notifier keeps')`)
	// A right that is gone is shown where the channel is.
	p.eval(nil, `() => inject({ t: 'gap', scope: 'channel', channel: 'tenant:acme', reason: 'rights', cursor: 'x' })`)
	p.until(within, "the channel is marked", `() => document.querySelector('#channels [data-channel="tenant:acme"] .refused')?.textContent === 'refused: not allowed'`)
	// A cursor that is not one is answered with a gap, not with silence; and the page goes on.
	p.eval(nil, `() => end(4000)`)
	back("with a cursor that is not one")
	p.until(within, "the gap of a bad cursor is shown", `() => [...document.querySelectorAll('.gap')].some((e) => e.innerText.includes('not valid any more'))`)
	notify(t, d, "acme", "user:acme:alice", map[string]string{"title": "after the gap"})
	p.shows(within, "after the gap")

	// 4200–4299: not at all, until somebody asks for it.
	p.eval(nil, `() => end(4200, 'this is not spillway.v1')`)
	p.until(within, "it says that it has stopped, and why", `() => document.querySelector('#state').textContent === 'Stopped'
		&& document.querySelector('#trouble').textContent.includes('this is not spillway.v1') && !document.querySelector('#retry').hidden`)
	time.Sleep(time.Second) // longer than four first pauses: it would have come back
	var n int
	if p.eval(&n, `() => sockets.length`); n != sockets {
		t.Errorf("%d sockets after a terminal end, want %d", n, sockets)
	}
	p.click("#retry")
	back("when it is asked to")
	p.clean()
}

// The keyboard reaches everything: one stop for the list, arrows in it, Enter for the data.
func TestBrowserKeyboard(t *testing.T) {
	c, d := launch(t), dev(t)
	p := c.live(inbox(t, d, "acme", "alice"))
	p.eval(nil, `() => { for (let i = 0; i < 5; i++) inject({ t: 'msg', id: 'k' + i, channel: 'tenant:acme', data: { title: 'k' + i } }); }`)
	p.shows(within, "k4")
	p.eval(nil, `() => {
		const key = (name) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: name, bubbles: true, cancelable: true }));
		const at = () => document.activeElement.querySelector?.('.title')?.textContent;
		const want = (name) => { if (at() !== name) throw new Error('at ' + at() + ', want ' + name); };
		const stops = document.querySelectorAll('.note[tabindex="0"]');
		if (stops.length !== 1) throw new Error(stops.length + ' stops');
		document.querySelector('#list').focus();
		key('ArrowDown'); want('k4');
		key('ArrowDown'); key('ArrowDown'); want('k2');
		key('End'); want('k0');
		key('ArrowDown'); want('k0');
		key('Home'); want('k4');
		key('ArrowUp'); want('k4');
		key('ArrowDown'); key('Enter');
		if (!document.activeElement.querySelector('details').open) throw new Error('not opened');
		if (document.querySelectorAll('.note[tabindex="0"]').length !== 1) throw new Error('more than one stop');
	}`)
	// What somebody reads stays where it is when something new comes.
	p.eval(nil, `() => inject({ t: 'msg', id: 'k5', channel: 'tenant:acme', data: { title: 'k5' } })`)
	p.shows(within, "k5")
	p.eval(nil, `() => { if (document.activeElement.querySelector('.title').textContent !== 'k3') throw new Error('the focus moved'); }`)
	// Every control has a name.
	p.eval(nil, `() => {
		for (const e of document.querySelectorAll('button, input, select, textarea')) {
			if (!(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)) throw new Error('no name: ' + e.outerHTML);
		}
	}`)
}

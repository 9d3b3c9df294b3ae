package browser

import (
	"strings"
	"testing"
)

// bad is what runs wherever text is taken for markup, an address or a template.
var bad = []string{
	`<img src=x onerror="window.ran++">`,
	`<script>window.ran++</script>`,
	`"><svg onload=window.ran++>`,
	`javascript:window.ran++`,
	`<a href="javascript:window.ran++">click</a><iframe srcdoc="<script>parent.ran++</script>"></iframe>`,
	`</pre></details><style>*{display:none}</style><form action="//evil.example"><button>`,
	"${window.ran++}{{constructor.constructor('window.ran++')()}}",
}

// S30: whatever a notification, an address or even the notifier says is shown as the text that it is. Nothing runs, and the policy has nothing to stop.
func TestBrowserRunsNothingThatItIsTold(t *testing.T) {
	c, d := launch(t), dev(t)
	const tenant, user, topic = `<img src=x onerror=ran++>`, `"><script>ran++</script>`, `<svg onload=ran++>`
	const tenantPart = `%3Cimg%20src%3Dx%20onerror%3Dran%2B%2B%3E`
	p := c.live(inbox(t, d, tenant, user, topic, "javascript:ran++"))
	if got := p.refused(); len(got) != 0 {
		t.Errorf("refused: %v", got)
	}
	for i, text := range bad {
		channel := []string{"tenant:" + tenantPart, "user:" + tenantPart + ":%22%3E%3Cscript%3Eran%2B%2B%3C%2Fscript%3E", "topic:" + tenantPart + ":%3Csvg%20onload%3Dran%2B%2B%3E"}[i%3]
		send(t, d, tenant, notification{Channel: channel, Class: "EVENT", Key: text, Data: map[string]any{
			"title": text, "text": text, "url": text, "link": "javascript:window.ran++", "html": text, text: text, "__proto__": map[string]any{"title": text}, "innerHTML": text,
		}})
	}
	send(t, d, tenant, notification{Channel: "tenant:" + tenantPart, Class: "EVENT", Data: bad[0]})
	p.until(within, "all of it is shown", `(n) => document.querySelectorAll('.note').length === n`, len(bad)+1)

	// A notifier that has gone bad, too: every field that is shown.
	p.eval(nil, `(bad) => {
		for (const [i, text] of bad.entries()) {
			inject({ t: 'msg', id: 'x' + i + text, channel: text, class: text, key: text, ts: text, data: { title: text, text } },
				{ t: 'msg', id: 'y' + i, channel: 'topic:a:' + text, ts: '2026-01-01T00:00:00Z', data: { title: { toString: 1 }, constructor: text, name: [text] } },
				{ t: 'gap', scope: text, channel: text, reason: text, cursor: null }, { t: 'sub', channel: text, ok: false, error: text }, { t: 'error', code: text, text },
				{ t: 'sub', channel: document.querySelector('#channels li').dataset.channel, ok: false, error: text });
		}
	}`, bad)
	p.until(within, "that is shown, too", `(n) => document.querySelectorAll('.note').length === n`, 3*len(bad)+1)
	// Everything is opened and gone over, as a curious person does.
	p.eval(nil, `async () => {
		for (const e of document.querySelectorAll('details')) e.open = true;
		for (const e of document.querySelectorAll('.note, .note *')) { e.dispatchEvent(new MouseEvent('mouseover', { bubbles: true })); e.click(); }
		for (const e of document.querySelectorAll('details')) e.open = true;
		await new Promise((done) => setTimeout(done, 300));
	}`)
	p.clean()
	var got struct {
		Text             string
		Images, Elements int
		Opened, Notes    int
	}
	p.eval(&got, `() => ({ text: document.querySelector('#list').innerText, images: document.querySelectorAll('#list img, #list svg, #list iframe, #list a, #list form, #list style').length,
		opened: document.querySelectorAll('.note pre').length, notes: document.querySelectorAll('.note').length, elements: document.querySelectorAll('#list *').length })`)
	if got.Images != 0 || got.Opened != got.Notes {
		t.Errorf("%d elements of their making; %d of %d opened", got.Images, got.Opened, got.Notes)
	}
	for _, text := range bad {
		if !strings.Contains(got.Text, text) {
			t.Errorf("%q is not shown as it is", text)
		}
	}

	// The instruments of this test work: the policy stops what is tried, and that is counted.
	p.eval(nil, `() => { const i = new Image(); i.src = 'https://evil.example/x.png'; document.body.append(i); }`)
	p.until(within, "an image from elsewhere is stopped and counted", `() => violations.length > 0 && violations[0].startsWith('img-src')`)
	p.eval(nil, `() => {
		let stopped = '';
		try { document.querySelector('#list').innerHTML = '<b>'; } catch (error) { stopped = error.name; }
		if (stopped !== 'TypeError') throw new Error('innerHTML was not stopped');
	}`)
}

// Sizes and depths that would hang a page that spells out what it is told.
func TestBrowserStaysSmall(t *testing.T) {
	c, d := launch(t), dev(t)
	p := c.live(inbox(t, d, "acme", "alice"))
	p.eval(nil, `() => {
		const deep = '[' .repeat(8000) + ']'.repeat(8000);
		inject('{"t":"msg","id":"deep","channel":"tenant:acme","ts":"2026-01-01T00:00:00Z","data":' + deep + '}');
		for (let i = 0; i < 3000; i++) inject({ t: 'msg', id: 'small' + i, channel: 'tenant:acme', ts: '2026-01-01T00:00:00Z', data: { title: 'small ' + i } });
	}`)
	p.shows(within, "small 2999")
	var small struct{ Notes, Items int }
	p.eval(&small, `() => ({ notes: document.querySelectorAll('.note').length, items: document.querySelector('#list').childElementCount })`)
	if small.Notes != 500 || small.Items != 500 {
		t.Errorf("%+v, want 500", small)
	}
	p.eval(nil, `() => { for (let i = 0; i < 500; i++) inject({ t: 'msg', id: 'large' + i, channel: 'tenant:acme', data: { title: 'large ' + i, blob: 'x'.repeat(16000) } }); }`)
	p.shows(within, "large 499")
	var large int
	p.eval(&large, `() => document.querySelectorAll('.note').length`)
	if most := (2 << 20) / 32000; large > most || large < most/2 {
		t.Errorf("%d of 32 KB each are kept, want at most %d", large, most)
	}
	// Still alive, and the deep one can be opened.
	p.eval(nil, `() => {
		inject('{"t":"msg","id":"deep2","channel":"tenant:acme","data":' + '[{"a":'.repeat(2500) + '1' + '}]'.repeat(2500) + '}');
	}`)
	p.until(within, "the deep one is shown", `() => document.querySelector('.note[data-id="deep2"]') !== null`)
	p.eval(nil, `() => { document.querySelector('.note[data-id="deep2"] details').open = true; }`)
	p.until(within, "and opened", `() => document.querySelector('.note[data-id="deep2"] pre')?.textContent.length === 20001`)
	p.clean()
}

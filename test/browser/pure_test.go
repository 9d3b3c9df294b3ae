package browser

import "testing"

// The parts of the page that only compute, in the engine that they are for.
func TestBrowserPureParts(t *testing.T) {
	c, d := launch(t), dev(t)
	p := c.open(home(t, d) + "/inbox")
	check := func(name, script string) {
		t.Helper()
		p.eval(nil, `async () => {
			const p = await import('/assets/protocol.js'), { Items, MAX_ITEMS, MAX_BYTES, MAX_SEEN } = await import('/assets/items.js');
			const same = (got, want) => { if (JSON.stringify(got) !== JSON.stringify(want)) throw new Error('`+name+`: ' + JSON.stringify(got) + ', want ' + JSON.stringify(want)); };
			`+script+`
		}`)
	}
	check("channels", `
		same(p.tenantChannel('acme'), 'tenant:acme');
		same(p.userChannel('a:b', 'Zoë <x>'), 'user:a%3Ab:Zo%C3%AB%20%3Cx%3E');
		same(p.topicChannel('t', 'A.b_c-9~'), 'topic:t:A.b_c-9%7E');
		same(p.named('user:a%3Ab:Zo%C3%AB'), { kind: 'user', name: 'Zoë' });
		same(p.named('topic:t:%E0%A4%A'), { kind: 'topic', name: '%E0%A4%A' });
		same(p.named('__proto__:x'), { kind: 'other', name: 'x' });
		same([p.validPart(''), p.validPart('x'.repeat(128)), p.validPart('ä'.repeat(65))], [false, true, false]);`)
	check("frames", `
		same(p.parse('{"t":"a"}\n\n{"t":"b","x":1}\n'), [{ t: 'a' }, { t: 'b', x: 1 }]);
		same(p.parse('[]\nnull\n1\n{"t":1}\n{'), []);
		same(p.parse(new ArrayBuffer(8)), []);
		same(p.parse('{"t":"' + 'x'.repeat(1 << 20) + '"}'), []);`)
	check("closing", `
		same([4000, 4099, 1006, 1000, 0, undefined, 4300, 3999].map(p.afterClose), Array(8).fill('again'));
		same([4100, 4199].map(p.afterClose), ['refresh', 'refresh']);
		same([4200, 4299].map(p.afterClose), ['stop', 'stop']);`)
	check("pauses", `
		same([p.pause(0, 0), p.pause(0, 0.999999), p.pause(1, 0), p.pause(50, 0), p.pause(1000, 0.999999)], [125, 250, 250, 10000, 20000]);
		same([p.slot(5), p.slot(-1), p.slot('7'), p.slot(NaN), p.slot(undefined), p.slot(1e12)], [5, 0, 0, 0, 0, 3600000]);`)
	check("summaries", `
		const s = (data) => p.summary(data, JSON.stringify(data));
		same(s('hello'), { title: '', text: 'hello' });
		same([s(7).text, s(null).text, s(false).text], ['7', 'null', 'false']);
		same(s({ subject: 'S', body: 'B' }), { title: 'S', text: 'B' });
		same(s({ title: '  ', event: 'E' }), { title: 'E', text: '' });
		same(s({ title: 1, x: [2] }), { title: '', text: '{"title":1,"x":[2]}' });
		same(s(JSON.parse('{"__proto__":{"title":"no"}}')).title, '');
		same(p.cut('a' + '😀'.repeat(10), 4), 'a😀…');`)
	check("pretty", `
		same(p.pretty('{"a":[1]}'), '{\n  "a": [\n    1\n  ]\n}');
		const deep = '['.repeat(5000) + ']'.repeat(5000);
		same(p.pretty(deep).length, deep.length);
		same(p.pretty('"' + '['.repeat(50) + '"').includes('\n'), false);`)
	check("times", `
		same(p.time('2026-11-25T09:00:00.000Z'), 1795597200000);
		same([p.time(5), p.time('soon'), p.time(null), p.time(1e300)], [5, 0, 0, 0]);`)
	check("bounds", `
		const items = new Items();
		const make = (id, size = 0) => ({ id, text: 'x'.repeat(size) });
		same([items.add(make('a')), items.add(make('a')), items.add(make('')), items.add(make(''))], [true, false, true, true]);
		same([items.list.length, items.twice], [3, 1]);
		for (let i = 0; i < 2 * MAX_ITEMS; i++) items.add(make('n' + i));
		same([items.list.length, items.dropped, items.list.at(-1).id], [MAX_ITEMS, MAX_ITEMS + 3, 'n999']);
		for (let i = 0; i < 100; i++) items.add(make('big' + i, 20000));
		if (items.bytes > MAX_BYTES || items.list.length < 40) throw new Error(items.bytes + ' bytes in ' + items.list.length);
		items.add(make('huge', MAX_BYTES));
		same(items.list.map((one) => one.id), ['huge']);
		items.clear();
		same([items.bytes, items.list.length, items.add(make('huge'))], [0, 0, false]);
		for (let i = 0; i < MAX_SEEN; i++) items.add(make('m' + i));
		same([items.seen.size, items.add(make('m0')), items.add(make('huge'))], [MAX_SEEN, false, true]);`)
}

// inbox.js: the page. It wires what the address asks for, a session, what is kept, and what is seen.
import { cut, gapText, item, named, tenantChannel, topicChannel, userChannel, validPart } from './protocol.js';
import { Items, MAX_ITEMS } from './items.js';
import { Session } from './session.js';
import { load, save } from './memory.js';
import { channelView, gapView, noteView } from './view.js';

const $ = (id) => document.getElementById(id);
const MAX_TOPICS = 20;

// Who looks, and at what, stands in the address, so that it can be kept and shared.
const asked = new URLSearchParams(location.search);
const part = (text, other) => text && validPart(text) ? text : other;
const tenant = part(asked.get('tenant'), 'demo'), user = part(asked.get('user'), 'dev');
let topics = [...new Set(asked.getAll('topic'))].filter(validPart).slice(0, MAX_TOPICS);
const fixed = [userChannel(tenant, user), tenantChannel(tenant)];
const channels = () => [...fixed, ...topics.map((name) => topicChannel(tenant, name))];
const answers = new Map(); // what the notifier said about each channel

const items = new Items();
const kept = load(tenant, user);
for (const old of kept.items) items.add(old);

const session = new Session({
  user, tenant, channels: channels(), cursor: kept.cursor,
  on: {
    state: showState,
    message: (msg) => {
      if (items.add(item(msg))) arrived();
    },
    gap: (gap) => {
      items.add({ id: '', gap: true, at: Date.now(), text: gapText(gap) });
      arrived();
      if (gap.reason === 'rights') told({ channel: gap.channel, ok: false, error: 'NOT_ALLOWED' });
    },
    channel: told,
    granted: (grant) => {
      $('send').hidden = !grant.publish;
    },
    moved: remember,
    trouble: (text) => {
      $('trouble').textContent = `The notifier says: ${cut(text, 300)}`;
    },
  },
});

// told notes what the notifier says about a channel that is followed here.
function told(answer) {
  if (!channels().includes(answer.channel)) return;
  answers.set(answer.channel, answer);
  showChannels();
}

/* What is seen follows what is kept, once a frame at most, however much comes. */

const seen = new Map(); // elements by item
let planned = false, unread = 0, fresh = 0;

function arrived() {
  if (document.hidden) unread++;
  fresh++;
  remember();
  plan();
}

function plan() {
  if (planned) return;
  planned = true;
  // A hidden page has no frames; what is kept is bounded, and shown when somebody looks.
  if (document.hidden) setTimeout(show, 500);
  else requestAnimationFrame(show);
}

function show() {
  planned = false;
  const list = $('list'), now = new Set(items.list);
  for (const [one, element] of seen) {
    if (now.has(one)) continue;
    if (element.contains(document.activeElement)) list.focus();
    element.remove();
    seen.delete(one);
  }
  const added = [];
  for (const one of items.list) {
    if (seen.has(one)) continue;
    const element = one.gap ? gapView(one) : noteView(one);
    if (fresh > 0 && fresh < 20) element.firstElementChild.classList.add('fresh');
    seen.set(one, element);
    list.prepend(element);
    added.push(one);
  }
  if (fresh > 0) announce(added);
  fresh = 0;
  const first = list.firstElementChild?.firstElementChild;
  if (first && !list.querySelector('[tabindex="0"].note, [tabindex="0"].gap')) first.tabIndex = 0;
  $('empty').hidden = items.list.length > 0;
  $('clear').disabled = items.list.length === 0;
  $('count').textContent = items.list.length === 0 ? '' : `${items.list.length}${items.dropped > 0 ? ' newest' : ''}`;
  document.title = unread > 0 ? `(${unread > MAX_ITEMS ? MAX_ITEMS + '+' : unread}) Inbox · Spillway` : 'Inbox · Spillway';
}

// announce tells those who do not see the page, at most once a second.
let spoken = 0, waiting = [], announcing = false;
function announce(added) {
  waiting = waiting.concat(added).slice(-MAX_ITEMS);
  if (announcing) return;
  announcing = true;
  setTimeout(() => {
    announcing = false;
    spoken = performance.now();
    const last = waiting[waiting.length - 1];
    if (!last) return;
    const what = last.gap ? 'Notifications may be missing' : last.title || last.text;
    $('announce').textContent = waiting.length > 1 ? `${waiting.length} new, last: ${cut(what, 120)}` : `New: ${cut(what, 120)}`;
    waiting = [];
  }, Math.max(0, 1000 - (performance.now() - spoken)));
}

/* The state of the connection, with the seconds that are left. */

let state = { name: 'connecting' }, ticking = 0;
function showState(next) {
  state = next;
  clearInterval(ticking);
  if (state.name === 'waiting') ticking = setInterval(sayState, 1000);
  if (state.name === 'live') $('trouble').textContent = '';
  if (state.name === 'connecting') answers.clear();
  sayState();
  showChannels();
}

function sayState() {
  const left = Math.max(0, Math.ceil((state.until - Date.now()) / 1000));
  const text = {
    connecting: 'Connecting…',
    live: 'Live',
    waiting: left > 1 ? `Back in ${left} s` : 'Reconnecting…',
    stopped: 'Stopped',
  }[state.name];
  if ($('state').textContent !== text) $('state').textContent = text;
  $('connection').dataset.state = state.name;
  $('connection').title = state.why ?? '';
  $('retry').hidden = !(state.name === 'stopped' || state.name === 'waiting' && left > 1);
  if (state.name === 'stopped' || state.name === 'waiting') $('trouble').textContent = cut(state.why ?? '', 300);
}

function showChannels() {
  const rows = channels().map((channel, i) => channelView(channel, answers.get(channel) ?? null, i < fixed.length ? null : () => {
    topics = topics.filter((_, j) => j !== i - fixed.length);
    session.unsubscribe(channel);
    answers.delete(channel);
    followed();
  }));
  $('channels').replaceChildren(...rows);
  const to = $('to'), chosen = to.value;
  to.replaceChildren(...channels().map((channel) => {
    const { kind, name } = named(channel);
    return new Option(`${kind} · ${cut(name, 40)}`, channel, false, channel === chosen);
  }));
}

// followed puts the topics into the address.
function followed() {
  const query = new URLSearchParams({ tenant, user });
  for (const name of topics) query.append('topic', name);
  history.replaceState(null, '', `?${query}`);
  showChannels();
}

/* Memory: a page that is loaded again shows what it had and goes on where it was. */

let saving = false;
function remember() {
  if (saving) return;
  saving = true;
  setTimeout(store, 1000);
}
function store() {
  saving = false;
  save(tenant, user, { cursor: session.cursor, items: items.list });
}

/* What people do. */

$('retry').addEventListener('click', () => session.start());
$('clear').addEventListener('click', () => {
  items.clear();
  store();
  plan();
  $('list').focus();
});
$('panel').addEventListener('click', () => {
  $('panel').setAttribute('aria-expanded', String($('side').classList.toggle('open')));
});
$('copy').addEventListener('click', async () => {
  try {
    await navigator.clipboard.writeText($('command').textContent);
    $('copy').textContent = 'Copied';
  } catch {
    getSelection().selectAllChildren($('command'));
  }
  setTimeout(() => { $('copy').textContent = 'Copy'; }, 2000);
});
$('add').addEventListener('submit', (event) => {
  event.preventDefault();
  const name = $('topic').value;
  if (!validPart(name) || topics.includes(name) || topics.length >= MAX_TOPICS) return;
  topics.push(name);
  $('topic').value = '';
  session.subscribe(topicChannel(tenant, name));
  followed();
});
$('as').addEventListener('submit', (event) => {
  event.preventDefault();
  location.assign(`?${new URLSearchParams({ tenant: $('tenant').value, user: $('user').value })}`);
});
$('send').addEventListener('submit', async (event) => {
  event.preventDefault();
  const said = $('sent'), button = event.submitter;
  const data = { title: $('title').value.trim(), text: $('text').value.trim() };
  if (!data.title && !data.text) {
    $('title').focus();
    return;
  }
  button.disabled = true;
  said.textContent = 'Sending…';
  try {
    const response = await fetch('/publish', {
      method: 'POST', headers: { 'Content-Type': 'application/json', 'Spillway-Page': '1' },
      body: JSON.stringify({ tenant, channel: $('to').value, data }), signal: AbortSignal.timeout(15000), credentials: 'omit', redirect: 'error',
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(typeof answer.error === 'string' ? answer.error : `status ${response.status}`);
    said.textContent = 'In the log';
    $('title').value = $('text').value = '';
    $('title').focus();
  } catch (error) {
    said.textContent = cut(error.message, 200);
  }
  said.title = said.textContent;
  button.disabled = false;
});

// One stop of the tab key for the list; arrows move in it, Enter opens the data.
$('list').addEventListener('keydown', (event) => {
  const own = event.target.closest('.note, .gap');
  if (event.target !== own && event.target !== $('list') || event.altKey || event.ctrlKey || event.metaKey) return;
  const all = [...$('list').children], at = own ? all.indexOf(own.parentElement) : -1;
  const to = { ArrowDown: at + 1, ArrowUp: Math.max(0, at - 1), Home: 0, End: all.length - 1 }[event.key];
  if (to !== undefined) {
    event.preventDefault();
    focusNote(all[Math.min(to, all.length - 1)]?.firstElementChild);
  } else if (own && (event.key === 'Enter' || event.key === ' ')) {
    event.preventDefault();
    const more = own.querySelector('details');
    if (more) more.open = !more.open;
  }
});
$('list').addEventListener('focusin', (event) => rove(event.target.closest('.note, .gap')));

function rove(note) {
  if (!note || note.tabIndex === 0) return;
  for (const other of $('list').querySelectorAll('[tabindex="0"].note, [tabindex="0"].gap')) other.tabIndex = -1;
  note.tabIndex = 0;
}
function focusNote(note) {
  rove(note);
  note?.focus();
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  unread = 0;
  plan();
});
addEventListener('pagehide', store);
addEventListener('pageshow', (event) => { if (event.persisted) session.start(); });

$('who').textContent = `${user} of ${tenant}`;
$('tenant').value = tenant;
$('user').value = user;
// For a shell: a name that needs no quotes has none.
const quote = (text) => /^[A-Za-z0-9._-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
$('command').textContent = `spillway job enqueue --source demo --tenant ${quote(tenant)} --type notify \\
  --payload ${quote(JSON.stringify({ channel: tenantChannel(tenant), class: 'EVENT', data: { title: 'Hello from a job' } }))}`;
show();
session.start();

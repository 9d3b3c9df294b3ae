// session.js: a session with the notifier that outlives its sockets. It fetches tokens from this page's own origin, keeps the cursor, and comes back.
import { SUBPROTOCOL, afterClose, parse, pause, slot } from './protocol.js';

const GRANT_TIMEOUT = 10000; // for a token
const HELLO_TIMEOUT = 10000; // from the connect to the notifier's hello
const STABLE = 5000; // a session that lived this long counts as a success, so that the next pause is short again
const MARGIN = 15000; // a token that is good for less is not worth a connect
const DEFAULT_PING = 30; // s, until the notifier says how often

// refused is a failure that trying again would not mend.
class Refused extends Error {}

// fetchGrant asks these pages for a token. The header is what other origins cannot send.
async function fetchGrant(user, tenant) {
  let response, answer = {};
  try {
    response = await fetch('/session', {
      method: 'POST', headers: { 'Content-Type': 'application/json', 'Spillway-Page': '1' }, body: JSON.stringify({ user, tenant }),
      signal: AbortSignal.timeout(GRANT_TIMEOUT), cache: 'no-store', credentials: 'omit', redirect: 'error',
    });
    answer = await response.json();
  } catch {
    if (!response) throw new Error('these pages do not answer; does spillway dev run?');
  }
  if (!response.ok) {
    const error = typeof answer.error === 'string' ? answer.error : `status ${response.status}`;
    throw response.status >= 400 && response.status < 500 ? new Refused(error) : new Error(error);
  }
  const life = answer.expires_in_ms > 0 ? answer.expires_in_ms : 60000;
  return { ...answer, life, until: performance.now() + life };
}

// Session calls back: state({name, until?, why?}) with name connecting, live, waiting or stopped; message(msg); gap(gap); channel({channel, ok, error?});
// moved() when there is a new cursor; trouble(text) for what the notifier complains about.
export class Session {
  constructor({ user, tenant, channels, cursor, on }) {
    Object.assign(this, { user, tenant, channels, cursor, on });
    this.grant = null;
    this.socket = null;
    this.tries = 0; // since the last success
    this.backAt = 0; // not before: the slot that the notifier gave us
    this.timers = {};
    this.run = 0; // counts connects, so that what belongs to an older one is told apart
    // The network is back, or somebody looks: no use in waiting on.
    addEventListener('online', () => this.hurry());
    document.addEventListener('visibilitychange', () => { if (!document.hidden) this.hurry(); });
  }

  start() {
    this.stop('');
    this.tries = 0;
    this.connect();
  }

  // stop ends the socket and whatever is planned. why is shown; '' for no word.
  stop(why) {
    this.run++;
    for (const name of Object.keys(this.timers)) this.timer(name);
    if (this.socket) {
      const socket = this.socket;
      this.socket = null;
      socket.close(1000);
    }
    if (why) this.state('stopped', { why });
  }

  state(name, more = {}) {
    this.now = name;
    this.on.state({ name, ...more });
  }

  // timer sets or, without a time, clears a timer by its name.
  timer(name, ms, act) {
    clearTimeout(this.timers[name]);
    delete this.timers[name];
    if (act) this.timers[name] = setTimeout(act, ms);
  }

  hurry() {
    if (this.now === 'waiting' && performance.now() >= this.backAt) this.connect();
  }

  // again plans the next try, not before the slot that we were given.
  again(why) {
    const wait = Math.max(pause(this.tries++, Math.random()), this.backAt - performance.now());
    this.state('waiting', { why, until: Date.now() + wait });
    this.timer('again', wait, () => this.connect());
  }

  async connect() {
    this.timer('again');
    const run = ++this.run;
    this.state('connecting');
    try {
      if (!this.grant || this.grant.until - performance.now() < Math.min(MARGIN, this.grant.life / 4)) {
        const grant = await fetchGrant(this.user, this.tenant);
        if (run !== this.run) return;
        this.grant = grant;
      }
      this.open(run);
    } catch (error) {
      if (run !== this.run) return;
      if (error instanceof Refused) this.stop(`These pages refused a token: ${error.message}`);
      else this.again(error.message);
    }
  }

  open(run) {
    const socket = new WebSocket(this.grant.websocket, [SUBPROTOCOL]);
    this.socket = socket;
    this.greeted = false;
    this.on.granted?.(this.grant);
    const mine = () => run === this.run && socket === this.socket;
    this.timer('hello', HELLO_TIMEOUT, () => this.lost(socket, { code: 0, reason: 'the notifier does not answer' }));
    socket.onopen = () => {
      if (mine()) this.send({ t: 'hello', auth: this.grant.token, cursor: this.cursor || undefined, channels: this.channels });
    };
    socket.onmessage = (event) => {
      if (!mine()) return;
      this.heard();
      for (const object of parse(event.data)) if (mine()) this.take(object);
    };
    socket.onclose = (event) => { if (mine()) this.lost(socket, event); };
  }

  send(object) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(object));
  }

  // subscribe and unsubscribe hold for this session and for every later one. Before the hello has gone nothing is sent: it names all channels.
  subscribe(channel) {
    if (this.channels.includes(channel)) return;
    this.channels = [...this.channels, channel];
    this.send({ t: 'subscribe', channel });
  }

  unsubscribe(channel) {
    this.channels = this.channels.filter((c) => c !== channel);
    this.send({ t: 'unsubscribe', channel });
  }

  // heard notes a sign of life. The notifier gives one each ping; after three that did not come, the connection is dead, whatever the network says.
  heard() {
    const socket = this.socket;
    this.timer('silence', (3 * (this.ping || DEFAULT_PING) + 5) * 1000, () => this.lost(socket, { code: 0, reason: 'nothing heard from the notifier' }));
  }

  // take acts on one object from the notifier. An unknown one is for a newer client.
  take(o) {
    switch (o.t) {
      case 'hello':
        this.greeted = true;
        this.ping = o.ping_s > 0 ? Math.min(o.ping_s, 300) : DEFAULT_PING;
        this.backAt = 0;
        this.heard();
        this.timer('hello');
        this.timer('stable', STABLE, () => { this.tries = 0; });
        this.keep(o.cursor);
        this.planRefresh();
        this.state('live');
        break;
      case 'msg': this.on.message(o); break;
      case 'cursor': this.keep(o.cursor); break;
      case 'sub': this.on.channel(o); break;
      case 'gap':
        this.on.gap(o);
        this.keep(o.cursor);
        break;
      case 'ping': this.send({ t: 'pong' }); break;
      case 'go': this.leave(o); break;
      case 'error': this.on.trouble(String(o.text ?? o.code)); break;
    }
  }

  keep(cursor) {
    if (typeof cursor !== 'string' || cursor.length > 4096) return;
    this.cursor = cursor;
    this.on.moved();
  }

  // leave goes when the notifier asks us to, and comes back in the slot that it gave: it closes by itself, and if it does not, we do.
  leave(o) {
    const wait = slot(o.after_ms);
    this.backAt = performance.now() + wait;
    const socket = this.socket;
    this.timer('leave', wait, () => this.lost(socket, { code: o.code, reason: '' }));
  }

  // planRefresh gets a new token while the old one still has a quarter of its life, so that a session never ends for its token.
  planRefresh() {
    const left = this.grant.until - performance.now() - this.grant.life / 4;
    this.timer('refresh', Math.max(1000, left * (0.9 + 0.1 * Math.random())), async () => {
      const run = this.run;
      try {
        const grant = await fetchGrant(this.user, this.tenant);
        if (run !== this.run) return;
        this.grant = grant;
        this.send({ t: 'refresh', auth: grant.token });
        this.planRefresh();
      } catch {
        if (run === this.run) this.timer('refresh', 5000, () => this.planRefresh());
      }
    });
  }

  // lost follows the end of a socket: come back, with a new token or not, or stay away.
  lost(socket, { code, reason }) {
    if (socket !== this.socket) return;
    this.socket = null;
    this.run++;
    for (const name of Object.keys(this.timers)) this.timer(name);
    socket.onclose = null;
    socket.close();
    const why = reason || (this.greeted ? 'the connection was lost' : 'the notifier cannot be reached');
    // A connect that led nowhere may be the token's fault, or the notifier has moved: ask again.
    if (!this.greeted || afterClose(code) === 'refresh') this.grant = null;
    if (afterClose(code) === 'stop') this.state('stopped', { why });
    else this.again(why);
  }
}

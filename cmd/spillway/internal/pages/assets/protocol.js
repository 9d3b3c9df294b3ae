// protocol.js: what the protocol spillway.v1 means to a client. Pure: no socket, no page, no clock.

export const SUBPROTOCOL = 'spillway.v1';

// A frame that is longer than this is not read: the notifier's are some 20 KiB at most, several objects together 64 KiB.
const MAX_FRAME = 1 << 20;

// parse returns the objects of a text frame, one a line. What is no object with a string `t` is left out: a newer notifier may know more than we do.
export function parse(text) {
  if (typeof text !== 'string' || text.length > MAX_FRAME) return [];
  const objects = [];
  for (const line of text.split('\n')) {
    if (line.trim() === '') continue;
    try {
      const object = JSON.parse(line);
      if (object !== null && typeof object === 'object' && typeof object.t === 'string') objects.push(object);
    } catch { /* not JSON: nothing that we understand */ }
  }
  return objects;
}

// afterClose says what a close code asks for: 'again' (come back in your slot), 'refresh' (a new token first) or 'stop' (coming back would change
// nothing). Codes that are not the notifier's own are a network's or a process's end: come back.
export function afterClose(code) {
  if (code >= 4100 && code <= 4199) return 'refresh';
  if (code >= 4200 && code <= 4299) return 'stop';
  return 'again';
}

const FIRST_PAUSE = 250, LONGEST_PAUSE = 20000;

// pause is how long to wait before a try, in ms: 250 ms doubling to 20 s, of which half is at random, so that clients that lost one notifier do not
// come back together. tries counts those that failed before, random is in [0, 1).
export function pause(tries, random) {
  const whole = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** Math.min(tries, 10));
  return Math.round(whole / 2 + whole / 2 * random);
}

// slot is how long the notifier asked to wait, in ms, from a field of its own: a number within an hour, else 0.
export function slot(ms) {
  return typeof ms === 'number' && ms > 0 ? Math.min(ms, 3600000) : 0;
}

// escape spells a part of a channel's name: UTF-8 bytes of [A-Za-z0-9._-] as they are, others percent-encoded.
export function escape(part) {
  let spelled = '';
  for (const byte of new TextEncoder().encode(part)) {
    const c = String.fromCharCode(byte);
    spelled += /[A-Za-z0-9._-]/.test(c) ? c : '%' + byte.toString(16).toUpperCase().padStart(2, '0');
  }
  return spelled;
}

// validPart reports whether a part of a channel's name may be called that: 1 to 128 bytes.
export function validPart(part) {
  const n = new TextEncoder().encode(part).length;
  return n >= 1 && n <= 128;
}

export const tenantChannel = (tenant) => `tenant:${escape(tenant)}`;
export const userChannel = (tenant, user) => `user:${escape(tenant)}:${escape(user)}`;
export const topicChannel = (tenant, name) => `topic:${escape(tenant)}:${escape(name)}`;

// named says what people call a channel: its kind and its last part, unescaped.
export function named(channel) {
  const text = String(channel);
  const parts = text.split(':');
  let name = parts[parts.length - 1];
  try { name = decodeURIComponent(name); } catch { /* another's spelling: as it is */ }
  return { kind: ['tenant', 'user', 'topic', 'system'].includes(parts[0]) ? parts[0] : 'other', name };
}

const GAPS = {
  ring: 'This page was away for longer than the notifier keeps notifications in memory.',
  cursor: 'The place where this page had stopped is not valid any more, so it goes on from now.',
  rights: 'The right to this channel was taken away.',
};

// gapText explains a gap to people.
export function gapText(gap) {
  const why = Object.hasOwn(GAPS, gap.reason) ? GAPS[gap.reason] : `The notifier says: ${String(gap.reason).slice(0, 100)}.`;
  return gap.channel ? `${why} Channel ${cut(String(gap.channel), 200)}.` : why;
}

// cut shortens a text to at most n characters and never splits one in two.
export function cut(text, n) {
  if (text.length <= n) return text;
  const end = /[\uD800-\uDBFF]/.test(text[n - 2]) ? n - 2 : n - 1;
  return text.slice(0, end) + '…';
}

const TITLES = ['title', 'subject', 'name', 'event'];
const TEXTS = ['text', 'message', 'body', 'description', 'summary'];

// summary makes a title and a text of whatever JSON a notification holds. Both are text, whatever they look like.
export function summary(data, json) {
  if (typeof data === 'string') return { title: '', text: cut(data, 1000) };
  if (data === null || typeof data !== 'object') return { title: '', text: String(data) };
  const first = (names) => {
    for (const name of names) {
      if (Object.hasOwn(data, name) && typeof data[name] === 'string' && data[name].trim() !== '') return data[name];
    }
    return '';
  };
  const title = cut(first(TITLES), 200), text = cut(first(TEXTS), 1000);
  return title || text ? { title, text } : { title: '', text: cut(json, 200) };
}

// depth is how deep brackets nest in JSON text.
function depth(json) {
  let now = 0, most = 0, quoted = false;
  for (let i = 0; i < json.length; i++) {
    const c = json[i];
    if (quoted) {
      if (c === '\\') i++;
      else if (c === '"') quoted = false;
    } else if (c === '"') quoted = true;
    else if (c === '[' || c === '{') most = Math.max(most, ++now);
    else if (c === ']' || c === '}') now--;
  }
  return most;
}

// pretty spells JSON for people. What nests deeply stays on one line: its indentation would be a thousand times its size.
export function pretty(json) {
  return depth(json) > 32 ? json : JSON.stringify(JSON.parse(json), null, 2);
}

// item is what is kept of a msg: strings of bounded size. The data is kept as text, because parsed JSON can be ten times its size.
export function item(msg) {
  let json;
  try {
    json = JSON.stringify(msg.data) ?? 'null';
  } catch { // nested deeper than this engine goes
    json = '"(nested too deeply to show)"';
  }
  const text = (v) => typeof v === 'string' ? v : '';
  return {
    id: cut(text(msg.id), 128), channel: cut(text(msg.channel), 1000), key: cut(text(msg.key), 128), at: time(msg.ts), json,
    ...summary(msg.data, json),
  };
}

// time reads a point in time, RFC 3339 or ms since 1970, as ms since 1970; 0 if it is neither.
export function time(ts) {
  const ms = typeof ts === 'number' ? ts : typeof ts === 'string' ? Date.parse(ts) : NaN;
  return Number.isFinite(ms) && Math.abs(ms) < 8.64e15 ? ms : 0;
}

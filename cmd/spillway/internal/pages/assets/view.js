// view.js: notifications as elements. Whatever they hold becomes text: nothing here parses markup, makes links or sets handlers from data.
import { named, pretty } from './protocol.js';

// element makes an element with a class and children, which are elements or text.
export function element(tag, name, ...children) {
  const e = document.createElement(tag);
  if (name) e.className = name;
  e.append(...children);
  return e;
}

// isolated is text whose direction is its own and touches nothing beside it.
function isolated(tag, name, text) {
  const e = element(tag, name);
  e.textContent = text;
  e.dir = 'auto';
  return e;
}

// clock is a time of the day, with the day unless it is today.
function clock(at) {
  const e = element('time', '');
  if (!at) return e;
  const date = new Date(at);
  e.dateTime = date.toISOString();
  e.title = date.toLocaleString();
  const today = date.toDateString() === new Date().toDateString();
  e.textContent = today ? date.toLocaleTimeString() : date.toLocaleString(undefined, { dateStyle: 'short', timeStyle: 'medium' });
  return e;
}

// noteView shows a notification. Its data is spelled out when somebody opens it.
export function noteView(item) {
  const { kind, name } = named(item.channel);
  const note = element('article', 'note');
  note.dataset.kind = kind;
  note.dataset.id = item.id;
  note.tabIndex = -1;
  const tag = element('span', 'tag', kind);
  note.append(element('div', 'head', tag, isolated('span', 'where', name === kind ? '' : name), clock(item.at)));
  if (item.title) note.append(isolated('div', 'title', item.title));
  if (item.text) note.append(isolated('div', 'text', item.text));
  const more = element('details', '', element('summary', '', 'Data'));
  more.addEventListener('toggle', () => {
    if (more.open && more.childElementCount === 1) fill(more, item);
  });
  note.append(more);
  return element('li', '', note);
}

function fill(more, item) {
  const facts = element('dl', '');
  for (const [term, value] of [['id', item.id], ['channel', item.channel], ['key', item.key]]) {
    if (value) facts.append(element('dt', '', term), isolated('dd', '', value));
  }
  const data = element('pre', '');
  data.tabIndex = 0; // so that the keyboard can scroll it
  data.setAttribute('aria-label', 'Data');
  data.textContent = pretty(item.json);
  more.append(facts, data);
}

// gapView says that something is missing here.
export function gapView(item) {
  const gap = element('article', 'gap', element('div', '', element('strong', '', 'Notifications may be missing here'), item.text), clock(item.at));
  gap.tabIndex = -1;
  return element('li', '', gap);
}

// channelView shows a channel that is followed and what the notifier says about it.
export function channelView(channel, known, unfollow) {
  const { kind, name } = named(channel);
  const tag = element('span', 'tag', kind);
  tag.dataset.kind = kind;
  const label = isolated('span', 'name', name);
  label.title = channel;
  const li = element('li', '', tag, label);
  li.dataset.channel = channel;
  if (!known) li.append(element('span', 'muted', '…'));
  else if (!known.ok) li.append(isolated('span', 'muted refused', known.error ? `refused: ${String(known.error).toLowerCase().replaceAll('_', ' ')}` : 'refused'));
  if (unfollow) {
    const button = element('button', 'remove', '×');
    button.type = 'button';
    button.setAttribute('aria-label', `Stop following ${name}`);
    button.addEventListener('click', unfollow);
    li.append(button);
  }
  return li;
}

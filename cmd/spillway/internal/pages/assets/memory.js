// memory.js: what a tab remembers of itself, until it is closed: the cursor and the newest items that fit. Items are text, as they were received.

const MAX = 400000; // characters, of the five million that a browser gives an origin
const key = (tenant, user) => `inbox ${JSON.stringify([tenant, user])}`;

// load returns {cursor, items}; empty if there is nothing or it is not ours.
export function load(tenant, user) {
  const nothing = { cursor: '', items: [] };
  try {
    const kept = JSON.parse(sessionStorage.getItem(key(tenant, user)));
    if (kept?.v !== 1 || typeof kept.cursor !== 'string' || !Array.isArray(kept.items)) return nothing;
    return { cursor: kept.cursor, items: kept.items.filter(whole) };
  } catch {
    return nothing;
  }
}

// whole reports whether an item has every field that is shown, each of its kind.
function whole(item) {
  const texts = item?.gap ? ['text'] : ['id', 'channel', 'key', 'json', 'title', 'text'];
  return item && typeof item === 'object' && Number.isFinite(item.at) && texts.every((name) => typeof item[name] === 'string');
}

// save keeps the newest items that fit. Older than the cursor they are all the same: nothing would send them again.
export function save(tenant, user, { cursor, items }) {
  const newest = [];
  let size = 0;
  for (let i = items.length - 1; i >= 0; i--) {
    size += JSON.stringify(items[i]).length;
    if (size > MAX) break;
    newest.unshift(items[i]);
  }
  try {
    sessionStorage.setItem(key(tenant, user), JSON.stringify({ v: 1, cursor: cursor ?? '', items: newest }));
  } catch { /* no room, or not allowed: the page works without */ }
}

// items.js: what the inbox holds, newest first, within bounds. Pure: no socket, no page.

export const MAX_ITEMS = 500;
export const MAX_BYTES = 2 << 20;
// As many ids are remembered to tell what comes twice: more than a notifier sends again after a reconnect, which is what came since the last cursor.
export const MAX_SEEN = 8192;

// size is what an item may take, in bytes: two for each character, and the object.
function size(item) {
  let n = 200;
  for (const v of Object.values(item)) if (typeof v === 'string') n += 2 * v.length;
  return n;
}

export class Items {
  constructor() {
    this.list = []; // oldest first, so that adding is cheap
    this.bytes = 0;
    this.seen = new Set(); // in the order of arrival
    this.twice = 0; // what came again and was not shown
    this.dropped = 0; // what was shown once and made way
  }

  // add takes an item unless it has come before, and reports whether it did. The oldest make way.
  add(item) {
    if (item.id) {
      if (this.seen.has(item.id)) {
        this.twice++;
        return false;
      }
      this.seen.add(item.id);
      if (this.seen.size > MAX_SEEN) this.seen.delete(this.seen.values().next().value);
    }
    this.list.push(item);
    this.bytes += size(item);
    let drop = 0;
    while (this.list.length - drop > MAX_ITEMS || this.bytes > MAX_BYTES && this.list.length - drop > 1) this.bytes -= size(this.list[drop++]);
    if (drop > 0) {
      this.list.splice(0, drop);
      this.dropped += drop;
    }
    return true;
  }

  // clear forgets what is shown, never what was seen.
  clear() {
    this.list = [];
    this.bytes = 0;
  }
}

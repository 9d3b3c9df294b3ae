// Package pages is what people look at in a browser: where everything of a
// `spillway dev` is, and an inbox that shows notifications as they come.
//
//	browser ── GET /, /inbox, /assets/… ──▶ Pages (nothing changes on a GET)
//	        ── POST /session ────────────▶ a subscriber's token of a few minutes
//	        ── POST /publish ────────────▶ one notification, to try things
//	        ══ websocket ════════════════▶ the notifier itself; Pages is not in between
//
// What is shown comes from sources that may be hostile, and the port is open to
// every page that a browser on this machine visits. So:
//
//   - Whatever comes over the socket becomes text, never markup: the scripts use
//     textContent only, and the Content-Security-Policy allows no inline script,
//     no other origin but the notifier's socket and, by Trusted Types, no sink
//     that would parse HTML.
//   - A request for another host than 127.0.0.1 or localhost with this very port
//     is refused, so that a name that is rebound to loopback gets nothing.
//   - A POST needs this page's origin and a header that other origins cannot send
//     without a preflight, which is never granted.
//
// It does not ask who is in front of the screen: whoever can connect to the port
// can read and write the installation's notifications. It is for one machine.
package pages

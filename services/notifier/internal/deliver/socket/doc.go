// Package socket is one websocket of the notifier: the handshake, a reader with a tiny buffer, and a write that never waits. It knows RFC 6455 and nothing of
// sessions, channels or JSON. The codec of frames is github.com/gobwas/ws, which nothing outside of this package sees.
//
// # Guarantees
//
//   - Nothing but a good request becomes a websocket: method, version, key, subprotocol and origin are judged before the upgrade, and an extension is never
//     negotiated, compression least of all.
//   - Write and Flush never wait and start no goroutine, whatever the peer does: they offer bytes to the kernel once and say what it took.
//   - A frame that was begun is finished before another begins. What is left of it is a copy, at most one frame; no other byte is kept for a peer that does not read,
//     but for one pong of at most 127 bytes.
//   - A message of the peer is at most Config.MaxMessage bytes in at most 64 fragments, and a buffer grows only as bytes arrive. Binary, unmasked, oversize and
//     malformed frames end the connection with their code; so do floods of pings.
//   - A message that was begun is whole within Config.Within, and all connections of a Budget together hold no more than it of messages that are not whole or not
//     dealt with. What would exceed it ends its connection, whatever others do.
//
// # Memory
//
// A Conn is below 500 bytes and holds no buffer of net/http. Whoever serves it should return from the HTTP handler and read in a goroutine of its own: the one of
// net/http keeps the request and a grown stack alive for as long as the handler runs.
package socket

// Package frame is the JSON of protocol spillway.v1, the server's half: it writes what the server says and reads what clients say. The protocol itself, with
// every field and its bounds, is docs/reference/websocket.md; the clients' half is pkg/subscriber. Nothing here knows sockets or sessions.
//
// A text message holds one or several JSON objects, separated by newlines; the field t names each. What a server appends never holds a raw newline, so frames may
// be joined by one. What a client sends is hostile until decoded: Decode is bounded in bytes, depth, fields and objects, keeps nothing of the message, and skips
// what it does not know instead of refusing it, so that newer clients can talk to older servers.
package frame

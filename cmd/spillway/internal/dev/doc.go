// Package dev is `spillway dev`: the broker and the services on one machine,
// each a process of its own, supervised.
//
//	lock the data directory ─▶ broker ─▶ install ─▶ services ─▶ ready file
//	                                                   │
//	Stop: enqueue ─▶ notifiers ─▶ schedulers ─▶ automation ─▶ broker ◀──┘ (each in order, with time to drain)
//
// dev holds no state but the data directory, takes part in no request and may
// be killed: its children end when its pipes close, and the next start finds
// everything in the broker's logs.
package dev

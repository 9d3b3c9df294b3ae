// Package subscriber reads notifications from Spillway's notifier over a websocket, by protocol spillway.v1 (docs/reference/websocket.md).
//
//	s, err := subscriber.Dial(ctx, "ws://127.0.0.1:7422/v1/ws", subscriber.Config{Token: token, Channels: []string{"user:t1:anna"}})
//	for {
//		e, err := s.Next(ctx)
//		if err != nil {
//			break // dial again with Cursor: s.Cursor(), as subscriber.Advise(err) says
//		}
//		switch e.T { case subscriber.Msg: … case subscriber.Gap: … }
//	}
//
// A Session is one connection. What comes after it is the caller's: to dial again with the cursor, which brings everything that was missed or says by a Gap that it cannot.
// After a resume a message may come twice, with the same id. A caller that does not call Next reads nothing: the notifier keeps nothing for it, and closes a connection that takes
// no byte for ten seconds. Pings are answered while the caller keeps up.
package subscriber

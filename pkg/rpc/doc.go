// Package rpc is how Spillway's services speak: one gRPC server, one way to
// dial it, one form of error, one form of credential and one admin listener,
// so that the four services answer a stranger, a flood and a panic alike.
//
// # What a server guarantees
//
//   - No method without a role: NewServer refuses to start when a registered
//     method is not in Config.Roles, or a listed one is not registered.
//   - Nobody unknown reaches a handler: except for health, every call carries
//     a token that was verified locally, and its role allows the method.
//   - No invalid request reaches a handler: protovalidate's rules run first,
//     and the refusal names every offending field at once, up to 64; of a
//     frame of a stream, and of a request of very many parts, the first one.
//   - Nothing is unbounded: message and header sizes, the parts of a message,
//     what a refusal costs, streams and connections, the deadline of every
//     unary call, the time to stop.
//   - A panic ends its call, not the process, and no internal text leaves it.
//   - Plaintext is served and dialled on this machine only.
//
// # Order of the chain
//
//	authorise → read → trace → contain → deadline → validate → handler
//
// Of a stream nothing is read before it is authorised, either.
//
// # Two kinds of token
//
// Both are JWTs of one issuer under one set of rules: Verify judges those of
// services and people, which have roles, Subscriber those of a notifier's
// clients, which have a tenant and channels, no roles and ten minutes at most.
// Neither passes for the other.
//
// The service's refusals are made from Error; this package turns everything
// that is not one into INTERNAL with a request id, logged here once.
package rpc

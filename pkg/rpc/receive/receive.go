// Package receive bounds what unary requests cost before anybody can judge them.
//
// A request is in memory before its handler sees it, and may have as many bytes as the server takes in one message. So only so many of a method are
// received at the same time; the others wait with no more than their stream's window in memory. A place is free again when the handler calls
// [Judged]: from then on what is left of the request is counted by whoever admitted it.
//
// What a stranger sends is never read: package rpc turns him away before.
package receive

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// patience is how long a request may take to arrive before its place goes to another: slow senders hold nobody up, and what they have sent grows
// slowly.
const patience = 250 * time.Millisecond

// places bounds the requests of one method that are being received or judged.
type places chan struct{}

// place is a request's own; it is given back once, whoever does it first.
type place struct{ giveBack func() }

type placeKey struct{}

// Judged gives a request's place back: its message is not needed any more. ctx is the handler's; calls after the first do nothing.
func Judged(ctx context.Context) {
	if p, ok := ctx.Value(placeKey{}).(*place); ok {
		p.giveBack()
	}
}

// Bounded returns a service's description with at most as many requests of each unary method received at the same time as atOnce says, at least
// one. It changes what generated code does before it calls a handler: it waits for a place before it reads the request, as long as the call lasts.
func Bounded(of grpc.ServiceDesc, atOnce func(method string) int) *grpc.ServiceDesc {
	of.Methods = slices.Clone(of.Methods)
	for i := range of.Methods {
		of.Methods[i].Handler = make(places, max(1, atOnce(of.Methods[i].MethodName))).bound(of.Methods[i].Handler)
	}
	return &of
}

func (p places) bound(handle grpc.MethodHandler) grpc.MethodHandler {
	return func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		select {
		case p <- struct{}{}:
		case <-ctx.Done(): // the caller has gone
			return nil, context.Cause(ctx)
		}
		own := &place{sync.OnceFunc(func() { <-p })}
		defer own.giveBack()
		slow := time.AfterFunc(patience, own.giveBack)
		return handle(srv, context.WithValue(ctx, placeKey{}, own), func(message any) error {
			defer slow.Stop()
			return dec(message)
		}, interceptor)
	}
}

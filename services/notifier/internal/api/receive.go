package api

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

// A request is in memory before anybody can judge it, and may have 4 MiB. So only so many are received at the same time, as in enqueue; the others
// wait with no more than their stream's window in memory. A place is free again when the request's notifications are encoded or refused, long
// before the log has them: then the admission's budget counts what is left.
const (
	// batchesAtOnce bounds PublishBatch to 4 × 4 MiB, twice for the message and its bytes.
	batchesAtOnce = 4
	// singlesAtOnce bounds Publish, apart, so that a single notification never waits behind batches: 64 × 16 KiB of the largest that is accepted.
	singlesAtOnce = 64
	// receivePatience is how long a request may take to arrive before its place goes to another: slow senders hold nobody up, and what they
	// have sent grows slowly.
	receivePatience = 250 * time.Millisecond
)

// places bounds the requests of one method that are being received or judged.
type places chan struct{}

// place is a request's own; it is given back once, whoever does it first.
type place struct{ giveBack func() }

type placeKey struct{}

// judged gives a request's place back: its message is not needed any more.
func judged(ctx context.Context) {
	if p, ok := ctx.Value(placeKey{}).(*place); ok {
		p.giveBack()
	}
}

// describe is the service's description with bounded receiving: the handlers of generated code call dec to read the request.
func describe() *grpc.ServiceDesc {
	desc := notifierv1.NotifierService_ServiceDesc
	desc.Methods = slices.Clone(desc.Methods)
	for i := range desc.Methods {
		limit := singlesAtOnce
		if desc.Methods[i].MethodName == "PublishBatch" {
			limit = batchesAtOnce
		}
		desc.Methods[i].Handler = make(places, limit).bound(desc.Methods[i].Handler)
	}
	return &desc
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
		slow := time.AfterFunc(receivePatience, own.giveBack)
		return handle(srv, context.WithValue(ctx, placeKey{}, own), func(message any) error {
			defer slow.Stop()
			return dec(message)
		}, interceptor)
	}
}

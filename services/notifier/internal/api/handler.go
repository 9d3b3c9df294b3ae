// Package api speaks spillway.notifier.v1: it turns requests into drafts of the core, and what became of them into responses and statuses.
//
// A notification of a batch is judged on its own, so a bad one harms no other: that is why the validator that every request passes before it comes
// here leaves the items to core.Check.
package api

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/receive"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

// maxBatchBytes is the contract's bound of a batch. It is below the largest message that the server takes, so that the refusal can say why.
const maxBatchBytes = 3 << 20

// atOnce is how many requests of a method are received at the same time: of batches 4 × 4 MiB, twice for the message and its bytes;
// of single notifications, apart, so that none waits behind batches, 64 × 16 KiB of the largest that is accepted.
func atOnce(method string) int {
	if method == "PublishBatch" {
		return 4
	}
	return 64
}

// Publisher makes notifications durable. Publish returns a result for each draft, in order, once its fate is known or ctx has ended. It calls judged
// when it holds no draft's data any more, before it waits for the log.
type Publisher interface {
	Publish(ctx context.Context, caller core.Caller, drafts []*core.Draft, judged func()) []core.Result
}

// Handler is the NotifierService.
type Handler struct {
	notifierv1.UnimplementedNotifierServiceServer
	publisher Publisher
}

// Roles names the role that every method needs.
func Roles() map[string]rpc.Role {
	return map[string]rpc.Role{
		notifierv1.NotifierService_Publish_FullMethodName:      rpc.RolePublish,
		notifierv1.NotifierService_PublishBatch_FullMethodName: rpc.RolePublish,
	}
}

// Register adds the service to the server.
func Register(s grpc.ServiceRegistrar, p Publisher) {
	s.RegisterService(receive.Bounded(notifierv1.NotifierService_ServiceDesc, atOnce), &Handler{publisher: p})
}

// Publish accepts one notification.
func (h *Handler) Publish(ctx context.Context, req *notifierv1.PublishRequest) (*notifierv1.PublishResponse, error) {
	draft := fromRequest(req)
	draft.Held = callBytes
	req.Data = nil // the draft holds it, for no longer than it is needed
	r := h.publisher.Publish(ctx, caller(ctx), []*core.Draft{draft}, func() { receive.Judged(ctx) })[0]
	if r.Refusal != nil {
		return nil, failure(draft.Source, r.Refusal)
	}
	return response(&r), nil
}

// PublishBatch accepts several notifications, each on its own.
func (h *Handler) PublishBatch(ctx context.Context, req *notifierv1.PublishBatchRequest) (*notifierv1.PublishBatchResponse, error) {
	if size := proto.Size(req); size > maxBatchBytes {
		return nil, failure("", &core.Refusal{
			Reason: core.Invalid, Message: "the batch is too large",
			Violations: []core.Violation{{Field: "notifications", Description: fmt.Sprintf("have %d bytes, at most %d are allowed", size, maxBatchBytes)}},
		})
	}
	drafts := make([]*core.Draft, len(req.GetNotifications()))
	for i, n := range req.GetNotifications() {
		drafts[i] = fromRequest(n)
		drafts[i].Held = callBytes / int64(len(drafts))
	}
	req.Notifications = nil // what is refused, and what is encoded, is garbage while the rest waits for the log
	items := make([]*notifierv1.PublishBatchResponse_Item, len(drafts))
	for i, r := range h.publisher.Publish(ctx, caller(ctx), drafts, func() { receive.Judged(ctx) }) {
		if r.Refusal != nil {
			items[i] = itemError(drafts[i].Source, r.Refusal)
		} else {
			items[i] = &notifierv1.PublishBatchResponse_Item{Result: &notifierv1.PublishBatchResponse_Item_Ok{Ok: response(&r)}}
		}
	}
	return &notifierv1.PublishBatchResponse{Items: items}, nil
}

func caller(ctx context.Context) core.Caller {
	c, ok := rpc.CallerFrom(ctx)
	if !ok { // a server without authorisation in front: nobody's principal, and of no source
		return core.Caller{Sources: []string{}}
	}
	return core.Caller{Subject: c.Subject, Sources: c.Sources}
}

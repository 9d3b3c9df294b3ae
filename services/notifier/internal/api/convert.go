package api

import (
	"encoding/base64"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

// callBytes is what a call holds while it waits for the log, beside its notifications: goroutine, stream, contexts, its part of a connection. It is
// what enqueue was measured to hold; the budget for bytes has to see it.
const callBytes = 12 << 10

// homeTopic stands in receipts: the topic's name without its prefix.
const homeTopic = "notifications"

// classes pairs the words of both sides. What is not in it is none.
var classes = map[notifierv1.DeliveryClass]core.Class{
	notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT:     core.Event,
	notifierv1.DeliveryClass_DELIVERY_CLASS_STATE:     core.State,
	notifierv1.DeliveryClass_DELIVERY_CLASS_EPHEMERAL: core.Ephemeral,
}

// fromRequest reads a notification. The draft holds the request's data, not a copy.
func fromRequest(r *notifierv1.PublishRequest) *core.Draft {
	return &core.Draft{
		Source: r.GetSource(), Tenant: r.GetTenant(), Channel: r.GetChannel(), Key: r.GetKey(), Class: classes[r.GetClass()], Data: r.GetData(),
		TTL: duration(r.GetTtl()), IdempotencyKey: r.GetIdempotencyKey(),
	}
}

// duration is nil for an absent one and negative for one that is malformed or beyond what Go can hold, as core.Draft wants it.
func duration(d *durationpb.Duration) *time.Duration {
	if d == nil {
		return nil
	}
	v := d.AsDuration() // saturates
	if !d.IsValid() {
		v = -1
	}
	return &v
}

func response(r *core.Result) *notifierv1.PublishResponse {
	return &notifierv1.PublishResponse{Id: r.ID, Receipt: receipt(r.Home)}
}

// receipt is the notification's home in base64url, at most 64 bytes: opaque to callers.
func receipt(h core.Home) string {
	b, err := proto.Marshal(&logv1.Home{Topic: homeTopic, Partition: h.Partition, Offset: h.Offset})
	if err != nil { // only for names that are no UTF-8; ours is ours
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

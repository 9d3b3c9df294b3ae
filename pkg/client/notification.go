package client

import (
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/spillway/spillway/pkg/rpc"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

// Notification is what websocket clients are to receive. Channel, Data, Source and Tenant are required; in a handler the source is inherited when it
// is empty.
//
// It is of class event: every one is delivered, in the order of its channel, or a gap tells the client that some are missing.
type Notification struct {
	// Channel is tenant:{t}, user:{t}:{u} or topic:{t}:{name}, t being the Tenant. Each part is 1 to 128 bytes of [A-Za-z0-9._-], other bytes are
	// percent-encoded with upper-case digits.
	Channel string
	// Data is JSON of any kind, at most 16 KiB.
	Data []byte
	// Source is the registered origin, whose publish rate it counts for. Tenant is whose notification it is: 1 to 128 printable ASCII bytes.
	Source, Tenant string
	// Key is what it is about, for clients to see: at most 128 printable ASCII bytes. Empty: none.
	Key string
	// TTL is how long it is worth delivering, 1 s to 24 h. 0: 24 h.
	TTL time.Duration
	// IdempotencyKey makes repeated calls one notification in the eyes of clients, which see one id: at most 128 printable ASCII bytes. Empty: this call
	// alone makes one, however often it is tried. A handler that publishes uses its job's id, so that every attempt makes the same notification.
	IdempotencyKey string
}

// WithJSON returns the notification with v in JSON as its data.
func (n Notification) WithJSON(v any) (Notification, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return n, fmt.Errorf("data: %w", err)
	}
	n.Data = b
	return n, nil
}

// Published tells of an accepted notification.
type Published struct {
	// ID is the notification's id, which clients see: the same for every try under one idempotency key.
	ID string
	// Receipt is opaque: where it is in the log.
	Receipt string
}

// PublishedItem is the verdict on one notification of a batch: Err is nil for an accepted one, else an [*Error].
type PublishedItem struct {
	Published Published
	Err       error
}

// request is the notification as it is sent. The key is made here, before the first try, and is part of it from then on.
func (n *Notification) request(parent *Parent, key func() string) *notifierv1.PublishRequest {
	r := &notifierv1.PublishRequest{
		Channel: n.Channel, Class: notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT, Key: n.Key, Data: n.Data, Source: n.Source, Tenant: n.Tenant,
		IdempotencyKey: n.IdempotencyKey,
	}
	if n.TTL != 0 {
		r.Ttl = durationpb.New(n.TTL)
	}
	if r.IdempotencyKey == "" {
		r.IdempotencyKey = key()
	}
	if r.Source == "" && parent != nil {
		r.Source = parent.Source
	}
	return r
}

// unpublishable refuses a notification whose text is not valid UTF-8; nil: it can be sent. gRPC would fail to encode it, and with it every other of
// the request.
func unpublishable(r *notifierv1.PublishRequest) *Error {
	var wrong []rpc.Violation
	for _, field := range []struct{ name, text string }{
		{"channel", r.GetChannel()}, {"key", r.GetKey()}, {"source", r.GetSource()}, {"tenant", r.GetTenant()}, {"idempotency_key", r.GetIdempotencyKey()},
	} {
		if !utf8.ValidString(field.text) {
			wrong = append(wrong, rpc.Violation{Field: field.name, Description: "must be valid UTF-8"})
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	e := refusal(&rpc.Error{
		Code: codes.InvalidArgument, Reason: rpc.ReasonInvalid, Violations: wrong, Message: "not sent: the notification cannot be encoded",
	})
	e.publish = true
	return e
}

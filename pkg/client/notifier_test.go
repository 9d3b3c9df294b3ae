package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/rpc/rpctest"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

// board answers what answer says for each notification, and notes what came.
type board struct {
	notifierv1.UnimplementedNotifierServiceServer
	answer func(ctx context.Context, r *notifierv1.PublishRequest) error

	mu      sync.Mutex
	seen    []*notifierv1.PublishRequest
	batches []int // sizes of requests, 1 for Publish
	largest int   // request, in bytes
}

func (b *board) note(size int, list ...*notifierv1.PublishRequest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen, b.batches, b.largest = append(b.seen, list...), append(b.batches, len(list)), max(b.largest, size)
}

func (b *board) Publish(ctx context.Context, r *notifierv1.PublishRequest) (*notifierv1.PublishResponse, error) {
	b.note(proto.Size(r), r)
	if err := b.answer(ctx, r); err != nil {
		return nil, err
	}
	return &notifierv1.PublishResponse{Id: "id-" + r.GetIdempotencyKey(), Receipt: "r"}, nil
}

func (b *board) PublishBatch(ctx context.Context, req *notifierv1.PublishBatchRequest) (*notifierv1.PublishBatchResponse, error) {
	b.note(proto.Size(req), req.GetNotifications()...)
	resp := &notifierv1.PublishBatchResponse{}
	for _, r := range req.GetNotifications() {
		item := &notifierv1.PublishBatchResponse_Item{Result: &notifierv1.PublishBatchResponse_Item_Ok{Ok: &notifierv1.PublishResponse{Id: "id-" + r.GetIdempotencyKey()}}}
		if err := b.answer(ctx, r); err != nil {
			item = &notifierv1.PublishBatchResponse_Item{Result: &notifierv1.PublishBatchResponse_Item_Error{Error: status.Convert(err).Proto()}}
		}
		resp.Items = append(resp.Items, item)
	}
	return resp, nil
}

// posting runs f with a Notifier of b inside a synctest bubble.
func posting(t *testing.T, b *board, f func(t *testing.T, n *Notifier), opts ...Option) {
	synctest.Test(t, func(t *testing.T) {
		network := rpctest.NewNetwork()
		server := grpc.NewServer()
		notifierv1.RegisterNotifierServiceServer(server, b)
		go server.Serve(network.Listen("notifier:7420"))
		dial := grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return network.Dial(ctx, a) })
		n, err := DialNotifier(rpctest.Target("notifier:7420"), append(opts, WithDialOptions(dial))...)
		if err != nil {
			t.Fatal(err)
		}
		f(t, n)
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
		synctest.Wait()
	})
}

func hello() Notification {
	return Notification{Source: "crm", Tenant: "t1", Channel: "tenant:t1", Data: []byte(`"hello"`)}
}

// says answers the tries of a notification in turn; the last answer stands.
func says(answers ...error) func(context.Context, *notifierv1.PublishRequest) error {
	n := 0
	return func(context.Context, *notifierv1.PublishRequest) error {
		n++
		return answers[min(n, len(answers))-1]
	}
}

func TestNotificationHasOneKeyForAllTries(t *testing.T) {
	b := &board{answer: says(refuse(codes.Unavailable, "BROKER_UNAVAILABLE"), refuse(codes.Aborted, "FATE_UNKNOWN"), nil)}
	posting(t, b, func(t *testing.T, n *Notifier) {
		p, err := n.Publish(t.Context(), hello())
		if err != nil {
			t.Fatal(err)
		}
		key := b.seen[0].GetIdempotencyKey()
		if len(b.seen) != 3 || p.ID != "id-"+key || p.Receipt != "r" || b.seen[1].GetIdempotencyKey() != key || b.seen[2].GetIdempotencyKey() != key {
			t.Errorf("%d tries, %v", len(b.seen), b.seen)
		}
		if at, ok := envelope.KeyTime(key); !ok || time.Since(at) > time.Minute {
			t.Errorf("key %q is not of the SDK's form", key)
		}
		if b.seen[0].GetClass() != notifierv1.DeliveryClass_DELIVERY_CLASS_EVENT || b.seen[0].GetTtl() != nil {
			t.Errorf("sent %v", b.seen[0])
		}
	})
}

// A refusal is reported as one only when nothing before it may have been accepted.
func TestNotificationRefusedAfterUnknownFate(t *testing.T) {
	for _, c := range []struct {
		name    string
		answers []error
		reason  string
		code    codes.Code
		refused bool
		tries   int
	}{
		{"refused at once", []error{refuse(codes.NotFound, "UNKNOWN_SOURCE")}, "UNKNOWN_SOURCE", codes.NotFound, true, 1},
		{"over the quota is not tried again", []error{refuse(codes.ResourceExhausted, "QUOTA_EXCEEDED")}, "QUOTA_EXCEEDED", codes.ResourceExhausted, true, 1},
		{"refused after a try of unknown fate", []error{refuse(codes.Aborted, "FATE_UNKNOWN"), refuse(codes.ResourceExhausted, "QUOTA_EXCEEDED")}, "FATE_UNKNOWN", codes.Aborted, false, 2},
		{"refused after a broken stream", []error{status.Error(codes.Unavailable, "broken"), refuse(codes.PermissionDenied, "NOT_ALLOWED")}, "FATE_UNKNOWN", codes.Aborted, false, 2},
		{"unknown method", []error{status.Error(codes.Unimplemented, "")}, "", codes.Unimplemented, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := &board{answer: says(c.answers...)}
			posting(t, b, func(t *testing.T, n *Notifier) {
				_, err := n.Publish(t.Context(), hello())
				if Reason(err) != c.reason || status.Code(err) != c.code || Refused(err) != c.refused || len(b.seen) != c.tries || !strings.HasPrefix(err.Error(), "publish: ") {
					t.Errorf("got %v (refused %v) after %d tries", err, Refused(err), len(b.seen))
				}
			})
		})
	}
}

// Any number travels in requests of the contract's size, in order; only what is open is sent again.
func TestNotificationsInParts(t *testing.T) {
	failed := map[string]bool{}
	b := &board{answer: func(_ context.Context, r *notifierv1.PublishRequest) error {
		switch key := r.GetIdempotencyKey(); {
		case strings.HasSuffix(key, "7") && !failed[key]:
			failed[key] = true
			return refuse(codes.Unavailable, "BROKER_UNAVAILABLE")
		case strings.HasSuffix(key, "3"):
			return refuse(codes.InvalidArgument, "INVALID")
		}
		return nil
	}}
	posting(t, b, func(t *testing.T, n *Notifier) {
		var list []Notification
		for i := range 2500 {
			one := hello()
			one.IdempotencyKey = fmt.Sprint("k", i)
			list = append(list, one)
		}
		items := n.PublishBatch(t.Context(), list)
		for i, item := range items {
			if i%10 == 3 && Reason(item.Err) != "INVALID" || i%10 != 3 && (item.Err != nil || item.Published.ID != fmt.Sprint("id-k", i)) {
				t.Fatalf("item %d: %+v", i, item)
			}
		}
		if len(items) != 2500 || !slices.Equal(b.batches, []int{1000, 1000, 500, 250}) {
			t.Errorf("%d items in requests of %v", len(items), b.batches)
		}
		b.batches = nil
		for i := range list[:400] {
			list[i].Data = []byte(`"` + strings.Repeat("a", 16<<10-2) + `"`)
			list[i].IdempotencyKey = fmt.Sprint("l", i*10)
		}
		for _, item := range n.PublishBatch(t.Context(), list[:400]) {
			if item.Err != nil {
				t.Fatal(item.Err)
			}
		}
		if len(b.batches) != 3 || b.largest > maxBatchBytes {
			t.Errorf("requests of %v, the largest of %d bytes", b.batches, b.largest)
		}
	}, WithRetryBudget(1))
}

func TestNotificationOfAHandler(t *testing.T) {
	b := &board{answer: says(nil)}
	posting(t, b, func(t *testing.T, n *Notifier) {
		ctx := WithParent(t.Context(), Parent{JobID: "id", Source: "parent"})
		one := hello()
		one.Source = ""
		for _, n2 := range []Notification{one, hello()} {
			if _, err := n.Publish(ctx, n2); err != nil {
				t.Fatal(err)
			}
		}
		if b.seen[0].GetSource() != "parent" || b.seen[1].GetSource() != "crm" {
			t.Errorf("sent %v", b.seen)
		}
	})
}

// Text that cannot be encoded is the notification's fault, told by field, and costs the others nothing.
func TestNotificationOfInvalidText(t *testing.T) {
	b := &board{answer: says(nil)}
	posting(t, b, func(t *testing.T, n *Notifier) {
		bad := hello()
		bad.Channel, bad.Key = "\xff", "\xfe"
		items := n.PublishBatch(t.Context(), []Notification{hello(), bad, hello()})
		var e *Error
		if items[0].Err != nil || items[2].Err != nil || !errors.As(items[1].Err, &e) || !e.Refused || !slices.Equal(e.Fields, []string{"channel: must be valid UTF-8", "key: must be valid UTF-8"}) {
			t.Errorf("%+v", items)
		}
		if len(n.PublishBatch(t.Context(), nil)) != 0 || !slices.Equal(b.batches, []int{2}) {
			t.Errorf("requests of %v", b.batches)
		}
	})
}

// A service that answers nothing: the call ends with its context, and the default bounds one without a deadline.
func TestNotificationDeadline(t *testing.T) {
	b := &board{answer: func(ctx context.Context, _ *notifierv1.PublishRequest) error { <-ctx.Done(); return ctx.Err() }}
	posting(t, b, func(t *testing.T, n *Notifier) {
		for want, ctx := range map[time.Duration]context.Context{DefaultTimeout: t.Context(), 3 * time.Second: deadline(t, 3*time.Second)} {
			began := time.Now()
			_, err := n.Publish(ctx, hello())
			if took := time.Since(began); took > want+100*time.Millisecond || took < want-3*time.Second || Refused(err) || status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("took %v, want %v: %v", took, want, err)
			}
		}
	})
}

func deadline(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// While the service answers nothing but overload, part of the calls is not sent.
func TestNotificationsAreThrottled(t *testing.T) {
	b := &board{answer: says(refuse(codes.ResourceExhausted, "OVERLOADED"))}
	posting(t, b, func(t *testing.T, n *Notifier) {
		for range 400 {
			_, err := n.Publish(t.Context(), hello())
			if Reason(err) != rpc.ReasonOverloaded || !Refused(err) {
				t.Fatal(err)
			}
		}
		if len(b.seen) > 300 || len(b.seen) < 50 {
			t.Errorf("%d of 400 sent", len(b.seen))
		}
	})
}

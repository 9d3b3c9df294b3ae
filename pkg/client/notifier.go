package client

import (
	"context"
	"math/rand/v2"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/rpc"
	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

// Notifier publishes notifications. It is safe for concurrent use; make one and keep it. It has no goroutines of its own.
type Notifier struct {
	service notifierv1.NotifierServiceClient
	conn    *grpc.ClientConn // nil when the caller owns it
	timeout time.Duration

	budget   *budget
	throttle throttle
}

// DialNotifier returns a client of the notifier at target, such as "dns:///notifier:7420". It connects in the background, and again whenever it has
// to: calls wait for a connection until their deadline. Options are those of Dial; WithMiddleware has no effect. Close it.
func DialNotifier(target string, opts ...Option) (*Notifier, error) {
	o := apply(opts)
	if o.dial.Token == "" && o.dial.TokenFile == "" {
		o.dial.TokenFile = os.Getenv(tokenFileVariable)
	}
	conn, err := rpc.Dial(target, o.dial)
	if err != nil {
		return nil, err
	}
	n := buildNotifier(conn, o)
	n.conn = conn
	return n, nil
}

// NewNotifier returns a client that uses a connection of the caller's, who closes it after the last call. Options of dialling have no effect.
func NewNotifier(conn grpc.ClientConnInterface, opts ...Option) *Notifier {
	return buildNotifier(conn, apply(opts))
}

func buildNotifier(conn grpc.ClientConnInterface, o *options) *Notifier {
	return &Notifier{service: notifierv1.NewNotifierServiceClient(conn), timeout: o.timeout, budget: newBudget(o.retries)}
}

// Close closes the connection of DialNotifier. Calls that it interrupts may have been accepted.
func (n *Notifier) Close() error {
	if n.conn == nil {
		return nil
	}
	return n.conn.Close()
}

// Publish makes one notification durable and returns when it is; websockets get it after that. The error is an [*Error]; with Refused true the
// notification was certainly not accepted: QUOTA_EXCEEDED above the source's publish rate, with Retry. While the service sheds load, part of the
// calls is refused here without being sent, with RESOURCE_EXHAUSTED and OVERLOADED.
func (n *Notifier) Publish(ctx context.Context, notification Notification) (Published, error) {
	item := n.PublishBatch(ctx, []Notification{notification})[0]
	return item.Published, item.Err
}

// PublishBatch makes several notifications durable and returns a verdict for each, in order. There may be any number: they travel in requests of at
// most 1,000 notifications and 3 MiB, one after the other. Retries carry only those whose fate is open; the order of a channel is that of the call as
// long as nothing is tried again.
func (n *Notifier) PublishBatch(ctx context.Context, notifications []Notification) []PublishedItem {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, n.timeout)
		defer cancel()
	}
	began := time.Now()
	items := make([]PublishedItem, len(notifications))
	requests := make([]*notifierv1.PublishRequest, len(notifications))
	open := make([]int, 0, len(notifications)) // indices of those without a final verdict
	var parent *Parent
	if p, ok := ParentFrom(ctx); ok {
		parent = &p
	}
	for i := range notifications {
		requests[i] = notifications[i].request(parent, newKey)
		if e := unpublishable(requests[i]); e != nil {
			items[i].Err = e
			continue
		}
		open = append(open, i)
	}
	if len(open) == 0 {
		return items
	}
	if !n.throttle.allow(began, len(open), rand.Float64()) {
		refused := &Error{Code: codes.ResourceExhausted, Reason: rpc.ReasonOverloaded, Refused: true, Retry: firstPause, publish: true,
			Message: "not sent: the service answers fewer than half of this client's calls"}
		for _, i := range open {
			items[i].Err = refused
		}
		return items
	}
	n.budget.first(len(open))
	for retry := 1; ; retry++ {
		var asked time.Duration
		open, asked = n.try(ctx, requests, open, items)
		wait := pause(retry, asked, rand.Float64())
		if deadline, _ := ctx.Deadline(); len(open) == 0 || time.Until(deadline) <= wait {
			return items
		}
		if open = open[:n.budget.retry(len(open))]; len(open) == 0 || !sleep(ctx, wait) {
			return items
		}
	}
}

// try sends what is open once, writes the verdicts into items and returns what is still open, and how long the service asked to wait.
func (n *Notifier) try(ctx context.Context, requests []*notifierv1.PublishRequest, open []int, items []PublishedItem) (still []int, asked time.Duration) {
	verdicts := 0
	for rest := open; len(rest) > 0; {
		part := publishPart(requests, rest)
		answers := n.send(ctx, requests, part)
		for k, i := range part {
			a := answers[k]
			if a.err == nil {
				items[i] = PublishedItem{Published: Published{ID: a.ok.GetId(), Receipt: a.ok.GetReceipt()}}
				verdicts++
				continue
			}
			e := refusal(a.err)
			e.publish = true
			unknown := items[i].Err != nil // after an earlier try, of which only those of unknown fate are followed by another
			if e.Reason != rpc.ReasonOverloaded && e.Code != codes.Unavailable && e.Code != codes.DeadlineExceeded {
				verdicts++
			}
			switch {
			case unknown && e.Refused:
				e = e.afterUnknown()
			case !e.Refused && worthwhile(e):
				still = append(still, i)
				asked = max(asked, e.Retry)
			}
			items[i].Err = e
		}
		rest = rest[len(part):]
	}
	n.throttle.ended(time.Now(), len(open), verdicts)
	return still, asked
}

// publishPart is the beginning of rest that fits into one request, at least one.
func publishPart(requests []*notifierv1.PublishRequest, rest []int) []int {
	for k, bytes := 0, 0; k < len(rest); k++ {
		if bytes += proto.Size(requests[rest[k]]) + batchItemBytes; k == maxBatchJobs || bytes > maxBatchBytes && k > 0 {
			return rest[:k]
		}
	}
	return rest
}

// published is what one notification was told.
type published struct {
	ok  *notifierv1.PublishResponse
	err error // a gRPC status
}

// send sends the chosen notifications in one request and returns an answer for each, in order.
func (n *Notifier) send(ctx context.Context, requests []*notifierv1.PublishRequest, chosen []int) []published {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	if len(chosen) == 1 {
		ok, err := n.service.Publish(ctx, requests[chosen[0]], grpc.WaitForReady(true))
		return []published{{ok, err}}
	}
	batch := &notifierv1.PublishBatchRequest{Notifications: make([]*notifierv1.PublishRequest, len(chosen))}
	for k, i := range chosen {
		batch.Notifications[k] = requests[i]
	}
	answers := make([]published, len(chosen))
	resp, err := n.service.PublishBatch(ctx, batch, grpc.WaitForReady(true))
	if err == nil && len(resp.GetItems()) != len(chosen) {
		err = status.Error(codes.Internal, "not a verdict for each notification")
	}
	for k := range answers {
		if err != nil {
			answers[k].err = err
			continue
		}
		item := resp.GetItems()[k]
		if answers[k].ok = item.GetOk(); answers[k].ok == nil {
			if answers[k].err = status.ErrorProto(item.GetError()); answers[k].err == nil {
				answers[k].err = status.Error(codes.Internal, "an item without a verdict")
			}
		}
	}
	return answers
}

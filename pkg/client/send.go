package client

import (
	"context"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/rpc"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

// send is the innermost Handler: first try, and retries of what is open while budget, keys and context allow.
func (c *Client) send(ctx context.Context, jobs []Job) []Item {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	began := time.Now()
	items := make([]Item, len(jobs))
	open := make([]int, 0, len(jobs)) // indices of jobs without a final verdict
	specs := make([]*jobv1.JobSpec, len(jobs))
	var parent *Parent
	if p, ok := ParentFrom(ctx); ok {
		parent = &p
	}
	for i := range jobs {
		specs[i] = jobs[i].spec(parent, newKey)
		if e := unsendable(specs[i]); e != nil {
			items[i].Err = e
			continue
		}
		open = append(open, i)
	}
	if len(open) == 0 {
		return items
	}
	if !c.throttle.allow(began, len(open), rand.Float64()) {
		refused := &Error{Code: codes.ResourceExhausted, Reason: rpc.ReasonOverloaded, Refused: true, Retry: firstPause,
			Message: "not sent: the service answers fewer than half of this client's calls"}
		for _, i := range open {
			items[i].Err = refused
		}
		return items
	}
	c.budget.first(len(open))
	for retry := 1; ; retry++ {
		var asked time.Duration
		open, asked = c.try(ctx, specs, open, items)
		wait := pause(retry, asked, rand.Float64())
		if deadline, _ := ctx.Deadline(); len(open) == 0 || time.Until(deadline) <= wait || time.Since(began)+wait > keyLife {
			return items
		}
		if open = open[:c.budget.retry(len(open))]; len(open) == 0 || !sleep(ctx, wait) {
			return items
		}
	}
}

// try sends what is open once, writes the verdicts into items and returns what is still open, and how long the service asked to wait.
func (c *Client) try(ctx context.Context, specs []*jobv1.JobSpec, open []int, items []Item) (still []int, asked time.Duration) {
	answers := c.transmit(ctx, specs, open)
	verdicts := 0
	for n, i := range open {
		a := answers[n]
		if a.err == nil {
			items[i] = Item{Result: result(a.ok)}
			verdicts++
			continue
		}
		e := refusal(a.err)
		unknown := items[i].Err != nil // after an earlier try, of which only those of unknown fate are followed by another
		if e.Reason != rpc.ReasonOverloaded && e.Code != codes.Unavailable && e.Code != codes.DeadlineExceeded {
			verdicts++
		}
		switch {
		case unknown && (e.Refused || e.Reason == rpc.ReasonKeyExpired):
			e = e.afterUnknown()
		case !e.Refused && worthwhile(e):
			still = append(still, i)
			asked = max(asked, e.Retry)
		}
		items[i].Err = e
	}
	c.throttle.ended(time.Now(), len(open), verdicts)
	return still, asked
}

// worthwhile says whether a job of unknown fate may have a better one next time.
func worthwhile(e *Error) bool {
	return e.Reason != rpc.ReasonKeyExpired && e.Code != codes.Unimplemented && e.Code != codes.Canceled
}

// transmit sends the chosen specs and returns an answer for each, in order. A single job may share a request with those of other calls.
func (c *Client) transmit(ctx context.Context, specs []*jobv1.JobSpec, chosen []int) []answer {
	if len(chosen) == 1 {
		send := c.coalescer.do
		if trace.SpanContextFromContext(ctx).IsSampled() {
			send = c.unary // in a batch its trace would end here
		}
		ok, err := send(ctx, specs[chosen[0]])
		return []answer{{ok, err}}
	}
	answers := make([]answer, 0, len(chosen))
	for rest := chosen; len(rest) > 0; {
		var part []*jobv1.JobSpec
		for bytes := 0; len(part) < len(rest) && len(part) < maxBatchJobs; {
			spec := specs[rest[len(part)]]
			if bytes += proto.Size(spec) + batchItemBytes; bytes > maxBatchBytes && len(part) > 0 {
				break
			}
			part = append(part, spec)
		}
		rest = rest[len(part):]
		answers = append(answers, c.request(ctx, part)...)
	}
	return answers
}

// unary sends one job alone.
func (c *Client) unary(ctx context.Context, spec *jobv1.JobSpec) (*enqueuev1.EnqueueResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	return c.service.Enqueue(ctx, &enqueuev1.EnqueueRequest{Job: spec}, grpc.WaitForReady(true))
}

// batch sends jobs of several calls; none of them owns the request, so it lives as long as the client.
func (c *Client) batch(specs []*jobv1.JobSpec) []answer { return c.request(c.life, specs) }

// request sends one EnqueueBatch.
func (c *Client) request(ctx context.Context, specs []*jobv1.JobSpec) []answer {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	resp, err := c.service.EnqueueBatch(ctx, &enqueuev1.EnqueueBatchRequest{Jobs: specs}, grpc.WaitForReady(true))
	if err != nil || len(resp.GetItems()) != len(specs) {
		return sameFor(len(specs), err)
	}
	answers := make([]answer, len(specs))
	for i, item := range resp.GetItems() {
		if answers[i].ok = item.GetOk(); answers[i].ok == nil {
			if answers[i].err = status.ErrorProto(item.GetError()); answers[i].err == nil {
				answers[i].err = status.Error(codes.Internal, "an item without a verdict")
			}
		}
	}
	return answers
}

// sleep waits d and says whether ctx is still alive then.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

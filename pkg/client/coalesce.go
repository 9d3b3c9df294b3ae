package client

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

// Bounds of a batch: the contract's.
const (
	maxBatchJobs  = 1000
	maxBatchBytes = 3 << 20
)

// underWay is how many requests of a source may be under way before its next calls share one: with two, one is on its way while the other's
// answer is, and all that came in between is the next batch.
const underWay = 2

// coalescer turns concurrent calls of one source into batches. A call that finds less than underWay requests of its source runs alone, in its
// own goroutine and context; a goroutine exists only for a batch, belongs to the client and ends with the batch's answer.
type coalescer struct {
	// one and many send; many is given the client's own context, because a batch belongs to no caller.
	one  func(context.Context, *jobv1.JobSpec) (*enqueuev1.EnqueueResponse, error)
	many func([]*jobv1.JobSpec) []answer
	// run starts a goroutine of the client.
	run func(func())

	mu      sync.Mutex
	sources map[string]*line // those with something under way
}

// line is what is under way and waits of one source.
type line struct {
	underWay int
	queue    []*call
}

type call struct {
	spec *jobv1.JobSpec
	size int
	done chan answer // holds one
}

// answer is what one job was told.
type answer struct {
	ok  *enqueuev1.EnqueueResponse
	err error // a gRPC status
}

// do sends the job, alone or in company, and returns its answer; it returns when ctx ends.
func (c *coalescer) do(ctx context.Context, spec *jobv1.JobSpec) (*enqueuev1.EnqueueResponse, error) {
	c.mu.Lock()
	l := c.sources[spec.GetSource()]
	if l == nil {
		l = &line{}
		c.sources[spec.GetSource()] = l
	}
	if l.underWay < underWay && len(l.queue) == 0 {
		l.underWay++
		c.mu.Unlock()
		resp, err := c.one(ctx, spec)
		c.next(spec.GetSource(), l)
		return resp, err
	}
	own := &call{spec: spec, size: proto.Size(spec), done: make(chan answer, 1)}
	l.queue = append(l.queue, own)
	c.mu.Unlock()
	select {
	case a := <-own.done:
		return a.ok, a.err
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		if i := slices.Index(l.queue, own); i >= 0 {
			l.queue = slices.Delete(l.queue, i, i+1)
		}
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// next takes over from a request of the line that was answered: what waits is sent, or nothing is under way any more.
func (c *coalescer) next(source string, l *line) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if batch := l.take(); len(batch) > 0 {
		c.run(func() { c.batches(source, l, batch) })
		return
	}
	c.leave(source, l)
}

// batches sends a batch, and then what has come meanwhile, until nothing waits.
func (c *coalescer) batches(source string, l *line, batch []*call) {
	for len(batch) > 0 {
		specs := make([]*jobv1.JobSpec, len(batch))
		for i, b := range batch {
			specs[i] = b.spec
		}
		answers := c.many(specs)
		for i, b := range batch {
			b.done <- answers[i]
		}
		c.mu.Lock()
		if batch = l.take(); len(batch) == 0 {
			c.leave(source, l)
		}
		c.mu.Unlock()
	}
}

// leave ends one request of the line; the caller holds the lock.
func (c *coalescer) leave(source string, l *line) {
	if l.underWay--; l.underWay == 0 {
		delete(c.sources, source)
	}
}

// take removes the next batch from the queue; the caller holds the lock.
func (l *line) take() []*call {
	n, bytes := 0, 0
	for n < len(l.queue) && n < maxBatchJobs && (n == 0 || bytes+l.queue[n].size+batchItemBytes <= maxBatchBytes) {
		bytes += l.queue[n].size + batchItemBytes
		n++
	}
	batch := slices.Clone(l.queue[:n])
	l.queue = slices.Delete(l.queue, 0, n)
	return batch
}

// batchItemBytes is the tag and the length of an item in a batch.
const batchItemBytes = 6

// one answer for all of n jobs.
func sameFor(n int, err error) []answer {
	if status.Code(err) == codes.OK {
		err = status.Error(codes.Internal, "a batch was answered without its items")
	}
	return slices.Repeat([]answer{{err: err}}, n)
}

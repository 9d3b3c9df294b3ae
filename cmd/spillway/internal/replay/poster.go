package replay

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

const (
	// publishTimeout outlasts the notifier's own deadline for a produce.
	publishTimeout = 25 * time.Second
	// underWay is how many calls of a source are on their way at most, as in the
	// SDK: one goes there while another's answer comes back.
	underWay = 2
	// maxPosts is the most of one PublishBatch: 500 of half a KiB.
	maxPosts = 500
)

// poster publishes as the SDK enqueues: two calls of a source are on their way,
// and what is asked for meanwhile is the next batch. Sources do not wait for each
// other.
type poster struct {
	to notifierv1.NotifierServiceClient

	mu    sync.Mutex
	lines map[string]*queue // by source with a call on its way
	calls sync.WaitGroup
}

// queue is a source's: who waits for the next call, at most the running handlers.
type queue struct {
	underWay int
	waiting  []post
}

type post struct {
	request *notifierv1.PublishRequest
	done    chan<- error
}

// publish returns when the notification is in the log, or for ctx.
func (p *poster) publish(ctx context.Context, request *notifierv1.PublishRequest) error {
	done := make(chan error, 1)
	source := request.GetSource()
	p.mu.Lock()
	q := p.lines[source]
	if q == nil {
		q = &queue{}
		p.lines[source] = q
	}
	q.waiting = append(q.waiting, post{request, done})
	if q.underWay < underWay {
		q.underWay++
		p.calls.Go(func() { p.run(source, q) })
	}
	p.mu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run sends batches of a source until nothing waits.
func (p *poster) run(source string, q *queue) {
	for {
		p.mu.Lock()
		batch := q.waiting
		if len(batch) == 0 {
			if q.underWay--; q.underWay == 0 {
				delete(p.lines, source)
			}
			p.mu.Unlock()
			return
		}
		q.waiting = batch[min(len(batch), maxPosts):]
		batch = batch[:len(batch)-len(q.waiting)]
		p.mu.Unlock()
		p.send(batch)
	}
}

func (p *poster) send(batch []post) {
	ctx, cancel := context.WithTimeout(context.Background(), publishTimeout)
	defer cancel()
	if len(batch) == 1 {
		_, err := p.to.Publish(ctx, batch[0].request)
		batch[0].done <- err
		return
	}
	request := &notifierv1.PublishBatchRequest{}
	for _, b := range batch {
		request.Notifications = append(request.Notifications, b.request)
	}
	answer, err := p.to.PublishBatch(ctx, request)
	for i, b := range batch {
		if err == nil && i < len(answer.GetItems()) {
			b.done <- status.FromProto(answer.GetItems()[i].GetError()).Err()
			continue
		}
		b.done <- err
	}
}

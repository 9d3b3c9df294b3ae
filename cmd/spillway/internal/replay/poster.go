package replay

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

const (
	// publishTimeout outlasts the notifier's own deadline for a produce.
	publishTimeout = 25 * time.Second
	// maxPosts is the most of one PublishBatch: 500 of half a KiB.
	maxPosts = 500
)

// poster publishes in batches: one call of a source is on its way, and what is
// asked for meanwhile is the next. Sources do not wait for each other.
type poster struct {
	to notifierv1.NotifierServiceClient

	mu    sync.Mutex
	lines map[string][]post // of sources with a call on its way: who waits for the next, at most the running handlers
	calls sync.WaitGroup
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
	line, busy := p.lines[source]
	p.lines[source] = append(line, post{request, done})
	if !busy {
		p.calls.Go(func() { p.run(source) })
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
func (p *poster) run(source string) {
	for {
		p.mu.Lock()
		batch := p.lines[source]
		if len(batch) == 0 {
			delete(p.lines, source)
			p.mu.Unlock()
			return
		}
		p.lines[source] = slices.Clone(batch[min(len(batch), maxPosts):])
		batch = batch[:len(batch)-len(p.lines[source])]
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

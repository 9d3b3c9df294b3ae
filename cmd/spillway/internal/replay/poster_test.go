package replay

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	notifierv1 "github.com/spillway/spillway/proto/gen/spillway/notifier/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// notifier answers after 10 ms and refuses what is keyed "bad".
type notifier struct {
	mu    sync.Mutex
	sizes []int
}

func (n *notifier) take(size int) {
	n.mu.Lock()
	n.sizes = append(n.sizes, size)
	n.mu.Unlock()
	time.Sleep(10 * time.Millisecond) // of the bubble
}

func (n *notifier) Publish(context.Context, *notifierv1.PublishRequest, ...grpc.CallOption) (*notifierv1.PublishResponse, error) {
	n.take(1)
	return &notifierv1.PublishResponse{}, nil
}

func (n *notifier) PublishBatch(_ context.Context, in *notifierv1.PublishBatchRequest, _ ...grpc.CallOption) (*notifierv1.PublishBatchResponse, error) {
	n.take(len(in.GetNotifications()))
	out := &notifierv1.PublishBatchResponse{}
	for _, r := range in.GetNotifications() {
		item := &notifierv1.PublishBatchResponse_Item{Result: &notifierv1.PublishBatchResponse_Item_Ok{Ok: &notifierv1.PublishResponse{}}}
		if r.GetIdempotencyKey() == "bad" {
			item.Result = &notifierv1.PublishBatchResponse_Item_Error{Error: status.New(codes.ResourceExhausted, "quota").Proto()}
		}
		out.Items = append(out.Items, item)
	}
	return out, nil
}

// What a source asks for while a call of it is on its way is one batch, each
// hears its own verdict, and another source does not wait.
func TestPosterBatchesBySource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &notifier{}
		p := &poster{to: n, lines: make(map[string][]post)}
		began := time.Now()
		var all sync.WaitGroup
		publish := func(source, key string, want codes.Code, took time.Duration) {
			all.Go(func() {
				err := p.publish(t.Context(), &notifierv1.PublishRequest{Source: source, IdempotencyKey: key})
				if status.Code(err) != want || time.Since(began) != took {
					t.Errorf("%s %s: %v after %v", source, key, err, time.Since(began))
				}
			})
		}
		publish("flood", "first", codes.OK, 10*time.Millisecond)
		synctest.Wait()
		for i := range 20 {
			publish("flood", fmt.Sprint(i), codes.OK, 20*time.Millisecond)
		}
		publish("flood", "bad", codes.ResourceExhausted, 20*time.Millisecond)
		publish("tenant-01", "x", codes.OK, 10*time.Millisecond)
		all.Wait()
		p.calls.Wait()
		slices.Sort(n.sizes)
		if !slices.Equal(n.sizes, []int{1, 1, 21}) || len(p.lines) != 0 {
			t.Errorf("batches of %v", n.sizes)
		}
	})
}

package rpc

import (
	"runtime"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
)

// TestSmallPartsAreNotDecoded: 4 MiB of empty messages would be 200 MiB of memory, which no rule of the proto is asked about in time.
func TestSmallPartsAreNotDecoded(t *testing.T) {
	c := newCodec()
	decode := func(m, into proto.Message) (cost uint64, err error) {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		// As it comes from a connection: in several pieces.
		data := mem.BufferSlice{mem.SliceBuffer(b[:len(b)/2]), mem.SliceBuffer(b[len(b)/2:])}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err = c.Unmarshal(data, into)
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc, err
	}
	empty := make([]*jobv1.Token, 2<<20)
	for i := range empty {
		empty[i] = &jobv1.Token{}
	}
	for name, m := range map[string]proto.Message{
		"renew":   &schedulerv1.WorkRequest{Renew: empty},
		"returns": &schedulerv1.WorkRequest{Returns: []*schedulerv1.Return{{Tokens: empty}}},
		"types":   &schedulerv1.WorkRequest{Hello: &schedulerv1.Hello{Types: make([]string, 2<<20)}},
	} {
		if cost, err := decode(m, &schedulerv1.WorkRequest{}); err == nil || cost > 8<<20 {
			t.Errorf("%s: cost %d bytes: %v", name, cost, err)
		}
	}

	// The most that a worker of 10,000 slots sends at once passes whole, and so does a batch.
	frame := &schedulerv1.WorkRequest{Hello: &schedulerv1.Hello{}, Renew: empty[:20_000], Started: empty[:20_000]}
	for range 20_000 {
		frame.Hello.Held = append(frame.Hello.Held, &schedulerv1.HeldLease{Token: empty[0]})
		frame.Results = append(frame.Results, &schedulerv1.Result{Token: empty[0]})
	}
	got := &schedulerv1.WorkRequest{}
	if _, err := decode(frame, got); err != nil || !proto.Equal(frame, got) {
		t.Errorf("the largest frame: %v", err)
	}
	batch := &enqueuev1.EnqueueBatchRequest{}
	for range 1000 {
		batch.Jobs = append(batch.Jobs, &jobv1.JobSpec{Payload: make([]byte, 2000), Labels: map[string]string{"a": "b", "c": "d"}})
	}
	back := &enqueuev1.EnqueueBatchRequest{}
	if _, err := decode(batch, back); err != nil || !proto.Equal(batch, back) {
		t.Errorf("the largest batch: %v", err)
	}
}

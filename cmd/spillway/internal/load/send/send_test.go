package send

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
	"github.com/spillway/spillway/cmd/spillway/internal/readyfile"
	"github.com/spillway/spillway/pkg/client"
	enqueuev1 "github.com/spillway/spillway/proto/gen/spillway/enqueue/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service is an enqueue service at the end of a connection that takes delay.
type service struct {
	delay  func(first *jobv1.JobSpec) time.Duration
	refuse error
	ids    string // file of ids

	mu      sync.Mutex
	batches []int
	jobs    int
	unfiled int // jobs whose id was not on file when they arrived
}

func (s *service) Invoke(ctx context.Context, _ string, in, out any, _ ...grpc.CallOption) error {
	var specs []*jobv1.JobSpec
	switch in := in.(type) {
	case *enqueuev1.EnqueueRequest:
		specs = []*jobv1.JobSpec{in.GetJob()}
	case *enqueuev1.EnqueueBatchRequest:
		specs = in.GetJobs()
	}
	file, err := os.ReadFile(s.ids)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.batches = append(s.batches, len(specs))
	for _, spec := range specs {
		s.jobs++
		if !bytes.Contains(file, []byte(spec.GetIdempotencyKey())) {
			s.unfiled++
		}
	}
	s.mu.Unlock()
	select {
	case <-time.After(s.delay(specs[0])):
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
	if s.refuse != nil {
		return s.refuse
	}
	switch out := out.(type) {
	case *enqueuev1.EnqueueResponse:
		out.JobId = "a"
	case *enqueuev1.EnqueueBatchResponse:
		for range specs {
			out.Items = append(out.Items, &enqueuev1.EnqueueBatchResponse_Item{
				Result: &enqueuev1.EnqueueBatchResponse_Item_Ok{Ok: &enqueuev1.EnqueueResponse{JobId: "a"}}})
		}
	}
	return nil
}

func (s *service) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "no streams")
}

// send runs a sender against s and returns its book.
func send(t *testing.T, s *service, sending time.Duration, specs ...string) (*tally.Book, plan.Run) {
	t.Helper()
	flows, err := plan.Parse(specs)
	if err != nil {
		t.Fatal(err)
	}
	run := plan.NewRun(1, flows, 0, sending)
	s.ids = filepath.Join(t.TempDir(), "ids")
	ids, err := os.Create(s.ids)
	if err != nil {
		t.Fatal(err)
	}
	defer ids.Close()
	sender := &Sender{Run: run, Base: time.Now(), Book: tally.New(run), IDs: ids}
	for range flows {
		c := client.New(s)
		defer c.Close()
		sender.To = append(sender.To, c)
	}
	sender.Send(t.Context(), t.Context())
	return sender.Book, run
}

func TestSendingKeepsItsScheduleWhateverTheAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Answers take 200 ms, 20 times as long as the gap between two jobs.
		s := &service{delay: func(*jobv1.JobSpec) time.Duration { return 200 * time.Millisecond }}
		began := time.Now()
		book, run := send(t, s, 2*time.Second, "slow=100")
		if d := time.Since(began); d > 2700*time.Millisecond {
			t.Errorf("sending took %v", d)
		}
		f := book.Phase(0, run.For, time.Minute).Flows[0]
		if f.Sent != 200 || f.Accepted != 200 || s.unfiled != 0 {
			t.Errorf("%+v; %d ids not on file when they were sent", f, s.unfiled)
		}
		if f.Accept.P50 < 200 || f.Accept.Max > 650 {
			t.Errorf("accept times %+v, want those of two rounds of the client's batches", f.Accept)
		}
	})
}

func TestFastFlowsSendABatchAMillisecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &service{delay: func(*jobv1.JobSpec) time.Duration { return time.Millisecond }}
		book, run := send(t, s, 200*time.Millisecond, "flood=10000")
		f := book.Phase(0, run.For, time.Minute).Flows[0]
		if f.Sent != 2000 || f.Accepted != 2000 || s.jobs != 2000 || s.unfiled != 0 {
			t.Errorf("%+v; %d arrived, %d not on file", f, s.jobs, s.unfiled)
		}
		if n := len(s.batches); n < 190 || n > 210 || slices.Max(s.batches) > 12 {
			t.Errorf("%d batches of at most %d jobs, want 200 of 10", n, slices.Max(s.batches))
		}
	})
}

func TestAnswersAreTakenForWhatTheyAre(t *testing.T) {
	for _, c := range []struct {
		err              error
		refused, unknown int
	}{
		{status.Error(codes.ResourceExhausted, "quota"), 10, 0},
		{status.Error(codes.Aborted, "fate unknown"), 0, 10},
	} {
		synctest.Test(t, func(t *testing.T) {
			book, run := send(t, &service{delay: func(*jobv1.JobSpec) time.Duration { return 0 }, refuse: c.err}, time.Second, "a=10")
			f := book.Phase(0, run.For, 2*time.Minute).Flows[0]
			if f.Sent != 10 || f.Refused != c.refused || f.Unknown != c.unknown {
				t.Errorf("%v: %+v", c.err, f)
			}
		})
	}
}

func TestJobsGoToAllEnqueueReplicas(t *testing.T) {
	f := readyfile.File{Endpoints: readyfile.Endpoints{Enqueue: "a:1"}, Replicas: []readyfile.Replica{
		{Name: "scheduler-0", GRPC: "s:1"}, {Name: "enqueue-0", GRPC: "a:1"}, {Name: "enqueue-1", GRPC: "a:2"}}}
	if got := Addresses(f); !slices.Equal(got, []string{"a:1", "a:2"}) {
		t.Errorf("%v", got)
	}
}

package load

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	sender := &sender{run: run, base: time.Now(), book: tally.New(run), ids: ids, reasons: make(map[string]int)}
	for range flows {
		c := client.New(s)
		defer c.Close()
		sender.clients = append(sender.clients, c)
	}
	sender.send(t.Context(), t.Context())
	return sender.book, run
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

// diary is an events that remembers.
type diary struct{ started_, finished_ []plan.Instruction }

func (l *diary) started(in plan.Instruction, at time.Time)  { l.started_ = append(l.started_, in) }
func (l *diary) finished(in plan.Instruction, at time.Time) { l.finished_ = append(l.finished_, in) }

func TestFramesOfWorkerProcesses(t *testing.T) {
	var pipe bytes.Buffer
	in := plan.Instruction{Seed: 1 << 52, Flow: 3, Seq: 70_000}
	at := time.Unix(1_700_000_000, 123_456_789)
	r := reporter{&pipe}
	r.started(in, at)
	r.finished(in, at)
	r.started(in, at)
	cut := bytes.NewReader(pipe.Bytes()[:2*frameBytes+5]) // killed in the third write
	var got diary
	readFrames(cut, &got)
	if len(got.started_) != 1 || len(got.finished_) != 1 || got.started_[0] != in || got.finished_[0] != in {
		t.Errorf("read %+v", got)
	}
}

func TestParseHold(t *testing.T) {
	flows := []plan.Flow{{Name: "a"}, {Name: "flood"}}
	h, err := ParseHold("flood@10s+500ms", flows)
	if err != nil || *h != (Hold{Flow: 1, At: 10 * time.Second, For: 500 * time.Millisecond}) {
		t.Errorf("%+v, %v", h, err)
	}
	for _, text := range []string{"", "flood", "flood@10s", "flood@x+5s", "flood@10s+0s", "flood@-1s+5s", "other@1s+1s"} {
		if _, err := ParseHold(text, flows); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

func TestReportForPeople(t *testing.T) {
	q := tally.Quantiles{P50: 1.2, P99: 4, Max: 1234}
	phase := tally.Phase{
		Flows:  []tally.Flow{{Name: "victim-01", Sent: 300, Accepted: 300, Started: 300, Finished: 300, Wait: q, Accept: q}},
		Groups: []tally.Flow{{Name: "victim", Sent: 300, Accepted: 300, Started: 300, Finished: 300, Wait: q, Accept: q, Worst: &tally.Worst{Name: "victim-01", Wait: q}}},
	}
	r := Report{Phase: phase, Quiet: phase, Switch: &Switch{HoldMS: 41}, Ledger: tally.Ledger{Sent: 300, Accepted: 300, Succeeded: 300},
		Processes: []ProcessUse{{Name: "scheduler-0", CPUSeconds: 1.5, PeakRSSBytes: 90 << 20}}}
	var b strings.Builder
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"quiet:", "victim (all)", "worst: victim-01", "1.2 s", "hold answered after 41.0 ms, 0 started after that", "0 lost, 0 ran twice", "scheduler-0", "90 MiB"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
	b.Reset()
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"flows": [`, `"groups": [`, `"quiet": {`, `"wait_ms": {`, `"hold_ms": 41`, `"started_after_hold": 0`, `"ledger": {`, `"lost": 0`, `"duplicates": 0`, `"remaining": 0`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
}

func TestJobsGoToAllEnqueueReplicas(t *testing.T) {
	f := readyfile.File{Endpoints: readyfile.Endpoints{Enqueue: "a:1"}, Replicas: []readyfile.Replica{
		{Name: "scheduler-0", GRPC: "s:1"}, {Name: "enqueue-0", GRPC: "a:1"}, {Name: "enqueue-1", GRPC: "a:2"}}}
	if got := enqueueAddresses(f); !slices.Equal(got, []string{"a:1", "a:2"}) {
		t.Errorf("%v", got)
	}
}

package send

import (
	"context"
	"fmt"
	"io"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spillway/spillway/cmd/spillway/internal/load/plan"
	"github.com/spillway/spillway/cmd/spillway/internal/load/tally"
	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/envelope"
)

const (
	// unaryRate is the rate, in jobs per second, up to which a flow's jobs are
	// sent one by one; above it they go in batches, one each batchEvery.
	unaryRate  = 1_000
	batchEvery = time.Millisecond
	// batchJobs is the most jobs of one EnqueueBatch.
	batchJobs = 1_000
	// answerTimeout outlasts the service's own 20 s and a try after it, so that
	// what is counted is the service's verdict and not our impatience.
	answerTimeout = 45 * time.Second
	// outstandingBytes bounds the payloads whose answers are awaited. A service
	// that answers nothing for longer than it lets the generator run on has its
	// jobs counted as refused: they were never sent.
	outstandingBytes = 512 << 20
)

var priorities = map[string]client.Priority{
	"": 0, "critical": client.Critical, "high": client.High, "default": client.Default, "low": client.Low, "bulk": client.Bulk,
}

// Port is what jobs are sent to. The errors are those of the client SDK: client.Refused tells a definite refusal.
type Port interface {
	Enqueue(ctx context.Context, job client.Job) (client.Result, error)
	EnqueueBatch(ctx context.Context, jobs []client.Job) []client.Item
}

// Sender sends the jobs of a run when they are due. The exported fields are set before Send.
type Sender struct {
	Run  plan.Run
	Base time.Time // when the run starts; schedules are relative to it
	Book *tally.Book
	IDs  io.Writer // every id is written to it, in one piece with its line, before its job is sent
	To   []Port    // by flow: every source is a program of its own

	outstanding atomic.Int64 // bytes
	unsent      atomic.Int64 // jobs given up because of outstandingBytes
	answers     sync.WaitGroup

	mu      sync.Mutex
	reasons map[string]int // why jobs were refused or unknown
}

// Key is the idempotency key of a job. It follows from the plan, so that the
// ids of a finished run can be computed again.
func (s *Sender) Key(i, k int) string {
	return envelope.NewKey(s.Base.Add(s.Run.Schedules[i].At(k)), s.Run.KeyBytes(i, k))
}

// Send sends all flows until their schedules or sending ends, then waits for
// the answers. calls is the context of the calls: ending it gives up on them.
func (s *Sender) Send(sending, calls context.Context) {
	var flows sync.WaitGroup
	for i := range s.Run.Flows {
		flows.Go(func() { s.flow(sending, calls, i) })
	}
	flows.Wait()
	s.answers.Wait()
}

func (s *Sender) flow(sending, calls context.Context, i int) {
	schedule, batched := s.Run.Schedules[i], s.Run.Flows[i].Rate > unaryRate
	count := schedule.Count()
	var next time.Duration // not before this
	for k := 0; k < count; {
		if !SleepUntil(sending, s.Base.Add(max(schedule.At(k), next))) {
			return
		}
		now := time.Since(s.Base)
		due := max(schedule.Due(now), k+1)
		step := 1
		if batched {
			step, next = batchJobs, now.Truncate(batchEvery)+batchEvery
		}
		for ; k < due; k += step {
			s.dispatch(calls, i, k, min(k+step, due))
		}
		k = due
	}
}

// dispatch sends jobs from to to-1 of a flow in a goroutine of their own, which
// ends with their answer.
func (s *Sender) dispatch(calls context.Context, i, from, to int) {
	jobs := make([]client.Job, 0, to-from)
	lines := make([]byte, 0, (to-from)*(36+80))
	size := int64(0)
	for k := from; k < to; k++ {
		job := client.Job{
			Source: s.Run.Flows[i].Name, Tenant: s.Run.Tenant(i, k), Type: s.Run.Flows[i].Type,
			Priority: priorities[s.Run.Flows[i].Priority], Payload: s.Run.Payload(i, k), Key: s.Key(i, k),
		}
		jobs = append(jobs, job)
		lines = fmt.Appendf(lines, "%s %s %d\n", job.Key, job.Source, k)
		size += int64(len(job.Payload))
		s.Book.Sent(i, k)
	}
	if s.outstanding.Add(size) > outstandingBytes {
		s.outstanding.Add(-size)
		s.unsent.Add(int64(len(jobs)))
		s.refuse(i, from, to, "not sent: too many answers are awaited")
		return
	}
	if _, err := s.IDs.Write(lines); err != nil {
		s.outstanding.Add(-size)
		s.refuse(i, from, to, "not sent: "+err.Error())
		return
	}
	s.answers.Go(func() {
		defer s.outstanding.Add(-size)
		ctx, cancel := context.WithTimeout(calls, answerTimeout)
		defer cancel()
		if len(jobs) == 1 {
			_, err := s.To[i].Enqueue(ctx, jobs[0])
			s.answered(i, from, err)
			return
		}
		for n, item := range s.To[i].EnqueueBatch(ctx, jobs) {
			s.answered(i, from+n, item.Err)
		}
	})
}

func (s *Sender) answered(i, k int, err error) {
	answer := tally.Accepted
	if err != nil {
		answer = tally.Unknown
		if client.Refused(err) {
			answer = tally.Refused
		}
		s.note(err)
	}
	s.Book.Answered(i, k, time.Since(s.Base), answer)
}

func (s *Sender) refuse(i, from, to int, why string) {
	for k := from; k < to; k++ {
		s.note(fmt.Errorf("%s", why))
		s.Book.Answered(i, k, time.Since(s.Base), tally.Refused)
	}
}

// maxReasons bounds the reasons that are kept apart.
const maxReasons = 50

func (s *Sender) note(err error) {
	reason := client.Reason(err)
	if reason == "" {
		reason = err.Error()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reasons == nil {
		s.reasons = make(map[string]int)
	}
	if _, known := s.reasons[reason]; !known && len(s.reasons) >= maxReasons {
		reason = "other reasons"
	}
	s.reasons[reason]++
}

// Reasons are why jobs were refused or their fate is unknown, with how many.
func (s *Sender) Reasons() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.reasons)
}

// Unsent is how many jobs were counted as refused without being sent, because too many answers were awaited.
func (s *Sender) Unsent() int64 { return s.unsent.Load() }

// SleepUntil waits for a time and reports whether ctx was still alive then.
func SleepUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

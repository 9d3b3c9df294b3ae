package system

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/worker"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// TestJobFromEnqueueToOutcome: the spine, whole. Every job runs once and has exactly one outcome.
func TestJobFromEnqueueToOutcome(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("crm")
		w.enqueue(0)
		w.scheduler(0)
		ran := &tally{}
		w.worker(8, func(_ context.Context, job *worker.Job) error { ran.add(job.ID); return nil })
		caller := w.caller()
		defer caller.Close()
		var ids []string
		for i := range 100 {
			r, err := caller.Enqueue(w.ctx, client.Job{Source: "crm", Tenant: fmt.Sprint("t", i%3), Type: "tag", Payload: []byte("payload")})
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, r.JobID)
		}
		w.until("all settled", 5*time.Second, func() bool { settled, _ := w.events(); return len(settled) == len(ids) })
		settled, _ := w.events()
		for _, id := range ids {
			if len(settled[id]) != 1 || settled[id][0].GetOutcome() != jobv1.Outcome_OUTCOME_SUCCEEDED || ran.of(id) != 1 {
				t.Errorf("%s ran %d times and has %v", id, ran.of(id), settled[id])
			}
		}
	})
}

// TestFailuresRetryAndDie: a job that fails once succeeds at its second attempt; one that always fails dies after its attempts, with a
// dead letter; one that must not be tried again dies at once.
func TestFailuresRetryAndDie(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("crm", func(s *automationv1.Source) { s.Retry = &automationv1.RetryPolicy{MaxAttempts: 3} })
		w.enqueue(0)
		w.scheduler(0)
		ran := &tally{}
		w.worker(8, func(_ context.Context, job *worker.Job) error {
			n := ran.add(job.ID)
			switch payload := string(job.Payload); {
			case payload == "once" && n == 1, payload == "always":
				return errors.New("broken")
			case payload == "never again":
				return worker.Permanent(errors.New("hopeless"))
			case payload == "panic" && n == 1:
				panic("oops")
			}
			return nil
		})
		caller := w.caller()
		defer caller.Close()
		ids := map[string]string{}
		for _, payload := range []string{"once", "always", "never again", "panic"} {
			r, err := caller.Enqueue(w.ctx, client.Job{Source: "crm", Type: "tag", Payload: []byte(payload)})
			if err != nil {
				t.Fatal(err)
			}
			ids[payload] = r.JobID
		}
		w.until("all settled", time.Minute, func() bool { settled, _ := w.events(); return len(settled) == len(ids) })
		settled, attempts := w.events()
		for payload, want := range map[string]struct {
			outcome        jobv1.Outcome
			runs, attempts int
		}{
			"once":        {jobv1.Outcome_OUTCOME_SUCCEEDED, 2, 1},
			"always":      {jobv1.Outcome_OUTCOME_DEAD, 3, 2},
			"never again": {jobv1.Outcome_OUTCOME_DEAD, 1, 0},
			"panic":       {jobv1.Outcome_OUTCOME_SUCCEEDED, 2, 1},
		} {
			id := ids[payload]
			if len(settled[id]) != 1 || settled[id][0].GetOutcome() != want.outcome || ran.of(id) != want.runs || attempts[id] != want.attempts {
				t.Errorf("%q ran %d times with %d failed attempts, outcome %v; want %+v", payload, ran.of(id), attempts[id], settled[id], want)
			}
		}
		dead := 0
		for p := range shards {
			dead += len(w.read(topics.Dead(), p))
		}
		if dead != 2 {
			t.Errorf("%d dead letters, want 2", dead)
		}
	})
}

// TestHoldStopsAndResumeGoesOn: nothing of a held source starts once its schedulers have acknowledged, what was accepted meanwhile waits
// in its lane, and all of it runs after the resume (I10, I11). Another source does not notice.
func TestHoldStopsAndResumeGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("flood")
		w.register("other")
		w.enqueue(0)
		w.scheduler(0)
		flood, other := &tally{}, &tally{}
		w.worker(8, func(_ context.Context, job *worker.Job) error {
			time.Sleep(5 * time.Millisecond)
			if job.Source == "flood" {
				flood.add(job.ID)
			} else {
				other.add(job.ID)
			}
			return nil
		})
		caller := w.caller()
		defer caller.Close()
		send := func(source string, n int) {
			for range n {
				if _, err := caller.Enqueue(w.ctx, client.Job{Source: source, Type: "tag"}); err != nil {
					t.Fatal(err)
				}
			}
		}
		send("flood", 50)
		w.until("the flood runs", 5*time.Second, func() bool { return flood.total() == 50 })
		w.command(&logv1.Command{Act: &logv1.Command_SetSwitch{SetSwitch: &logv1.SetSwitch{Switch: &automationv1.Switch{
			Scope: scopeOf("flood"), Verb: automationv1.Verb_VERB_HOLD, Reason: "test", Actor: "anna",
		}}}})
		time.Sleep(500 * time.Millisecond)
		before := flood.total()
		send("flood", 200)
		send("other", 50)
		w.until("the other runs", 5*time.Second, func() bool { return other.total() == 50 })
		time.Sleep(10 * time.Second)
		if n := flood.total() - before; n != 0 {
			t.Errorf("%d jobs of a held source started", n)
		}
		w.command(&logv1.Command{Act: &logv1.Command_ClearSwitch{ClearSwitch: &logv1.ClearSwitch{Scope: scopeOf("flood")}}})
		w.until("the held jobs run", 10*time.Second, func() bool { return flood.total() == before+200 })
		w.until("all settled", 5*time.Second, func() bool { settled, _ := w.events(); return len(settled) == 300 })
	})
}

// TestResumeRamps: what was held comes back at the rate that the resume asked for, doubled every 10 s, and a scheduler that takes over half-way goes
// on where the one before it was. Another source does not notice.
func TestResumeRamps(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const jobs, rate = 400, 4
		w.register("flood")
		w.register("other")
		w.enqueue(0)
		first := w.scheduler(0)
		flood, other := &tally{}, &tally{}
		w.worker(8, func(_ context.Context, job *worker.Job) error {
			if job.Source == "flood" {
				flood.add(job.ID)
			} else {
				other.add(job.ID)
			}
			return nil
		})
		caller := w.caller()
		defer caller.Close()
		w.hold("flood")
		time.Sleep(500 * time.Millisecond)
		w.send(caller, "flood", jobs)
		time.Sleep(2 * time.Second)
		w.command(&logv1.Command{Act: &logv1.Command_ClearSwitch{ClearSwitch: &logv1.ClearSwitch{Scope: scopeOf("flood"), RampRate: rate}}})
		begun := time.Now()
		ran := func(after time.Duration, low, high int) {
			t.Helper()
			time.Sleep(after - time.Since(begun))
			if n := flood.total(); n < low || n > high {
				t.Errorf("%d ran %v after the resume, want %d to %d", n, after, low, high)
			}
		}
		ran(5*time.Second, 15, 22)
		w.send(caller, "other", 100)
		w.until("the other runs", time.Second, func() bool { return other.total() == 100 })
		ran(10*time.Second, 35, 42)
		if err := first.stop(); err != nil {
			t.Error(err)
		}
		w.scheduler(1)
		ran(19*time.Second, 60, 115) // the takeover takes a few seconds of it
		before := flood.total()
		ran(29*time.Second, before+100, before+155) // at 16/s but for a second
		w.until("all of it runs", 15*time.Second, func() bool { return flood.total() == jobs })
		w.until("all settled", 5*time.Second, func() bool { settled, _ := w.events(); return len(settled) == jobs+100 })
	})
}

// TestFloodSpillsAndDrains: a flood goes through its lane and all of it runs, while a victim's jobs go past it.
func TestFloodSpillsAndDrains(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.register("flood")
		w.register("victim")
		w.enqueue(0)
		w.scheduler(0, small)
		ran := &tally{}
		var worst time.Duration
		w.worker(16, func(_ context.Context, job *worker.Job) error {
			ran.add(job.ID)
			if job.Source == "victim" {
				ran.mu.Lock()
				worst = max(worst, time.Since(job.AcceptedAt))
				ran.mu.Unlock()
			}
			time.Sleep(20 * time.Millisecond)
			return nil
		})
		caller := w.caller()
		defer caller.Close()
		const rounds, flood = 150, 10 // 2,000 jobs a second against 800
		for i := range rounds {
			jobs := make([]client.Job, flood)
			for j := range jobs {
				jobs[j] = client.Job{Source: "flood", Type: "tag", Payload: make([]byte, 256)}
			}
			if i%20 == 10 {
				jobs = append(jobs, client.Job{Source: "victim", Type: "tag"})
			}
			for _, item := range caller.EnqueueBatch(w.ctx, jobs) {
				if item.Err != nil {
					t.Fatal(item.Err)
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
		spilled := w.spilled()
		if spilled == 0 {
			t.Error("nothing spilled")
		}
		want := rounds*flood + rounds/20
		w.until("all run", time.Minute, func() bool { return ran.total() >= want })
		w.until("all settled", 5*time.Second, func() bool { settled, _ := w.events(); return len(settled) == want })
		if ran.total() != want {
			t.Errorf("%d runs of %d jobs", ran.total(), want)
		}
		if worst > 100*time.Millisecond {
			t.Errorf("a victim waited %v", worst)
		}
		t.Logf("%d spilled of %d, the victim waited %v at most", spilled, rounds*flood, worst)
	})
}

package worker

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"

	"github.com/spillway/spillway/pkg/share"
)

func nothing(context.Context, *Job) error { return nil }

// until is a handler that ends when its context does and says why.
func until(ends chan<- error) Handler {
	return func(ctx context.Context, _ *Job) error {
		<-ctx.Done()
		ends <- context.Cause(ctx)
		return ctx.Err()
	}
}

func TestHelloAndFirstCreditInOneFrame(t *testing.T) {
	bubble(t, 4, func(wd *world, s *scheduler) {
		wd.worker.Handle("b", nothing)
		wd.worker.Handle("a", nothing)
		wd.run()
		st := <-s.streams
		f := <-st.in
		if f.Hello == nil || f.Credit.GetFree() != 4 || strings.Join(f.Hello.Types, " ") != "a b" || f.Hello.Concurrency != 4 {
			t.Fatalf("first frame %v", f)
		}
	})
}

func TestResultIsRepeatedUntilSettled(t *testing.T) {
	bubble(t, 2, func(wd *world, s *scheduler) {
		wd.worker.Handle("tag", nothing)
		wd.run()
		st, _ := s.accept(3)
		st.send(grants(grant(1, "tag")))
		began := time.Now()
		f := st.next(hasResults)
		if r := f.Results[0]; r.Kind != schedulerv1.ResultKind_RESULT_KIND_SUCCESS || r.Token.Counter != 1 || r.JobId != "00000000-0000-7000-8000-000000000001" {
			t.Fatalf("result %v", r)
		}
		for range 3 {
			if f = st.next(hasResults); f.Results[0].Token.Counter != 1 {
				t.Fatalf("repeated %v", f.Results)
			}
		}
		if d := time.Since(began); d < 10*time.Second || d > 30*time.Second {
			t.Fatalf("three repeats after %s", d)
		}
		st.send(settles(token(1)))
		st.drop()
		time.Sleep(time.Minute)
		synctest.Wait()
		for {
			select {
			case f := <-st.in:
				if len(f.Results) > 0 {
					t.Fatalf("a settled result was sent again: %v", f)
				}
				continue
			default:
			}
			break
		}
	})
}

func TestNoSlotIsReturned(t *testing.T) {
	bubble(t, 1, func(wd *world, s *scheduler) {
		wd.worker.Handle("tag", until(make(chan error, 1)))
		wd.run()
		st, _ := s.accept(3)
		st.send(grants(grant(1, "tag"), grant(2, "tag")))
		r := st.next(hasReturns).Returns[0]
		if r.Reason != schedulerv1.ReturnReason_RETURN_REASON_NOT_STARTED || len(r.Tokens) != 1 || r.Tokens[0].Counter != 2 || r.Free != 0 || r.Seen != 2 {
			t.Fatalf("return %v", r)
		}
	})
}

func TestTicketRidesOnResult(t *testing.T) {
	bubble(t, 1, func(wd *world, s *scheduler) {
		wd.worker.Handle("tag", func(context.Context, *Job) error { time.Sleep(time.Second); return nil })
		wd.run()
		st, _ := s.accept(3)
		f := grants(grant(1, "tag"))
		f.Demand = &schedulerv1.Demand{N: 1, Rank: 3, Priority: jobv1.Priority_PRIORITY_DEFAULT, Tag: 2}
		st.send(f)
		got := st.next(hasResults)
		if got.Ticket.GetN() != 1 || got.Credit != nil && got.Credit.Free != 0 {
			t.Fatalf("frame with the result: %v", got)
		}
		if len(got.V) != 0 && got.V[0].Tag != 1 {
			t.Fatalf("tags %v", got.V)
		}
	})
}

func TestStartedRidesOrFollows(t *testing.T) {
	bubble(t, 2, func(wd *world, s *scheduler) {
		wd.worker.Handle("short", func(context.Context, *Job) error { time.Sleep(20 * time.Millisecond); return nil })
		wd.worker.Handle("long", func(context.Context, *Job) error { time.Sleep(time.Second); return nil })
		wd.run()
		st, _ := s.accept(3)
		st.drop()
		st.send(grants(grant(1, "short"), grant(2, "long")))
		began := time.Now()
		f := st.next(func(f *schedulerv1.WorkRequest) bool { return len(f.Started) > 0 })
		if time.Since(began) > startedWait || len(f.Started) != 1 || f.Started[0].Counter != 2 {
			t.Fatalf("started %v after %s", f.Started, time.Since(began))
		}
	})
}

func TestContextEndsAt16sWithoutRenewal(t *testing.T) {
	bubble(t, 1, func(wd *world, s *scheduler) {
		ends := make(chan error, 1)
		wd.worker.Handle("tag", until(ends))
		wd.run()
		st, _ := s.accept(3)
		st.send(grants(grant(1, "tag")))
		began := time.Now()
		if err := <-ends; err != ErrLeaseLost {
			t.Fatalf("cause %v", err)
		}
		if d := time.Since(began); d < 15900*time.Millisecond || d > 16*time.Second+2*wheelStep {
			t.Fatalf("the context ended after %s", d)
		}
	})
}

func TestRenewedLeaseLivesUntilItIsLost(t *testing.T) {
	bubble(t, 1, func(wd *world, s *scheduler) {
		ends := make(chan error, 1)
		wd.worker.Handle("tag", until(ends))
		wd.run()
		st, _ := s.accept(3)
		st.send(grants(grant(1, "tag")))
		began := time.Now()
		for range 12 {
			f := st.next(hasRenew)
			st.send(&schedulerv1.WorkResponse{Renewed: &schedulerv1.Renewed{Tokens: f.Renew}})
		}
		if time.Since(began) < 50*time.Second {
			t.Fatalf("12 renewals within %s", time.Since(began))
		}
		select {
		case err := <-ends:
			t.Fatalf("a renewed lease ended: %v", err)
		default:
		}
		f := st.next(hasRenew)
		st.send(&schedulerv1.WorkResponse{Renewed: &schedulerv1.Renewed{Lost: f.Renew}})
		if err := <-ends; err != ErrLeaseLost {
			t.Fatalf("cause %v", err)
		}
	})
}

func TestRunTimeoutEndsContextInSpiteOfRenewal(t *testing.T) {
	bubble(t, 1, func(wd *world, s *scheduler) {
		ends := make(chan error, 1)
		wd.worker.Handle("tag", until(ends))
		wd.run()
		st, _ := s.accept(3)
		l := grant(1, "tag")
		l.RunTimeout = durationpb.New(300 * time.Millisecond)
		st.send(grants(l))
		began := time.Now()
		if err := <-ends; err != ErrRunTimeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("cause %v", err)
		}
		if d := time.Since(began); d < 300*time.Millisecond || d > 300*time.Millisecond+2*wheelStep {
			t.Fatalf("after %s", d)
		}
		if r := st.next(hasResults).Results[0]; r.Kind != schedulerv1.ResultKind_RESULT_KIND_RETRY || r.ErrorType != "RUN_TIMEOUT" {
			t.Fatalf("result %v", r)
		}
	})
}

func TestPanicIsOneFailedAttempt(t *testing.T) {
	bubble(t, 4, func(wd *world, s *scheduler) {
		wd.worker.Handle("panic", func(context.Context, *Job) error { panic("oh no") })
		wd.worker.Handle("exit", func(context.Context, *Job) error { runtime.Goexit(); return nil })
		wd.worker.Handle("tag", nothing)
		wd.run()
		st, _ := s.accept(3)
		for i, want := range []struct{ typ, errorType string }{{"panic", "HANDLER_PANIC"}, {"exit", "HANDLER_PANIC"}, {"unknown", "NO_HANDLER"}, {"tag", ""}} {
			st.send(grants(grant(int64(i+1), want.typ)))
			r := st.next(hasResults).Results[0]
			if r.ErrorType != want.errorType || (want.errorType != "") != (r.Kind == schedulerv1.ResultKind_RESULT_KIND_RETRY) || len(r.Error) > maxErrorText {
				t.Fatalf("%s: %v", want.typ, r)
			}
			st.send(settles(r.Token))
		}
	})
}

func TestRevoke(t *testing.T) {
	bubble(t, 2, func(wd *world, s *scheduler) {
		ends := make(chan error, 1)
		wd.worker.Handle("tag", until(ends))
		wd.run()
		st, _ := s.accept(3)
		st.send(grants(grant(1, "tag")))
		st.drop()
		began := time.Now()
		st.send(&schedulerv1.WorkResponse{Revokes: []*schedulerv1.Revoke{{
			Tokens: []*jobv1.Token{token(1), token(9)}, Reason: schedulerv1.RevokeReason_REVOKE_REASON_HELD, OnlyIfNotStarted: true,
		}}})
		f := st.next(func(f *schedulerv1.WorkRequest) bool { return len(f.Started) > 0 })
		if f.Started[0].Counter != 1 || len(f.Returns) != 1 || f.Returns[0].Tokens[0].Counter != 9 || time.Since(began) > time.Millisecond {
			t.Fatalf("answer after %s: %v", time.Since(began), f)
		}
		st.send(&schedulerv1.WorkResponse{Revokes: []*schedulerv1.Revoke{{
			Tokens: []*jobv1.Token{token(1)}, Reason: schedulerv1.RevokeReason_REVOKE_REASON_CANCELLED,
		}}})
		if err := <-ends; err != ErrRevoked {
			t.Fatalf("cause %v", err)
		}
	})
}

// TestRevokeBeforeStart looks at the moment between acceptance and start, which no stream can hit for sure.
func TestRevokeBeforeStart(t *testing.T) {
	w, err := New(Config{Schedulers: "x", Concurrency: 1})
	if err != nil {
		t.Fatal(err)
	}
	w.handlers["tag"] = func(context.Context, *Job) error { t.Error("a revoked job was started"); return nil }
	now := time.Now()
	w.wheel.start = now
	l := w.newLink("x", true)
	held := w.decode(l, grant(1, "tag"))
	w.slots.Open(now, l.key)
	w.grantTo(now, l, held, grant(1, "tag"))
	w.revoke(now, l, &schedulerv1.Revoke{Tokens: []*jobv1.Token{token(1)}, OnlyIfNotStarted: true})
	if len(l.returned) != 1 || len(w.leases) != 0 || w.slots.Free() != 1 {
		t.Fatalf("returned %v, leases %v, free %d", l.returned, w.leases, w.slots.Free())
	}
	w.jobs.Add(1)
	w.run(held)
}

func TestDrain(t *testing.T) {
	bubble(t, 2, func(wd *world, s *scheduler) {
		wd.worker.Handle("tag", func(context.Context, *Job) error { time.Sleep(3 * time.Second); return nil })
		wd.run()
		st, _ := s.accept(3)
		st.send(grants(grant(1, "tag")))
		st.drop()
		wd.stop()
		st.next(func(f *schedulerv1.WorkRequest) bool { return f.Draining != nil })
		st.send(grants(grant(2, "tag")))
		if r := st.next(hasReturns).Returns[0]; r.Reason != schedulerv1.ReturnReason_RETURN_REASON_DRAIN || r.Tokens[0].Counter != 2 || r.Free != 0 {
			t.Fatalf("return %v", r)
		}
		if r := st.next(hasResults).Results[0]; r.Token.Counter != 1 || r.Kind != schedulerv1.ResultKind_RESULT_KIND_SUCCESS {
			t.Fatalf("result %v", r)
		}
		synctest.Wait()
		select {
		case err := <-wd.result:
			t.Fatalf("Run returned %v before the result was settled", err)
		default:
		}
		st.send(settles(token(1)))
		if err := wd.end(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDrainEndsContextsAndGivesUp(t *testing.T) {
	bubble(t, 2, func(wd *world, s *scheduler) {
		ends, deaf := make(chan error, 1), make(chan struct{})
		wd.worker.Handle("polite", until(ends))
		wd.worker.Handle("deaf", func(context.Context, *Job) error { <-deaf; return nil })
		wd.run()
		st, _ := s.accept(3)
		st.send(grants(grant(1, "polite"), grant(2, "deaf")))
		st.drop()
		go func() {
			for f := range st.in {
				if len(f.Renew) > 0 {
					st.wire.Send(&schedulerv1.WorkResponse{Renewed: &schedulerv1.Renewed{Tokens: f.Renew}})
				}
				for _, r := range f.Results {
					st.wire.Send(settles(r.Token))
				}
			}
		}()
		began := time.Now()
		err := wd.end()
		if cause := <-ends; cause != ErrStopping {
			t.Fatalf("cause %v", cause)
		}
		if err == nil || !strings.Contains(err.Error(), "1 jobs still running") {
			t.Fatalf("Run returned %v", err)
		}
		if d := time.Since(began); d < defaultDrain+drainGrace || d > defaultDrain+drainGrace+settleWait+time.Second {
			t.Fatalf("Run returned after %s", d)
		}
		close(deaf)
	})
}

func TestUnsettledResultsTakeSlots(t *testing.T) {
	bubble(t, 8, func(wd *world, s *scheduler) {
		wd.worker.Handle("tag", nothing)
		wd.run()
		st, _ := s.accept(3)
		for i := range int64(minUnsettled + 8) {
			st.send(grants(grant(i+1, "tag")))
			if i%4 == 0 {
				st.drop()
			}
		}
		st.drop()
		wd.worker.mu.Lock()
		free, unsettled := wd.worker.slots.Free(), len(wd.worker.unsettled)
		wd.worker.mu.Unlock()
		if free != 0 || unsettled != minUnsettled+8 {
			t.Fatalf("%d slots free with %d results unsettled", free, unsettled)
		}
		for i := range int64(minUnsettled + 8) {
			st.send(settles(token(i + 1)))
		}
		synctest.Wait()
		wd.worker.mu.Lock()
		defer wd.worker.mu.Unlock()
		if wd.worker.slots.Free() != 8 || len(wd.worker.unsettled) != 0 {
			t.Fatalf("%d slots free with %d results unsettled", wd.worker.slots.Free(), len(wd.worker.unsettled))
		}
	})
}

// TestClockLeavesDueFramesToWriters: the clock used to wake at once, again and again, until the writer had taken what was due.
func TestClockLeavesDueFramesToWriters(t *testing.T) {
	w, err := New(Config{Schedulers: "x", Concurrency: 1})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	l := w.newLink("x", true)
	l.open = true
	w.slots.Open(now, l.key)
	w.slots.Bid(now, l.key, share.Bid{N: 1}) // a ticket and credit, both due
	w.flush(now)
	if len(l.wake) != 1 {
		t.Fatal("the writer was not woken")
	}
	if w.armed.Before(now.Add(share.TicketValidity)) {
		t.Fatalf("the clock wakes in %s", w.armed.Sub(now))
	}
}

package worker

import (
	"context"
	"testing"
	"time"

	schedulerv1 "github.com/spillway/spillway/proto/gen/spillway/scheduler/v1"
)

// TestEveryOwnershipIsAnswered: also when there is nothing to name, so that the owner knows that there is nothing (H6).
func TestEveryOwnershipIsAnswered(t *testing.T) {
	bubble(t, 4, func(wd *world, s *scheduler) {
		wd.worker.Handle("slow", func(context.Context, *Job) error { time.Sleep(time.Minute); return nil })
		wd.run()
		st, hello := s.accept()
		if hello.Answers != nil {
			t.Fatalf("the first frame answers %v", hello.Answers)
		}
		answered := func(f *schedulerv1.WorkRequest) bool { return f.Hello != nil }
		st.send(&schedulerv1.WorkResponse{Ownership: owns(7, 2, 3)})
		if a := st.next(answered).Hello; len(a.Held) != 0 || len(a.Answers.GetShards()) != 2 || a.Answers.Shards[1] != 3 || a.Answers.Epochs[1] != 7 {
			t.Fatalf("answered %v", a)
		}
		// An older claim of the shard is none.
		st.send(&schedulerv1.WorkResponse{Ownership: owns(6, 2)})
		time.Sleep(time.Second)
		st.send(&schedulerv1.WorkResponse{Ownership: owns(8, 2)})
		if a := st.next(answered).Hello; len(a.Answers.GetShards()) != 1 || a.Answers.Epochs[0] != 8 {
			t.Fatalf("answered %v", a)
		}
	})
}

// TestLeaseOfAFormerOwnerGoesBack: a lease that reaches the worker after it has answered the next owner is not run: that owner was told that the
// worker does not have it, and grants it again (I5, F3).
func TestLeaseOfAFormerOwnerGoesBack(t *testing.T) {
	bubble(t, 1, func(wd *world, a *scheduler) {
		b := newScheduler(t, wd.network, "replica-1")
		defer b.server.Stop()
		ran := make(chan Token, 4)
		wd.worker.Handle("fast", func(_ context.Context, j *Job) error { ran <- j.Token; return nil })
		wd.run()
		sa, _ := a.accept(3)
		sa.send(topology(a, b))
		sb, _ := b.accept()
		sb.send(&schedulerv1.WorkResponse{Ownership: owns(2, 3)})
		sb.next(func(f *schedulerv1.WorkRequest) bool { return f.Hello != nil })
		sa.send(grants(grant(1, "fast")))
		if r := sa.next(hasReturns).Returns[0]; r.Tokens[0].GetCounter() != 1 || r.Free != 1 || r.Seen != 1 {
			t.Fatalf("returned %v", r)
		}
		again := grant(1, "fast")
		again.Token.Epoch = 2
		sb.send(grants(again))
		sb.next(hasResults)
		if got := <-ran; got.Epoch != 2 || len(ran) != 0 {
			t.Fatalf("ran under %v", got)
		}
	})
}

// TestNewOwnerRenewsAtOnce: a lease whose owner was away for long is renewed as soon as there is one again, and until then more often than usual: its
// context must not end because nobody happened to ask (H34).
func TestNewOwnerRenewsAtOnce(t *testing.T) {
	bubble(t, 1, func(wd *world, s *scheduler) {
		ended := make(chan error, 1)
		wd.worker.Handle("slow", func(ctx context.Context, _ *Job) error {
			select {
			case <-ctx.Done():
				ended <- context.Cause(ctx)
			case <-time.After(40 * time.Second):
				ended <- nil
			}
			return nil
		})
		wd.run()
		st, _ := s.accept(3)
		st.send(grants(grant(1, "slow")))
		granted := time.Now()
		st.next(hasStarted)
		for time.Since(granted) < 15*time.Second { // the owner does not answer
			st.next(hasRenew)
		}
		if asked := time.Since(granted); asked > 15500*time.Millisecond {
			t.Errorf("asked after %v", asked)
		}
		st.send(&schedulerv1.WorkResponse{Ownership: owns(9, 3)})
		sent := time.Now()
		f := st.next(func(f *schedulerv1.WorkRequest) bool { return f.Hello != nil })
		if len(f.Renew) != 1 || time.Since(sent) > 10*time.Millisecond {
			t.Fatalf("answered %v after %v", f, time.Since(sent))
		}
		for {
			st.send(&schedulerv1.WorkResponse{Renewed: &schedulerv1.Renewed{Tokens: []*wireToken{token(1)}}})
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("it ended: %v", err)
				}
				return
			case <-time.After(2 * time.Second):
			}
		}
	})
}

// TestLeaseOnADrainedStreamGoesBack: a lease that arrives when another stream takes the stream's place is not run: what the new stream's Hello does not
// name is granted again at once (I5, H27).
func TestLeaseOnADrainedStreamGoesBack(t *testing.T) {
	bubble(t, 1, func(wd *world, s *scheduler) {
		ran := make(chan Token, 4)
		wd.worker.Handle("fast", func(_ context.Context, j *Job) error { ran <- j.Token; return nil })
		wd.run()
		old, _ := s.accept(3)
		old.send(&schedulerv1.WorkResponse{Drain: &schedulerv1.Drain{Reason: "the stream is old"}})
		old.send(grants(grant(1, "fast")))
		if r := old.next(hasReturns).Returns[0]; r.Tokens[0].GetCounter() != 1 {
			t.Fatalf("returned %v", r)
		}
		st, hello := s.accept(3)
		if len(hello.Held) != 0 {
			t.Fatalf("held %v", hello.Held)
		}
		st.send(grants(grant(2, "fast")))
		st.next(hasResults)
		if got := <-ran; got.Counter != 2 || len(ran) != 0 {
			t.Fatalf("ran under %v", got)
		}
	})
}

// TestFormerOwnerRevokesNothing: a replica that lost a shard, and has not renewed its leases since, takes none of them back: it may have been stopped for
// longer than their TTL, while the next owner renewed them (F3).
func TestFormerOwnerRevokesNothing(t *testing.T) {
	bubble(t, 1, func(wd *world, a *scheduler) {
		b := newScheduler(t, wd.network, "replica-1")
		defer b.server.Stop()
		ended := make(chan error, 1)
		wd.worker.Handle("slow", func(ctx context.Context, _ *Job) error {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return nil
		})
		wd.run()
		sa, _ := a.accept(3)
		sa.send(grants(grant(1, "slow")))
		sa.next(hasStarted)
		sa.send(topology(a, b))
		sb, _ := b.accept()
		sb.send(&schedulerv1.WorkResponse{Ownership: owns(2, 3)})
		sb.next(func(f *schedulerv1.WorkRequest) bool { return f.Hello != nil && len(f.Hello.Held) == 1 })
		expired := &schedulerv1.WorkResponse{Revokes: []*schedulerv1.Revoke{{Tokens: []*wireToken{token(1)}, Reason: schedulerv1.RevokeReason_REVOKE_REASON_EXPIRED}}}
		sa.send(expired)
		time.Sleep(time.Second)
		if len(ended) != 0 {
			t.Fatalf("ended by its former owner: %v", <-ended)
		}
		sb.send(expired) // its owner may
		if err := <-ended; err != ErrLeaseLost {
			t.Errorf("it ended: %v", err)
		}
	})
}

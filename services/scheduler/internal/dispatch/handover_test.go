package dispatch

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

// leases is what the engine says of shard 0.
func (h *house) leases() (held []core.Held) {
	h.loop.Do(func(now time.Time, e *core.Engine) { held = e.Held(now, 0) })
	return held
}

// F3, I10: a grant that was decided long before it can be written is not sent, as when the process was stopped in between. Its job is granted anew,
// with a slot that the worker still has.
func TestStaleGrantIsNotSent(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		s, err := h.loop.Open(someone, worker("a", 1))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Receive(frame.FromWorker{Credit: &frame.Credit{Free: 1}}); err != nil {
			t.Fatal(err)
		}
		h.offer("s")
		time.Sleep(maxWait + 100*time.Millisecond) // nobody reads
		var decided core.Token
		for _, lease := range h.leases() {
			decided = lease.Token
		}
		if decided.Counter != 1 {
			t.Fatalf("decided %v", decided)
		}
		h.gate.shut.Store(true) // as it is after a stop, until everything was confirmed anew
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		granted := make(chan frame.Granted, 8)
		go func() {
			for {
				f, err := s.Next(ctx)
				if err != nil {
					return
				}
				for _, g := range f.Leases {
					granted <- g
				}
			}
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		if len(granted) != 0 {
			t.Fatalf("sent %v, %v after it was decided", (<-granted).Token, maxWait)
		}
		if n := len(h.leases()); n != 0 {
			t.Fatalf("%d leases are left", n)
		}
		h.gate.shut.Store(false)
		time.Sleep(100 * time.Millisecond)
		if g := <-granted; g.Token.Counter != 2 || g.Attempt != 1 {
			t.Fatalf("granted %+v", g)
		}
		s.Close()
	})
}

// H6: a grant that waits to be written when its shard goes to another owner is not sent, and not among the leases that are handed over; what was
// sent is, and is neither renewed nor settled here any more.
func TestHandOverEndsEverythingAtOnce(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		a := h.open(worker("a", 1), 1)
		h.offer("s")
		sent := a.lease()
		s, err := h.loop.Open(someone, worker("b", 1))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Receive(frame.FromWorker{Credit: &frame.Credit{Free: 1}}); err != nil {
			t.Fatal(err)
		}
		h.offer("s")
		time.Sleep(50 * time.Millisecond)
		if n := len(h.leases()); n != 2 {
			t.Fatalf("%d leases", n)
		}
		h.gate.shut.Store(true)
		held := h.loop.HandOver([]int32{0})
		if len(held[0]) != 1 || held[0][0].Token != sent.Token || held[0][0].Worker != "a" || held[0][0].Source != "s" || held[0][0].ExpiresIn <= 0 {
			t.Fatalf("handed over %+v", held)
		}
		a.next("ownership", func(f *frame.ToWorker) bool { return f.Owned != nil && len(f.Owned.Shards) == 0 })
		a.receive(frame.FromWorker{Renew: []core.Token{sent.Token}})
		a.receive(success(sent))
		a.quiet(time.Second, "answered after the handover", func(f *frame.ToWorker) bool {
			return len(f.Renewed)+len(f.Lost)+len(f.Refused)+len(f.Settled) > 0
		})
		f, err := s.Next(context.Background())
		if err != nil || len(f.Leases) != 0 {
			t.Fatalf("sent %+v after the handover: %v", f, err)
		}
		// The group gives the shard back.
		h.gate.shut.Store(false)
		h.own(7)
		a.receive(success(sent))
		a.next("settled", func(f *frame.ToWorker) bool { return len(f.Settled) == 1 })
	})
}

// H6: a lease that was handed over is not taken back when it ends here: the next owner has renewed it, and its worker must not stop the job.
func TestHandedOverLeaseIsNotRevoked(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		a := h.open(worker("a", 1), 1)
		h.offer("s")
		a.lease()
		h.gate.shut.Store(true)
		if held := h.loop.HandOver([]int32{0}); len(held[0]) != 1 {
			t.Fatalf("handed over %+v", held)
		}
		a.quiet(30*time.Second, "revoked after the handover", func(f *frame.ToWorker) bool { return len(f.Revokes) > 0 })
	})
}

// H6: a lease that was handed over and that its worker does not name in answer to Owned is granted again at once; one that it names goes on. At the
// beginning of a stream the worker may not know yet whom to tell.
func TestHandedOverLeaseThatNeverArrived(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		h.loop.Own(nil)
		h.loop.Do(func(_ time.Time, e *core.Engine) { e.Detach(0) })
		h.loop.Do(func(now time.Time, e *core.Engine) { e.Attach(now, 0, 12) })
		var jobs []*core.Job
		for n := range 3 {
			jobs = append(jobs, &core.Job{
				ID: core.JobID{6: 0x70, 15: byte(200 + n)}, Source: "s", Type: "tag", Priority: core.Default, Size: 100, Record: &core.Record{},
				Home: core.Home{Offset: int64(n)},
			})
			h.loop.Do(func(now time.Time, e *core.Engine) {
				e.Expect(now, core.Held{
					JobID: jobs[n].ID, Source: "s", Worker: "a", ExpiresIn: 15 * time.Second, Token: core.Token{Epoch: 7, Counter: int64(n + 1)},
				})
			})
		}
		offer := func(n int) {
			h.loop.Do(func(now time.Time, e *core.Engine) {
				if v := e.Offer(now, jobs[n]); v.Kind != core.Queue {
					t.Errorf("offer: %+v", v)
				}
			})
		}
		offer(0)
		offer(1)
		h.loop.Own(map[int32]int64{0: 12})
		a := h.open(worker("a", 4), 4)
		a.quiet(time.Second, "granted what was handed over", hasLease)
		if n := len(h.leases()); n != 3 {
			t.Fatalf("%d leases after Hello", n)
		}
		hello := worker("a", 4)
		hello.Held = []frame.HeldLease{{JobID: jobs[0].ID, Source: "s", Token: core.Token{Epoch: 7, Counter: 1}, StartedAt: time.Now()}}
		for _, epoch := range []int64{7, 12} { // an answer to a former Owned says nothing
			hello.Answers = &frame.Owned{Shards: []int32{0}, Epochs: []int64{epoch}}
			again := hello
			a.receive(frame.FromWorker{Hello: &again})
			if n := len(h.leases()); epoch == 7 && n != 3 {
				t.Fatalf("%d leases after an answer to another epoch", n)
			}
		}
		if g := a.lease(); g.Job.ID != jobs[1].ID || g.Token.Epoch != 12 || g.Attempt != 1 {
			t.Fatalf("granted %+v", g)
		}
		offer(2)
		if g := a.lease(); g.Job.ID != jobs[2].ID {
			t.Fatalf("granted %+v", g)
		}
		a.receive(frame.FromWorker{Results: []core.Result{{Token: core.Token{Epoch: 7, Counter: 1}, JobID: jobs[0].ID, Kind: core.Success}}})
		a.next("settled", func(f *frame.ToWorker) bool { return len(f.Settled) == 1 })
	})
}

// I5, H34: a suspension that has lasted too long renews nothing, whatever was sent to it in time.
func TestNothingIsRenewedWhenTheGateSaysSo(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		a := h.open(worker("a", 1), 1)
		h.offer("s")
		g := a.lease()
		h.gate.silent.Store(true)
		a.receive(frame.FromWorker{Renew: []core.Token{g.Token}})
		a.quiet(time.Second, "renewed", func(f *frame.ToWorker) bool { return len(f.Renewed)+len(f.Lost) > 0 })
		h.gate.silent.Store(false)
		a.receive(frame.FromWorker{Renew: []core.Token{g.Token}})
		a.next("renewal", func(f *frame.ToWorker) bool { return len(f.Renewed) == 1 })
	})
}

// I5: a stream that begins while a shard is handed over decides nothing about the shard's leases; the answer to the next Owned does, should the group
// give the shard back. What that stream was granted itself may be on its way.
func TestStreamThatBeginsDuringAHandover(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		a := h.open(worker("a", 3), 3)
		h.offer("s")
		h.offer("s")
		var tokens []core.Token
		for len(tokens) < 2 {
			for _, g := range a.next("leases", hasLease).Leases {
				tokens = append(tokens, g.Token)
			}
		}
		h.gate.shut.Store(true)
		h.loop.HandOver([]int32{0})
		time.Sleep(10 * time.Millisecond)
		hello := worker("a", 3)
		hello.Held = []frame.HeldLease{{JobID: h.leases()[0].JobID, Token: h.leases()[0].Token}}
		a = h.open(hello, 2)
		if n := len(h.leases()); n != 2 {
			t.Fatalf("%d leases after the stream began", n)
		}
		h.gate.shut.Store(false)
		h.own(7)
		a.quiet(time.Second, "granted what may run", hasLease)
		h.offer("s")
		onTheWay := a.lease()
		var kept core.Held
		for _, lease := range h.leases() {
			if lease.Token == tokens[0] {
				kept = lease
			}
		}
		again := worker("a", 3)
		again.Held = []frame.HeldLease{{JobID: kept.JobID, Token: kept.Token}}
		again.Answers = &frame.Owned{Shards: []int32{0}, Epochs: []int64{7}}
		a.receive(frame.FromWorker{Hello: &again, Credit: &frame.Credit{Free: 1, Seen: 1}})
		if g := a.lease(); g.Token == onTheWay.Token || g.Job.ID == kept.JobID || g.Attempt != 1 {
			t.Fatalf("granted %+v", g.Token)
		}
		left := map[core.Token]bool{}
		for _, lease := range h.leases() {
			left[lease.Token] = true
		}
		if len(left) != 3 || !left[tokens[0]] || left[tokens[1]] || !left[onTheWay.Token] {
			t.Fatalf("left %v", left)
		}
	})
}

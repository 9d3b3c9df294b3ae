package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

func TestJobGoesRound(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		p := h.open(worker("w", 2), 2)
		f := p.next("welcome", func(f *frame.ToWorker) bool { return f.Welcome != nil })
		if f.Welcome.Replica != "r0" || f.Welcome.TTL != 20*time.Second || !slices.Equal(f.Owned.Shards, []int32{0}) || f.Owned.Epochs[0] != 7 {
			t.Fatalf("first frame %+v", f)
		}
		job := h.offer("s")
		g := p.lease()
		if g.Job != job || g.Token.Epoch != 7 || g.Attempt != 1 || g.TTL != 20*time.Second || g.RunTimeout != 5*time.Minute {
			t.Fatalf("lease %+v", g)
		}
		p.receive(frame.FromWorker{Started: []core.Token{g.Token}})
		p.receive(success(g))
		f = p.next("settled", func(f *frame.ToWorker) bool { return len(f.Settled) > 0 })
		if f.Settled[0] != g.Token || !slices.Equal(h.settle.kinds(), []core.SettlementKind{core.Succeeded}) {
			t.Fatalf("settled %v, %v", f.Settled, h.settle.kinds())
		}
		p.receive(success(g)) // again, as a worker does whose Settled was lost
		f = p.next("refusal", func(f *frame.ToWorker) bool { return len(f.Refused) > 0 })
		if f.Refused[0] != g.Token || len(h.settle.kinds()) != 1 {
			t.Fatalf("refused %v, %v", f.Refused, h.settle.kinds())
		}
	})
}

// TestGate: nothing is granted while control is stale or the generation is gone; then it goes on by itself.
func TestGate(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		h.gate.shut.Store(true)
		p := h.open(worker("w", 1), 1)
		h.offer("s")
		p.quiet(time.Second, "granted through a shut gate", hasLease)
		h.gate.shut.Store(false)
		began := time.Now()
		p.lease()
		if d := time.Since(began); d > 2*tickEvery {
			t.Fatalf("granted %s after the gate opened", d)
		}
	})
}

// TestGateWaitsForTheEngine: a control log that was confirmed says nothing for an engine that does not act on it yet (H17); it grants as soon as it
// does.
func TestGateWaitsForTheEngine(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		h.gate.latest.Store(4)
		p := h.open(worker("w", 1), 1)
		h.offer("s")
		p.quiet(time.Second, "granted by an older control state", hasLease)
		began := time.Now()
		if _, err := h.loop.Apply(core.Control{Sequence: 4}); err != nil {
			t.Fatal(err)
		}
		p.lease()
		if d := time.Since(began); d > time.Millisecond {
			t.Fatalf("granted %s after the state was applied", d)
		}
	})
}

// H16: a replica whose pump is stuck goes, however healthy the rest of it looks.
func TestH16StuckPumpEndsRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Replica: "r0"}, Deps{Log: slog.New(slog.DiscardHandler), Engine: core.New(core.Config{})})
		stuck := make(stuckGate)
		l.Connect(Ports{Settler: &durable{loop: l}, Mover: &lanes{}, Reader: &lanes{}, Gate: stuck, Beat: &beat{}})
		began := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		if err := l.Run(ctx); err == nil || time.Since(began) > (maxMissed+3)*auditEvery {
			t.Fatalf("Run returned %v after %s", err, time.Since(began))
		}
		cancel()
		close(stuck)
	})
}

// S17: a lease is its worker's, on any of its streams, and nobody else's.
func TestS17LeaseIsBoundToItsWorker(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		a, b := h.open(worker("a", 1), 1), h.open(worker("b", 1), 0)
		h.offer("s")
		g := a.lease()
		b.receive(success(g))
		if f := b.next("refusal", func(f *frame.ToWorker) bool { return len(f.Refused) > 0 }); f.Refused[0] != g.Token {
			t.Fatalf("refused %v", f.Refused)
		}
		b.receive(frame.FromWorker{Renew: []core.Token{g.Token}})
		b.next("loss", func(f *frame.ToWorker) bool { return slices.Contains(f.Lost, g.Token) })
		a.Close()
		hello := worker("a", 1)
		hello.Held = []frame.HeldLease{{JobID: g.Job.ID, Token: g.Token}}
		if _, err := h.loop.Open(frame.Identity{Subject: "thief"}, hello); !errors.Is(err, frame.ErrNotAllowed) {
			t.Fatalf("another caller took the worker's id: %v", err)
		}
		a = h.open(hello, 0)
		a.receive(success(g))
		a.next("settled", func(f *frame.ToWorker) bool { return slices.Contains(f.Settled, g.Token) })
	})
}

// H27: a grant that never reached the worker goes back as soon as the worker says what it holds.
func TestH27UnnamedLeaseGoesBack(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		a := h.open(worker("a", 1), 1)
		job := h.offer("s")
		first := a.lease()
		again := h.open(worker("a", 1), 1) // while the old stream is still open
		if err := a.Err(); !errors.Is(err, frame.ErrReplaced) {
			t.Fatalf("the old session ended with %v", err)
		}
		second := again.lease()
		if second.Job != job || !first.Token.Before(second.Token) || second.Attempt != 1 {
			t.Fatalf("granted again %+v", second.Lease)
		}
		if err := a.Receive(success(first)); !errors.Is(err, frame.ErrReplaced) {
			t.Fatalf("the old session took a frame: %v", err)
		}
	})
}

func TestLeaseExpires(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		a := h.open(worker("a", 1), 1)
		h.offer("s")
		g := a.lease()
		a.receive(frame.FromWorker{Started: []core.Token{g.Token}})
		time.Sleep(15 * time.Second)
		a.receive(frame.FromWorker{Renew: []core.Token{g.Token}})
		a.next("renewal", func(f *frame.ToWorker) bool { return slices.Contains(f.Renewed, g.Token) })
		time.Sleep(19 * time.Second)
		if n := len(h.settle.kinds()); n != 0 {
			t.Fatalf("%d settlements of a renewed lease", n)
		}
		time.Sleep(2 * time.Second)
		if !slices.Equal(h.settle.kinds(), []core.SettlementKind{core.Retrying}) {
			t.Fatalf("settlements %v", h.settle.kinds())
		}
		a.receive(success(g))
		a.next("refusal", func(f *frame.ToWorker) bool { return slices.Contains(f.Refused, g.Token) })
	})
}

// H6: what a former owner granted is inherited when the worker names it, and its result counts.
func TestH6FormerOwnersLeaseIsInherited(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		h.loop.Own(nil)
		h.loop.Do(func(_ time.Time, e *core.Engine) { e.Detach(0) })
		a := h.open(worker("a", 1), 0)
		old := core.Token{Shard: 0, Epoch: 7, Counter: 9}
		a.receive(frame.FromWorker{Results: []core.Result{{Token: old, Kind: core.Success}}, Renew: []core.Token{old}})
		a.quiet(time.Second, "answered about a shard of another replica", func(f *frame.ToWorker) bool { return len(f.Refused)+len(f.Lost)+len(f.Renewed) > 0 })

		h.own(12)
		a.next("ownership", func(f *frame.ToWorker) bool {
			return f.Owned != nil && len(f.Owned.Shards) == 1 && f.Owned.Epochs[0] == 12
		})
		job := &core.Job{
			ID: core.JobID{6: 0x70, 15: 200}, Source: "s", Type: "tag", Priority: core.Default, Size: 100, Record: &core.Record{},
			Quarantine: time.Now().Add(29 * time.Second), Home: core.Home{Offset: 200},
		}
		h.loop.Do(func(now time.Time, e *core.Engine) {
			if v := e.Offer(now, job); v.Kind != core.Queue {
				t.Errorf("offer: %+v", v)
			}
		})
		hello := worker("a", 1)
		hello.Held = []frame.HeldLease{{JobID: job.ID, Token: old, StartedAt: time.Now()}}
		a.receive(frame.FromWorker{Hello: &hello})
		a.receive(frame.FromWorker{Results: []core.Result{{Token: old, JobID: job.ID, Kind: core.Success}}})
		a.next("settled", func(f *frame.ToWorker) bool { return slices.Contains(f.Settled, old) })
	})
}

func TestHoldIsAcknowledgedWhenDecided(t *testing.T) {
	held := func(sequence int64, source string) core.Control {
		return core.Control{
			Sequence: sequence,
			Switches: []core.Switch{{Scope: core.Scope{Kind: core.ScopeSource, Source: source}, Verb: core.Hold, Sequence: sequence}},
		}
	}
	revoked := func(f *frame.ToWorker) bool {
		return len(f.Revokes) > 0 && f.Revokes[0].OnlyIfNotStarted && f.Revokes[0].Reason == core.RevokeHeld
	}
	t.Run("started", func(t *testing.T) {
		bubble(t, Config{}, func(h *house) {
			a := h.open(worker("a", 2), 2)
			h.offer("s")
			g := a.lease()
			if _, err := h.loop.Apply(held(5, "s")); err != nil {
				t.Fatal(err)
			}
			a.next("revocation", revoked)
			if h.loop.Acknowledged() != -1 {
				t.Fatal("acknowledged with a lease undecided")
			}
			pokes := h.beat.pokes.Load()
			a.receive(frame.FromWorker{Started: []core.Token{g.Token}})
			if h.loop.Acknowledged() != 5 || h.beat.pokes.Load() == pokes {
				t.Fatalf("acknowledged %d", h.loop.Acknowledged())
			}
			h.loop.Do(func(now time.Time, e *core.Engine) {
				if n := e.Running(core.Scope{Kind: core.ScopeSource, Source: "s"}); n != 1 {
					t.Errorf("%d running", n)
				}
			})
		})
	})
	t.Run("returned", func(t *testing.T) {
		bubble(t, Config{}, func(h *house) {
			a := h.open(worker("a", 2), 2)
			h.offer("s")
			g := a.lease()
			h.loop.Apply(held(5, "s"))
			a.receive(frame.FromWorker{Returns: []frame.Returned{{Tokens: []core.Token{g.Token}, Reason: core.NotStarted, Free: 2, Seen: 1}}})
			if h.loop.Acknowledged() != 5 {
				t.Fatalf("acknowledged %d", h.loop.Acknowledged())
			}
			a.quiet(5*time.Second, "a held job was granted", hasLease)
		})
	})
	t.Run("silent", func(t *testing.T) {
		bubble(t, Config{}, func(h *house) {
			a := h.open(worker("a", 2), 2)
			h.offer("s")
			a.lease()
			h.loop.Apply(held(5, "s"))
			h.loop.Apply(held(6, "t")) // acknowledged in order
			time.Sleep(holdWait - tickEvery)
			if h.loop.Acknowledged() != -1 {
				t.Fatalf("acknowledged %d too early", h.loop.Acknowledged())
			}
			time.Sleep(2 * tickEvery)
			synctest.Wait()
			if h.loop.Acknowledged() != 6 {
				t.Fatalf("acknowledged %d after 200 ms", h.loop.Acknowledged())
			}
		})
	})
	t.Run("nothing running", func(t *testing.T) {
		bubble(t, Config{}, func(h *house) {
			h.loop.Apply(held(5, "s"))
			if h.loop.Acknowledged() != 5 {
				t.Fatalf("acknowledged %d", h.loop.Acknowledged())
			}
		})
	})
}

// S18: a caller's workers have a limited number of slots in all, however many streams it opens.
func TestS18SlotsOfOneCaller(t *testing.T) {
	bubble(t, Config{SlotsPerCaller: 10}, func(h *house) {
		a := h.open(worker("a", 6), 6)
		if _, err := h.loop.Open(someone, worker("b", 5)); !errors.Is(err, frame.ErrTooManySlots) {
			t.Fatalf("16 slots: %v", err)
		}
		if _, err := h.loop.Open(frame.Identity{Subject: "another"}, worker("c", 10)); err != nil {
			t.Fatal(err)
		}
		h.open(worker("a", 10), 0) // in place of its older stream
		a.Close()
		if _, err := h.loop.Open(someone, worker("b", 1)); !errors.Is(err, frame.ErrTooManySlots) {
			t.Fatalf("closing a replaced session freed slots: %v", err)
		}
	})
}

// S18: a worker that claims more free slots than it has is not believed.
func TestS18CreditIsCapped(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		a := h.open(worker("a", 2), 10_000)
		a.receive(frame.FromWorker{Tickets: 10_000})
		for range 10 {
			h.offer("s")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		n := 0
		a.mu.Lock()
		for _, f := range a.frames {
			n += len(f.Leases)
		}
		a.mu.Unlock()
		if n == 0 || n > 4 {
			t.Fatalf("%d leases for two slots, offered as credit and as tickets", n)
		}
	})
}

func TestWorkerThatDoesNotReadLosesItsStream(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		s, err := h.loop.Open(someone, worker("a", 1))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(maxStall + 2*auditEvery)
		<-s.Done()
		if !errors.Is(s.Err(), frame.ErrSlow) {
			t.Fatal(s.Err())
		}
		s.Close()
		if h.loop.Sessions() != 0 {
			t.Fatal("the session is still counted")
		}
	})
}

func TestTopologyGoesOutWhenItChanges(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		a := h.open(worker("a", 1), 1)
		has := func(n int) func(*frame.ToWorker) bool {
			return func(f *frame.ToWorker) bool { return len(f.Topology) == n }
		}
		one := frame.Replica{ID: "r0", Address: "a:1", Shards: []int32{0}}
		two := frame.Replica{ID: "r1", Address: "b:1"}
		h.loop.SetTopology([]frame.Replica{two, one})
		a.next("topology", has(2))
		h.loop.SetTopology([]frame.Replica{one, two})
		h.loop.SetTopology(nil)
		a.quiet(time.Second, "topology without a change", func(f *frame.ToWorker) bool { return f.Topology != nil })
		b := h.open(worker("b", 1), 1)
		b.next("topology", has(2))
	})
}

func TestOldStreamsAndStopSayFarewell(t *testing.T) {
	bubble(t, Config{MaxAge: time.Hour}, func(h *house) {
		farewell := func(f *frame.ToWorker) bool { return f.Farewell != nil }
		a := h.open(worker("a", 1), 1)
		time.Sleep(time.Hour + time.Second)
		a.next("farewell", farewell)
		a.quiet(time.Hour, "a second farewell", farewell)
		b := h.open(worker("b", 1), 1)
		h.loop.Drain("restart", 5*time.Second)
		if f := b.next("farewell", farewell); f.Farewell.Within != 5*time.Second {
			t.Fatalf("%+v", f.Farewell)
		}
		if _, err := h.loop.Open(someone, worker("c", 1)); !errors.Is(err, frame.ErrStopping) {
			t.Fatalf("a new session while stopping: %v", err)
		}
		h.offer("s")
		b.quiet(time.Second, "granted while stopping", hasLease)
	})
}

func TestDrainingWorkerGetsNothing(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		a := h.open(worker("a", 2), 2)
		h.offer("s")
		g := a.lease()
		a.receive(frame.FromWorker{Draining: true, Returns: []frame.Returned{{Tokens: []core.Token{g.Token}, Reason: core.Draining}}})
		a.quiet(time.Second, "granted to a draining worker", hasLease)
		b := h.open(worker("b", 1), 1)
		if again := b.lease(); again.Job != g.Job || again.Attempt != 1 {
			t.Fatalf("%+v", again.Lease)
		}
	})
}

// TestWorkerThatRenewsAndDoesNotRead: what is answered to a worker that never reads is bounded at once, not after the 10 s that a slow one has. One
// stream of such frames once grew the scheduler by 100 MiB in 2 s.
func TestWorkerThatRenewsAndDoesNotRead(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		renewal := func(n int) (f frame.FromWorker) {
			for i := range n {
				f.Renew = append(f.Renew, core.Token{Epoch: 7, Counter: int64(i)})
			}
			return f
		}
		honest, err := h.loop.Open(someone, worker("honest", 10_000))
		if err != nil {
			t.Fatal(err)
		}
		defer honest.Close()
		for range 3 { // all that it may hold, as often as it renews before it is slow
			if err := honest.Receive(renewal(20_000)); err != nil || honest.Err() != nil {
				t.Fatalf("ended a worker that stalls: %v, %v", err, honest.Err())
			}
		}
		s, err := h.loop.Open(someone, worker("w", 1))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		frames := 0
		for ; s.Err() == nil && frames < 100; frames++ {
			if err := s.Receive(renewal(2000)); err != nil {
				t.Fatal(err)
			}
		}
		if !errors.Is(s.Err(), frame.ErrSlow) || frames > 11 {
			t.Errorf("%v after %d frames", s.Err(), frames)
		}
	})
}

// TestResultOfNoJob: a result whose job id was none is refused as one of a stale lease; the stream, the lease and the frame's other results live on.
func TestResultOfNoJob(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		p := h.open(worker("w", 2), 2)
		h.offer("s")
		bad := p.lease()
		h.offer("s")
		good := p.lease()
		p.receive(frame.FromWorker{Results: []core.Result{{Token: bad.Token, Kind: core.Success}, {Token: good.Token, JobID: good.Job.ID, Kind: core.Success}}})
		p.next("refusal", func(f *frame.ToWorker) bool { return slices.Contains(f.Refused, bad.Token) })
		p.next("settled", func(f *frame.ToWorker) bool { return slices.Contains(f.Settled, good.Token) })
		p.receive(success(bad))
		p.next("settled", func(f *frame.ToWorker) bool { return slices.Contains(f.Settled, bad.Token) })
	})
}

package dispatch

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/spillway/spillway/services/scheduler/internal/core"
	"github.com/spillway/spillway/services/scheduler/internal/core/frame"
)

// reader is what a worker knows of one replica, as far as the order of parts matters.
type reader struct {
	bid    core.Bid
	passed int32
	leases []core.Token
}

func (r *reader) act(a core.Action) {
	switch a.Kind {
	case core.Demand:
		r.bid = a.Bid
	case core.Pass:
		r.passed += a.N
		r.bid = core.Bid{}
	case core.Grant:
		r.leases = append(r.leases, a.Lease.Token)
		r.bid = a.Bid
	}
}

// apply takes a frame's parts in the order of the contract.
func (r *reader) apply(f *frame.ToWorker) {
	if f.Bid != nil {
		r.bid = *f.Bid
	}
	if f.Pass > 0 {
		r.passed += f.Pass
		r.bid = core.Bid{}
	}
	for _, l := range f.Leases {
		r.leases = append(r.leases, l.Token)
	}
}

// TestOutboxKeepsOrder: whatever is put into one frame, the worker ends up as if every decision had been a frame.
func TestOutboxKeepsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var o outbox
		var one, other reader
		now := time.Unix(0, 0)
		for i := range rapid.IntRange(0, 60).Draw(t, "decisions") {
			a := core.Action{Kind: core.ActionKind(rapid.IntRange(1, 3).Draw(t, "kind")), N: 1}
			a.Bid = core.Bid{N: int32(rapid.IntRange(0, 3).Draw(t, "n")), Tag: float64(i)}
			a.Lease = core.Lease{Job: &core.Job{Size: rapid.SampledFrom([]int{100, maxFrame / 2, maxFrame}).Draw(t, "size")}, Token: core.Token{Counter: int64(i)}}
			one.act(a)
			o.act(now, a)
			o.urgent = true
			if rapid.Bool().Draw(t, "take") {
				if f := o.take(now); f != nil {
					other.apply(f)
				}
			}
		}
		for f := o.take(now); f != nil; f = o.take(now) {
			size := 0
			for _, l := range f.Leases {
				size += l.Job.Size
			}
			if size > maxFrame && len(f.Leases) > 1 {
				t.Fatalf("a frame of %d bytes with %d leases", size, len(f.Leases))
			}
			other.apply(f)
		}
		if one.bid != other.bid || one.passed != other.passed || !slices.Equal(one.leases, other.leases) {
			t.Fatalf("one by one %+v, in frames %+v", one, other)
		}
		if o.bytes != 0 || len(o.frames) != 0 || !o.since.IsZero() {
			t.Fatalf("an empty outbox has %d bytes in %d frames", o.bytes, len(o.frames))
		}
	})
}

// TestFramesOfAWorkerThatDoesNotReadAreBounded: every ticket that is passed back begins a frame.
func TestFramesOfAWorkerThatDoesNotReadAreBounded(t *testing.T) {
	var o outbox
	now := time.Unix(0, 0)
	for i := range 2 * maxFrames {
		if o.over(now) {
			if i < maxFrames {
				t.Errorf("ended after %d frames", i)
			}
			return
		}
		o.act(now, core.Action{Kind: core.Pass, N: 1})
		o.act(now, core.Action{Kind: core.Demand, Bid: core.Bid{N: 1}})
	}
	t.Errorf("%d frames wait", len(o.frames))
}

func TestRevocationFollowsItsLease(t *testing.T) {
	var o outbox
	now := time.Unix(0, 0)
	for i := range 3 {
		o.act(now, core.Action{Kind: core.Grant, Lease: core.Lease{Job: &core.Job{Size: maxFrame}, Token: core.Token{Counter: int64(i)}}})
	}
	o.urgent = true
	f := o.last(now)
	f.Revokes = append(f.Revokes, core.Revoke{Token: core.Token{Counter: 2}})
	for i := range 3 {
		f := o.take(now)
		if len(f.Leases) != 1 || (len(f.Revokes) == 1) != (i == 2) {
			t.Fatalf("frame %d: %d leases, %d revocations", i, len(f.Leases), len(f.Revokes))
		}
	}
}

// TestSettledRidesOnTheNextFrame: an answer that nobody waits for makes no frame of its own while there are others.
func TestSettledRidesOnTheNextFrame(t *testing.T) {
	bubble(t, Config{}, func(h *house) {
		a := h.open(worker("a", 2), 2)
		h.offer("s")
		g := a.lease()
		a.receive(success(g))
		time.Sleep(20 * time.Millisecond)
		h.offer("s")
		if f := a.next("lease", hasLease); !slices.Contains(f.Settled, g.Token) {
			t.Fatalf("the next frame: %+v", f)
		}
		g2 := core.Token{Epoch: 7, Counter: g.Token.Counter + 1}
		began := time.Now()
		h.loop.Settled("a", g2)
		a.next("settled", func(f *frame.ToWorker) bool { return slices.Contains(f.Settled, g2) })
		if d := time.Since(began); d < settledWait || d > settledWait+2*tickEvery {
			t.Fatalf("after %s", d)
		}
	})
}

func TestOutboxIsBounded(t *testing.T) {
	var o outbox
	now := time.Unix(0, 0)
	for o.bytes <= maxOutbox {
		if o.over(now) {
			t.Fatal("over its budget too early")
		}
		o.act(now, core.Action{Kind: core.Grant, Lease: core.Lease{Job: &core.Job{Size: 1 << 20}}})
	}
	if !o.over(now) || o.full() {
		t.Fatal("no bound on bytes")
	}
	for o.bytes <= maxBurst {
		o.act(now, core.Action{Kind: core.Grant, Lease: core.Lease{Job: &core.Job{Size: 1 << 20}}})
	}
	if !o.full() {
		t.Fatal("no bound on what is decided at once")
	}
	var idle outbox
	idle.last(now).Pass = 1
	if idle.over(now.Add(maxStall)) || !idle.over(now.Add(maxStall+1)) {
		t.Fatal("no bound on time")
	}
}

package shard

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// drained is what the last commits of both shards say.
func (w *world) drained() []bool {
	w.t.Helper()
	return []bool{w.committed(topics.Outcomes(), 0).Meta.Drained, w.committed(topics.Outcomes(), 1).Meta.Drained}
}

// handovers are the handovers in a shard's outcomes, in order.
func (w *world) handovers(shard int) (list []*logv1.Handover) {
	w.t.Helper()
	ends, err := w.client.Ends(w.t.Context(), topics.Outcomes(), []int{shard})
	if err != nil {
		w.t.Fatal(err)
	}
	for from := ends[shard].First; from < ends[shard].Next; {
		batch, err := w.client.Fetch(w.t.Context(), topics.Outcomes(), shard, from, 4<<20, time.Second)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, m := range batch.Messages {
			from = m.Offset + 1
			event := &logv1.JobEvent{}
			if err := proto.Unmarshal(m.Value, event); err != nil {
				w.t.Fatal(err)
			}
			if h := event.GetHandover(); h != nil {
				list = append(list, h)
			}
		}
	}
	return list
}

// inherited are the leases of former owners that a replica waits for.
func (r *replica) inherited(shard int32) (held []core.Held) {
	r.deps.Engine.Do(func(now time.Time, e *core.Engine) { held = e.Held(now, shard) })
	slices.SortFunc(held, func(a, b core.Held) int { return int(a.Token.Counter - b.Token.Counter) })
	return held
}

// lease is one of an owner under an epoch.
func lease(n byte, shard int32, epoch int64) core.Held {
	return core.Held{
		JobID: job(n), Source: "s", Worker: "w", ExpiresIn: 15 * time.Second, Token: core.Token{Shard: shard, Epoch: epoch, Counter: int64(n)},
	}
}

// TestHandoverIsInherited: what runs when an owner stops goes to the next one with its token, its worker and its time; what waits is not in
// quarantine. An owner that stops soon after hands it over again (H6).
func TestHandoverIsInherited(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.own("a")
		if slices.Contains(w.drained(), true) {
			t.Error("drained while it grants")
		}
		w.held[1] = []core.Held{lease(1, 1, 0), lease(2, 1, 0)}
		offset := w.jobs(topics.Jobs("low"), 1, 3)
		r.stop()
		if !slices.Equal(w.drained(), []bool{true, true}) {
			t.Fatalf("drained: %v", w.drained())
		}
		for shard := range shards {
			if n := len(w.handovers(shard)); n != 1 {
				t.Errorf("shard %d: %d handovers", shard, n)
			}
		}
		for range 2 { // the second one inherits what the first one was left, and leaves it
			r = w.own("b")
			if slices.Contains(w.drained(), true) {
				t.Error("drained while it grants")
			}
			if got := r.inherited(1); len(got) != 2 || got[0].Token != w.held[1][0].Token || got[1].JobID != job(2) || got[1].Worker != "w" || got[1].Source != "s" {
				t.Fatalf("inherited %+v", got)
			}
			if past := r.window(topics.Jobs("low"), 1).History(job(9), offset); !past.Quarantine.IsZero() && past.Quarantine.After(time.Now()) {
				t.Errorf("what waits is in quarantine until %v", past.Quarantine)
			}
			w.held[1] = r.inherited(1)
			r.stop()
		}
	})
}

// TestHandoverOfMany: more leases than one event holds are in several, all of which count.
func TestHandoverOfMany(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.own("a")
		const n = 5000
		for i := range n {
			h := lease(1, 0, 0)
			h.JobID, h.Token.Counter = core.JobID(envelope.NewJobID(time.Unix(1e9, 0), 0, [8]byte{byte(i >> 8), byte(i)})), int64(i+1)
			w.held[0] = append(w.held[0], h)
		}
		r.stop()
		list := w.handovers(0)
		for _, h := range list {
			if size := proto.Size(h); size > handoverBytes+100 {
				t.Errorf("an event of %d bytes", size)
			}
		}
		if len(list) < 2 {
			t.Fatalf("%d events", len(list))
		}
		if got := len(w.own("b").inherited(0)); got != n {
			t.Errorf("inherited %d", got)
		}
	})
}

// TestHandoverOfUnknownFate: a handover whose write was not confirmed does not count, be it in the log or not, and neither does one whose drained
// commit has failed: then what waits is in quarantine (H6, H20).
func TestHandoverOfUnknownFate(t *testing.T) {
	for name, fault := range map[string]struct {
		request kafkatest.Request
		code    int16 // 7: done and not confirmed; 3: not done
	}{
		"written, not confirmed": {kafkatest.Produce, 7}, "not written": {kafkatest.Produce, 3}, "commit refused": {kafkatest.OffsetCommit, 14},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				r := w.own("a")
				offset := w.jobs(topics.Jobs("low"), 1, 3)
				w.held[1] = []core.Held{lease(1, 1, 0)}
				topic := topics.Outcomes()
				heal := w.broker.Fault(fault.request, topic, fault.code, -1)
				r.stop()
				heal()
				if slices.Contains(w.drained(), true) {
					t.Fatalf("drained: %v", w.drained())
				}
				r = w.own("b")
				if got := r.inherited(1); len(got) != 0 {
					t.Errorf("inherited %+v", got)
				}
				if past := r.window(topics.Jobs("low"), 1).History(job(9), offset); past.Quarantine.Before(time.Now().Add(Quarantine - time.Second)) {
					t.Errorf("in quarantine until %v", past.Quarantine)
				}
			})
		})
	}
}

// TestHandoverInQuarantine: an owner that took a shard of a crashed one, and loses it in order, leaves the quarantine to the next one: for those
// records and no others, and for what is left of it.
func TestHandoverInQuarantine(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.event(0, 0, macKey, fenceOf("crashed"))
		before := w.jobs(topics.Jobs("low"), 0, 3)
		r := w.own("a")
		after := w.jobs(topics.Jobs("low"), 0, 3)
		began := time.Now()
		time.Sleep(9 * time.Second)
		r.stop()
		r = w.own("b")
		window := r.window(topics.Jobs("low"), 0)
		if past := window.History(job(1), before); past.Quarantine.Sub(began) < Quarantine-time.Second || past.Quarantine.Sub(began) > Quarantine+5*time.Second {
			t.Errorf("in quarantine for %v", past.Quarantine.Sub(began))
		}
		if past := window.History(job(2), after); !past.Quarantine.IsZero() {
			t.Errorf("what came later is in quarantine until %v", past.Quarantine)
		}
		time.Sleep(Quarantine)
		r.stop()
		r = w.own("c")
		if past := r.window(topics.Jobs("low"), 0).History(job(1), before); past.Quarantine.After(time.Now()) {
			t.Errorf("in quarantine until %v, when it is over", past.Quarantine)
		}
	})
}

// TestZombiesHandoverIsIgnored: a handover of an owner that was fenced before says nothing.
func TestZombiesHandoverIsIgnored(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.own("a").stop()
		epoch := w.event(0, 0, macKey, fenceOf("another"))
		w.event(0, 0, macKey, &logv1.JobEvent{Event: &logv1.JobEvent_Handover{Handover: &logv1.Handover{Number: 9, Leases: []*logv1.HeldLease{{JobId: "x"}}}}})
		if epoch == 0 {
			t.Fatal("no owner before")
		}
		if got := w.own("b").inherited(0); len(got) != 0 {
			t.Errorf("inherited %+v", got)
		}
	})
}

// TestDrainedWithoutAHandover: an owner that goes on below a fence which it has not seen (its writer lost the shard again before it had read anything)
// hands over events that no reader counts. Then its commit proves nothing, and what it has granted is in quarantine (H6).
func TestDrainedWithoutAHandover(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.own("a")
		offset := w.jobs(topics.Jobs("low"), 1, 3)
		w.held[1] = []core.Held{lease(1, 1, 0)}
		w.event(1, 0, macKey, fenceOf("late"))
		r.stop()
		if !slices.Equal(w.drained(), []bool{true, true}) {
			t.Fatalf("drained: %v", w.drained())
		}
		r = w.own("b")
		if got := r.inherited(1); len(got) != 0 {
			t.Errorf("inherited %+v", got)
		}
		if past := r.window(topics.Jobs("low"), 1).History(job(1), offset); past.Quarantine.Before(time.Now().Add(Quarantine - time.Second)) {
			t.Errorf("in quarantine until %v", past.Quarantine)
		}
		if past := r.window(topics.Jobs("low"), 0).History(job(1), 0); past.Quarantine.After(time.Now()) {
			t.Errorf("the other shard is in quarantine until %v", past.Quarantine)
		}
	})
}

// TestDrainedCommitOfUnknownFateIsTakenBack: an owner that keeps its shard through a rebalance takes a drained commit back whose answer it did not
// get: or whoever came after a crash would find it, and grant again what runs.
func TestDrainedCommitOfUnknownFateIsTakenBack(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.own("a")
		ids, epochs := r.Shards()
		heal := w.broker.Fault(kafkatest.OffsetCommit, topics.Outcomes(), 7, -1) // done, and not confirmed
		time.AfterFunc(1900*time.Millisecond, heal)
		other := w.own("b")
		time.Sleep(5 * time.Second)
		if len(w.handovers(0)) != 1 {
			t.Fatalf("%d handovers", len(w.handovers(0)))
		}
		for i, id := range ids {
			if epoch, kept := r.Epoch(id); kept && epoch != epochs[i] {
				t.Errorf("shard %d: epoch %d, it was %d", id, epoch, epochs[i])
			} else if kept && w.drained()[id] {
				t.Errorf("shard %d is granted of under a commit that says drained", id)
			}
		}
		if n := len(r.Epochs()) + len(other.Epochs()); n != shards {
			t.Errorf("%d shards are owned", n)
		}
	})
}

// TestNoHandoverWithinAGeneration: an owner that fails in a way that may pass goes on in the same generation, where nothing fences a commit that comes
// late: it says drained at no time.
func TestNoHandoverWithinAGeneration(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		r := w.own("a")
		epoch, _ := r.Epoch(0)
		r.fail <- kafka.ErrUnsent
		time.Sleep(2 * time.Second)
		if now, owned := r.Epoch(0); !owned || now != epoch || !r.Joined() || !r.Open(time.Now()) {
			t.Errorf("owned %v under %d, it was %d; open %v", owned, now, epoch, r.Open(time.Now()))
		}
		if n := len(w.handovers(0)) + len(w.handovers(1)); n != 0 {
			t.Errorf("%d handovers", n)
		}
	})
}

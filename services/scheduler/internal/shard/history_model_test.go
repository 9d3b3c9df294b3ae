package shard

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/scheduler/internal/core"
)

// written is an event in the log of a model.
type written struct {
	offset int64
	event  *logv1.JobEvent
}

// TestFoldAgainstAScan: whatever owners and zombies have written, in whatever order, once or twice, the fold comes to what a scan with the reader's
// rule in plain words comes to: who is settled, how many attempts there were, and which leases the latest handover left (H5, H6, I4).
func TestFoldAgainstAScan(t *testing.T) {
	w := &world{t: t, broker: kafkatest.Start(t)} // rapid does not run in a bubble
	w.broker.Install(t, kafka.Layout{Topics: topics, Shards: shards, Lanes: lanes, Durability: kafka.Single})
	w.client = w.broker.Client(t, "test", topics.All()...)
	ids := []core.JobID{job(1), job(2), job(3), job(4)}
	rapid.Check(t, func(t *rapid.T) {
		var log []written
		put := func(event *logv1.JobEvent) int64 {
			offset := w.event(0, event.GetEpoch(), macKey, event)
			log = append(log, written{offset, event})
			return offset
		}
		epochs := []int64{put(fenceOf("first"))}
		numbers := map[int64]int64{}
		counter := int64(0)
		for range rapid.IntRange(0, 25).Draw(t, "events") {
			epoch := epochs[len(epochs)-1]
			if rapid.IntRange(0, 4).Draw(t, "zombie") == 0 {
				epoch = rapid.SampledFrom(epochs).Draw(t, "epoch")
			}
			id := rapid.SampledFrom(ids).Draw(t, "job")
			counter++
			token := &jobv1.Token{Shard: 0, Epoch: epoch, Counter: rapid.Int64Range(1, counter).Draw(t, "counter")}
			var event *logv1.JobEvent
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 0:
				epochs = append(epochs, put(fenceOf("next")))
				continue
			case 1:
				event = settledOf(id, jobv1.Outcome_OUTCOME_SUCCEEDED)
			case 2:
				event = failedOf(id, int32(counter), token.Counter, time.Unix(1e9, 0))
				event.GetAttempt().Token = token
			default:
				if rapid.Bool().Draw(t, "another handover") || numbers[epoch] == 0 {
					numbers[epoch]++
				}
				h := &logv1.Handover{Number: numbers[epoch], Quarantine: durationpb.New(time.Duration(counter) * time.Second)}
				for range rapid.IntRange(0, 2).Draw(t, "leases") {
					h.Leases = append(h.Leases, &logv1.HeldLease{
						JobId: envelope.JobID(rapid.SampledFrom(ids).Draw(t, "lease")).String(), Token: token, WorkerId: "w", Source: "crm",
					})
				}
				event = &logv1.JobEvent{Event: &logv1.JobEvent_Handover{Handover: h}}
			}
			event.Epoch = epoch
			put(event)
			if rapid.IntRange(0, 5).Draw(t, "twice") == 0 { // a produce of unknown fate
				put(proto.Clone(event).(*logv1.JobEvent))
			}
		}
		first := log[0].offset
		committed := log[rapid.IntRange(0, len(log)-1).Draw(t, "committed")].offset
		fence := put(fenceOf("reader"))

		s := &owned{byJob: map[core.JobID][]int64{}, history: map[core.JobID]core.Past{}, epoch: fence, events: events{next: committed}}
		if forged, err := s.fold(w.t.Context(), w.client, macKey, topics.Outcomes(), first, committed, 0, fence); err != nil || forged != 0 {
			t.Fatal(forged, err)
		}
		settled, attempts, reported := map[core.JobID]bool{}, map[core.JobID]int32{}, map[core.JobID]core.Token{}
		var epoch, number int64
		var left []*logv1.Handover
		governs := int64(-1)
		for _, x := range log {
			if x.event.GetFence() != nil {
				governs = x.offset
				continue
			}
			stands := x.event.GetEpoch() >= governs
			if e := x.event.GetSettled(); e != nil && stands {
				settled[idOf(t, e.GetJobId())] = true
			}
			if e := x.event.GetAttempt(); e != nil && x.offset >= committed {
				id := idOf(t, e.GetJobId())
				attempts[id] = max(attempts[id], e.GetAttempt().GetNumber())
				if got := (core.Token{Epoch: e.GetToken().GetEpoch(), Counter: e.GetToken().GetCounter()}); reported[id].Before(got) {
					reported[id] = got
				}
			}
			if h := x.event.GetHandover(); h != nil && stands && x.offset >= committed {
				if e := x.event.GetEpoch(); e > epoch || e == epoch && h.GetNumber() > number || left == nil {
					epoch, number, left = e, h.GetNumber(), nil
				}
				if x.event.GetEpoch() == epoch && h.GetNumber() == number {
					left = append(left, h)
				}
			}
		}
		recent := map[core.JobID]bool{}
		for _, o := range s.recent {
			recent[o.id] = true
		}
		for _, id := range ids {
			if recent[id] != settled[id] || s.history[id].Attempts != attempts[id] || s.history[id].Reported != reported[id] {
				t.Fatalf("%x: settled %v, want %v; past %+v, want %d attempts up to %v", id, recent[id], settled[id], s.history[id], attempts[id], reported[id])
			}
		}
		want := map[core.JobID]core.Token{}
		longest := time.Duration(0)
		if left == nil { // whatever the commit says
			longest = Quarantine
		}
		for _, h := range left {
			longest = max(longest, h.GetQuarantine().AsDuration())
			for _, lease := range h.GetLeases() {
				id, token := idOf(t, lease.GetJobId()), core.Token{Epoch: lease.GetToken().GetEpoch(), Counter: lease.GetToken().GetCounter()}
				if !settled[id] && reported[id].Before(token) {
					want[id] = token
				}
			}
		}
		for p := range s.priorities {
			s.priorities[p] = &Window{owned: s}
		}
		taken := time.Now()
		s.inherit(true, topics.Prefix, taken)
		got := map[core.JobID]core.Token{}
		for _, h := range s.inherited {
			got[h.JobID] = h.Token
		}
		if len(got) != len(want) {
			t.Fatalf("inherited %v, want %v", got, want)
		}
		for id, token := range want {
			if got[id] != token {
				t.Fatalf("inherited %v, want %v", got, want)
			}
		}
		if q := s.quarantine.Sub(taken); q != longest {
			t.Fatalf("quarantine %v, want %v", q, longest)
		}
	})
}

func idOf(t *rapid.T, text string) core.JobID {
	id, err := envelope.ParseJobID(text)
	if err != nil {
		t.Fatal(err)
	}
	return core.JobID(id)
}

package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/offsets"
	"github.com/spillway/spillway/pkg/worker"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
	"github.com/spillway/spillway/services/enqueue"
)

// unreadable is a record that nobody can act on.
type unreadable struct {
	name    string
	value   []byte
	headers []kafka.Header
	reason  string // part of it
	id      string // of the job that has an outcome, because that much can be read
}

// unreadables are records of all kinds that no scheduler of this release can act on.
func (w *world) unreadables(source string, shard int) []unreadable {
	v := func(version string) kafka.Header {
		return kafka.Header{Key: envelope.HeaderVersion, Value: []byte(version)}
	}
	n := byte(0)
	job := func(change func(*jobv1.Job)) ([]byte, string) {
		n++
		j := &jobv1.Job{Id: envelope.NewJobID(time.Now(), shard, [8]byte{9, n}).String(), AcceptedAt: timestamppb.Now(),
			Spec: &jobv1.JobSpec{Source: source, Type: "tag", Priority: jobv1.Priority_PRIORITY_DEFAULT}}
		change(j)
		value, err := proto.Marshal(j)
		if err != nil {
			w.t.Fatal(err)
		}
		return value, j.GetId()
	}
	whole, _ := job(func(*jobv1.Job) {})
	priority, hasPriority := job(func(j *jobv1.Job) { j.Spec.Priority = 77 })
	cause, hasCause := job(func(*jobv1.Job) {})
	transit, hasTransit := job(func(*jobv1.Job) {})
	negative, hasNegative := job(func(*jobv1.Job) {})
	stranger, hasStranger := job(func(j *jobv1.Job) { j.Spec.Source = "nobody-" + source })
	huge, hasHuge := job(func(j *jobv1.Job) { j.Spec.Payload = make([]byte, kafka.MaxRecordBytes-4096) })
	anonymous, _ := job(func(j *jobv1.Job) { j.Id = "" })
	rng := rand.New(rand.NewPCG(uint64(shard), 5))
	noise := make([]byte, kafka.MaxRecordBytes-64-len(envelope.HeaderVersion)-1)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	unknownCause := envelope.EncodeTransit(&logv1.Transit{Cause: 99})
	return []unreadable{
		{"version 2", whole, []kafka.Header{v("2")}, "version", ""},
		{"no version", whole, nil, "version", ""},
		{"empty version", whole, []kafka.Header{v("")}, "version", ""},
		{"later version last", whole, []kafka.Header{v("1"), v("2")}, "version", ""},
		{"garbage", []byte("\xff\x00 no job at all"), []kafka.Header{v("1")}, "malformed", ""},
		{"empty", []byte{}, []kafka.Header{v("1")}, "malformed", ""},
		{"nothing", nil, []kafka.Header{v("1")}, "malformed", ""},
		{"as much garbage as the topic takes", noise, []kafka.Header{v("1")}, "malformed", ""},
		{"no id", anonymous, []kafka.Header{v("1")}, "malformed", ""},
		{"unknown priority", priority, []kafka.Header{v("1")}, "priority 77", hasPriority},
		{"unknown cause", cause, []kafka.Header{v("1"), unknownCause}, "cause 99", hasCause},
		{"broken transit", transit, []kafka.Header{v("1"), {Key: envelope.HeaderTransit, Value: []byte("\xff")}}, "malformed", hasTransit},
		{"negative attempts", negative, []kafka.Header{v("1"), envelope.EncodeTransit(&logv1.Transit{Attempts: -1})}, "malformed", hasNegative},
		{"nobody's source", stranger, []kafka.Header{v("1")}, "not registered", hasStranger},
		{"no room to be moved", huge, []kafka.Header{v("1")}, "no room", hasHuge},
	}
}

// TestEveryUnreadableRecordIsParked: whatever somebody writes into a priority topic, a lane that is taken, one that is free or the common lane, it is
// among the dead letters with the place where it was and the reason, byte for byte as far as it fits, and what is behind it runs (H15, I13).
func TestEveryUnreadableRecordIsParked(t *testing.T) {
	for _, place := range []string{"priority topic", "taken lane", "free lane", "common lane"} {
		t.Run(place, func(t *testing.T) {
			bubble(t, func(t *testing.T, w *world) {
				const shard = 1
				source := w.inShard(shard, 1)[0]
				w.enqueue(0)
				w.scheduler(0)
				ran := &tally{}
				w.worker(8, ran.handler(0))
				c := w.caller()
				defer c.Close()
				topic, partition, name := topics.Jobs("default"), shard, "jobs.default"
				switch place {
				case "taken lane":
					w.hold(source)
					time.Sleep(500 * time.Millisecond)
					w.send(c, source, 1)
					w.until("it has a lane", 5*time.Second, func() bool { return len(w.lanesOf(source)) == 1 })
					topic, partition = topics.Spill(), w.lanesOf(source)[0]
				case "free lane":
					topic, partition = topics.Spill(), shard+2*shards
				case "common lane":
					topic, partition = topics.Spill(), shard
				}
				name = strings.TrimPrefix(topic, topics.Prefix)
				bad := w.unreadables(source, shard)
				at := map[string]unreadable{}
				var ids []string
				for _, b := range bad {
					at[fmt.Sprintf("%s/%d/%d", name, partition, w.append(topic, partition, b.value, b.headers...))] = b
					if topic == topics.Spill() {
						ids = append(ids, w.strayOf(partition, source))
					}
				}
				if topic == topics.Spill() && place == "taken lane" {
					w.resume(source)
				}
				ids = append(ids, w.send(c, source, 10)...)
				w.drained(time.Minute, ran, ids...)
				w.until("all is parked", time.Minute, func() bool { return len(w.dead()) >= len(bad) })
				for _, letter := range w.dead() {
					from, _ := envelope.Get(letter.Headers, envelope.HeaderParkedFrom)
					why, _ := envelope.Get(letter.Headers, envelope.HeaderParked)
					cut, isCut := envelope.Get(letter.Headers, envelope.HeaderParkedCut)
					b, has := at[string(from)]
					delete(at, string(from))
					switch {
					case !has:
						t.Errorf("a dead letter from %q, or a second one", from)
					case !strings.Contains(string(why), b.reason):
						t.Errorf("%s: parked because of %q", b.name, why)
					case isCut && (!strings.HasPrefix(string(cut), fmt.Sprintf("value %d,", len(b.value))) || !bytes.HasPrefix(b.value, letter.Value) || len(letter.Value) < 1<<20):
						t.Errorf("%s: %d of %d bytes are left, and %q", b.name, len(letter.Value), len(b.value), cut)
					case !isCut && !bytes.Equal(letter.Value, b.value):
						t.Errorf("%s: the value changed", b.name)
					case len(letter.Headers) < 2+len(b.headers):
						t.Errorf("%s: has the headers %v", b.name, letter.Headers)
					}
				}
				for from, b := range at {
					t.Errorf("%s (%s) was not parked", b.name, from)
				}
				settled, _ := w.events()
				for _, b := range bad {
					switch {
					case b.id == "":
					case !one(settled[b.id]) || settled[b.id][0].GetOutcome() != jobv1.Outcome_OUTCOME_DEAD || !strings.Contains(settled[b.id][0].GetReason(), b.reason):
						t.Errorf("%s: its job has the outcomes %v", b.name, settled[b.id])
					}
				}
				w.until("all is committed", time.Minute, func() bool {
					return w.committed(topic, partition).Offset == w.ends(topic, partition).Next
				})
			})
		})
	}
}

// strayOf writes a job of a source into a lane and returns its id.
func (w *world) strayOf(partition int, source string) string {
	w.t.Helper()
	w.strays++
	shard := envelope.Shard(source, shards)
	id := envelope.NewJobID(time.Now(), shard, [8]byte{7, byte(w.strays)}).String()
	value, err := proto.Marshal(&jobv1.Job{Id: id, AcceptedAt: timestamppb.Now(), Spec: &jobv1.JobSpec{Source: source, Type: "tag", Priority: jobv1.Priority_PRIORITY_DEFAULT}})
	if err != nil {
		w.t.Fatal(err)
	}
	w.append(topics.Spill(), partition, value, envelope.VersionHeader())
	return id
}

// TestLargestJobInItsLargestEnvelope: the largest payload with every field at its bound goes through a lane, a retry, a move of a running job and the
// dead letters: its value never changes, what travels beside it stays small, and the error text is cut (H24, I3).
func TestLargestJobInItsLargestEnvelope(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := nameIn(0, strings.Repeat("s", 62))
		w.register(source, attempts(3))
		w.enqueue(0, func(c *enqueue.Config) { c.Payload = 900 << 10 })
		w.scheduler(0)
		text := strings.Repeat("x", 128)
		job := client.Job{
			Source: source, Type: "tag", Tenant: text, Key: text, ContentType: text, Payload: bytes.Repeat([]byte("0123456789abcdef"), 900<<10/16),
			RunTimeout: time.Hour, MaxAttempts: 3, ExpiresIn: 90 * 24 * time.Hour, Labels: map[string]string{},
		}
		for i := range 8 {
			job.Labels[strings.Repeat("l", 63)+fmt.Sprint(i)] = text
		}
		ran := &tally{}
		w.worker(4, func(ctx context.Context, got *worker.Job) error {
			if n := ran.add(got.ID); n == 2 {
				<-time.After(40 * time.Second) // its home is moved meanwhile
			}
			if !bytes.Equal(got.Payload, job.Payload) {
				t.Error("another payload arrived")
			}
			return errors.New(strings.Repeat("it never works ", 1<<20/15))
		})
		c := w.caller()
		defer c.Close()
		var ids []string
		for _, held := range []bool{false, true} { // one by the priority topic, one by a lane
			if held {
				w.hold(source)
				time.Sleep(500 * time.Millisecond)
				job.Key = text[1:]
			}
			r, err := c.Enqueue(w.ctx, job)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, r.JobID)
		}
		time.Sleep(time.Second)
		w.resume(source)
		l := w.drained(3*time.Minute, ran, ids...)
		for _, id := range ids {
			if ran.of(id) != 3 || l.settled[id][0].GetOutcome() != jobv1.Outcome_OUTCOME_DEAD || len(l.settled[id][0].GetReason()) > 2<<10 {
				t.Errorf("%s ran %d times: %v because of %d bytes", id, ran.of(id), l.settled[id][0].GetOutcome(), len(l.settled[id][0].GetReason()))
			}
		}
		values := map[string][]byte{}
		see := func(hop string, m kafka.Message, most int) {
			fields, err := envelope.Scan(m.Value)
			if err != nil {
				t.Fatal(hop, err)
			}
			id := fields.ID.String()
			if first, has := values[id]; has && !bytes.Equal(first, m.Value) {
				t.Errorf("%s: the value of %s changed", hop, id)
			}
			values[id] = m.Value
			if beside := m.Size() - len(m.Value) - len(m.Key); beside > most {
				t.Errorf("%s: %d bytes travel beside the value, want at most %d", hop, beside, most)
			}
			if m.Size() > kafka.MaxRecordBytes-100<<10 {
				t.Errorf("%s: a record of %d bytes, of the %d that fit", hop, m.Size(), kafka.MaxRecordBytes)
			}
		}
		for _, m := range w.read(topics.Jobs("default"), 0) {
			see("priority topic", m, 1<<10)
		}
		copies := 0
		for p := range shards * lanes {
			for _, m := range w.read(topics.Spill(), p) {
				see("lane", m, 1<<10) // of the held one, and of the other while it ran
				copies++
			}
		}
		letters := w.dead()
		for _, m := range letters {
			see("dead", m, 4<<10)
		}
		if copies != 2 || len(letters) != 2 || len(values) != 2 {
			t.Errorf("%d copies in lanes, %d dead letters, of %d jobs", copies, len(letters), len(values))
		}
		for p := range shards {
			for _, m := range w.read(topics.Outcomes(), p) {
				if m.Size() > 8<<10 {
					t.Errorf("an event of %d bytes", m.Size())
				}
			}
		}
	})
}

// TestMixedSizesDoNotStarve: small jobs among the largest, in all partitions of a priority topic at once, keep coming: a batch that is larger than its
// fetch limit holds up nobody but its own partition (H38).
func TestMixedSizesDoNotStarve(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		var big, small []string
		for shard := range shards {
			names := w.inShard(shard, 2)
			big, small = append(big, names[0]), append(small, names[1])
		}
		w.enqueue(0, func(c *enqueue.Config) { c.Payload, c.Inflight = 900<<10, 256<<20 })
		w.scheduler(0)
		ran := &tally{}
		w.worker(64, ran.handler(5*time.Millisecond))
		c := w.caller()
		defer c.Close()
		huge := strings.Repeat("0123456789abcdef", 900<<10/16)
		stop := w.traffic(c, 20*time.Millisecond, small...)
		var ids []string
		for range 6 {
			for _, source := range big {
				ids = append(ids, w.send(c, source, 3, payload(huge))...)
				ids = append(ids, w.send(c, source, 20, payload(huge[:200<<10]))...)
			}
		}
		time.Sleep(2 * time.Second)
		list := stop()
		w.drained(time.Minute, ran, append(ids, idsOf(list)...)...)
		worst := time.Duration(0)
		for _, a := range list {
			worst = max(worst, ran.waited(a.id))
		}
		if len(list) < 100 || worst > time.Second {
			t.Errorf("of %d small jobs one waited %v", len(list), worst)
		}
	})
}

// TestCommitOverflowMovesTheOldest: every second job of thousands hangs, so that the commit of their partition has no room for all that is done. The
// oldest are moved while they run, and a scheduler that takes over after a kill runs nothing again that was done (H3).
func TestCommitOverflowMovesTheOldest(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		const n = 3600
		source := w.inShard(2, 1, func(s *automationv1.Source) { s.Quota = &automationv1.Quota{Concurrency: proto.Int32(10_000)} })[0]
		w.enqueue(0)
		former := w.scheduler(0)
		ran, hang := &tally{}, make(chan struct{})
		w.worker(4096, func(ctx context.Context, job *worker.Job) error {
			ran.add(job.ID)
			if string(job.Payload) == "hang" {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-hang:
				}
			}
			return nil
		})
		c := w.caller()
		defer c.Close()
		var quick, slow []string
		jobs := make([]client.Job, 0, n)
		for i := range n {
			job := client.Job{Source: source, Type: "tag"}
			if i%2 == 0 {
				job.Payload = []byte("hang")
			}
			jobs = append(jobs, job)
		}
		for i, item := range c.EnqueueBatch(w.ctx, jobs) {
			if item.Err != nil {
				t.Fatal(item.Err)
			}
			if i%2 == 0 {
				slow = append(slow, item.Result.JobID)
			} else {
				quick = append(quick, item.Result.JobID)
			}
		}
		w.until("all run", 20*time.Second, func() bool { return ran.total() >= n })
		w.drained(5*time.Second, ran, quick...)
		topic := topics.Jobs("default")
		w.until("the commit says all that is done", 3*time.Second, func() bool {
			at := w.committed(topic, 2)
			return at.Offset/2+at.Meta.Done.Len() >= int64(len(quick))
		})
		at := w.committed(topic, 2)
		if text, err := at.Meta.Encode(); err != nil || len(text) > offsets.MaxMetadata {
			t.Errorf("the commit has %d characters, %v", len(text), err)
		}
		if moved := w.spilled(); moved == 0 {
			t.Error("nothing was moved: the test shows nothing")
		}
		before := ran.total()
		former.kill()
		w.scheduler(1)
		time.Sleep(5 * time.Second)
		close(hang)
		w.drained(2*time.Minute, ran, slow...)
		for _, id := range quick {
			if ran.of(id) != 1 {
				t.Fatalf("%s was done, and ran %d times", id, ran.of(id))
			}
		}
		t.Logf("%d runs before the kill, %d in all; %d jobs moved", before, ran.total(), w.spilled())
	})
}

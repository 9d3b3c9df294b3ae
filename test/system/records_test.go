package system

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/worker"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	"github.com/spillway/spillway/services/enqueue"
)

// dead returns all dead letters.
func (w *world) dead() (all []kafka.Message) {
	w.t.Helper()
	for p := range shards {
		all = append(all, w.read(topics.Dead(), p)...)
	}
	return all
}

// record is a job as enqueue would write it.
func (w *world) record(source string, shard int) []byte {
	w.t.Helper()
	value, err := proto.Marshal(&jobv1.Job{
		Id: envelope.NewJobID(time.Now(), shard, [8]byte{1, 2, 3}).String(), AcceptedAt: timestamppb.Now(), AcceptedBy: "test",
		Spec: &jobv1.JobSpec{Source: source, Type: "tag", Priority: jobv1.Priority_PRIORITY_DEFAULT},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return value
}

// TestExpiryEndsWaiting: jobs that nobody starts in time are settled as expired, in the queue and in a lane, and do not run (I1, I12).
func TestExpiryEndsWaiting(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		names := w.inShard(1, 2)
		w.enqueue(0)
		w.scheduler(0)
		c := w.caller()
		defer c.Close()
		short := func(j *client.Job) { j.ExpiresIn = 10 * time.Second }
		w.hold(names[1])
		time.Sleep(500 * time.Millisecond)
		queued := w.send(c, names[0], 10, short) // there is no worker
		held := w.send(c, names[1], 10, short)
		time.Sleep(15 * time.Second)
		settled, _ := w.events()
		for _, id := range queued {
			if len(settled[id]) != 1 || settled[id][0].GetOutcome() != jobv1.Outcome_OUTCOME_EXPIRED {
				t.Fatalf("%s has outcomes %v", id, settled[id])
			}
		}
		ran := &tally{}
		w.worker(8, ran.handler(0))
		w.resume(names[1])
		w.until("those in the lane expire", 10*time.Second, func() bool {
			settled, _ := w.events()
			for _, id := range held {
				if len(settled[id]) != 1 || settled[id][0].GetOutcome() != jobv1.Outcome_OUTCOME_EXPIRED {
					return false
				}
			}
			return true
		})
		if ran.total() != 0 {
			t.Errorf("%d expired jobs ran", ran.total())
		}
	})
}

// TestOneKeyOneRun: two calls with the same key make one job, now and after a takeover; another payload under it is refused (I6, H19).
func TestOneKeyOneRun(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := w.inShard(2, 1)[0]
		w.enqueue(0)
		replica := w.scheduler(0)
		ran := &tally{}
		w.worker(8, ran.handler(0))
		c := w.caller()
		defer c.Close()
		enqueue := func(text string) (string, error) {
			r, err := c.Enqueue(w.ctx, client.Job{Source: source, Type: "tag", Key: "invoice-1", Payload: []byte(text)})
			return r.JobID, err
		}
		first, err := enqueue("a")
		if err != nil {
			t.Fatal(err)
		}
		w.drained(5*time.Second, ran, first)
		for range 3 {
			if again, err := enqueue("a"); err != nil || again != first {
				t.Fatalf("got %s, %v", again, err)
			}
		}
		if _, err := enqueue("b"); client.Reason(err) != rpc.ReasonIdempotencyConflict {
			t.Errorf("another payload: %v", err)
		}
		time.Sleep(time.Second)
		replica.kill()
		w.scheduler(1)
		if again, err := enqueue("a"); err != nil || again != first {
			t.Fatalf("got %s, %v", again, err)
		}
		time.Sleep(40 * time.Second)
		l := w.outcomes()
		if ran.of(first) != 1 || len(l.settled[first]) != 1 {
			t.Errorf("ran %d times, %d outcomes", ran.of(first), len(l.settled[first]))
		}
	})
}

// TestUnknownFateRunsOnce: the broker writes and does not confirm, for longer than a call of enqueue lasts. The SDK tries again with the key that it
// made, and what is in the log a dozen times runs once (H20, I6).
func TestUnknownFateRunsOnce(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := w.inShard(3, 1)[0]
		w.enqueue(0)
		w.scheduler(0)
		ran := &tally{}
		w.worker(8, ran.handler(0))
		c := w.caller()
		defer c.Close()
		heal := w.broker.Fault(kafkatest.Produce, topics.Jobs("default"), 7, -1)
		time.AfterFunc(22*time.Second, heal)
		ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
		defer cancel()
		began := time.Now()
		r, err := c.Enqueue(ctx, client.Job{Source: source, Type: "tag"})
		if err != nil || time.Since(began) < 20*time.Second {
			t.Fatalf("%v after %v", err, time.Since(began))
		}
		w.drained(10*time.Second, ran, r.JobID)
		time.Sleep(5 * time.Second)
		records := len(w.read(topics.Jobs("default"), 3))
		if records < 3 || ran.total() != 1 {
			t.Errorf("%d records, %d runs", records, ran.total())
		}
		if at := w.committed(topics.Jobs("default"), 3); at.Offset != int64(records) {
			t.Errorf("committed %d of %d", at.Offset, records)
		}
	})
}

// TestUnreadableRecordsAreParked: what cannot be decoded, and what names a source that nobody registered, goes to the dead letters as it is, and
// what is behind it goes on (H15, I13, F30).
func TestUnreadableRecordsAreParked(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := w.inShard(1, 1)[0]
		w.enqueue(0)
		w.scheduler(0)
		ran := &tally{}
		w.worker(8, ran.handler(0))
		c := w.caller()
		defer c.Close()
		version := envelope.VersionHeader()
		bad := [][]byte{[]byte("no job at all"), w.record("nobody", 1), w.record(source, 1)}
		w.append(topics.Jobs("default"), 1, bad[0], version)
		w.append(topics.Jobs("default"), 1, bad[1], version)
		w.append(topics.Jobs("default"), 1, bad[2], kafka.Header{Key: envelope.HeaderVersion, Value: []byte("99")})
		ids := w.send(c, source, 10)
		w.drained(2*time.Second, ran, ids...)
		letters := w.dead()
		if len(letters) != len(bad) {
			t.Fatalf("%d dead letters, want %d", len(letters), len(bad))
		}
		for i, reason := range []string{"", "not registered", "version"} {
			if why, _ := envelope.Get(letters[i].Headers, envelope.HeaderParked); !bytes.Equal(letters[i].Value, bad[i]) || len(why) == 0 || !strings.Contains(string(why), reason) {
				t.Errorf("dead letter %d is %q because of %q", i, letters[i].Value, why)
			}
			if from, _ := envelope.Get(letters[i].Headers, envelope.HeaderParkedFrom); string(from) != fmt.Sprintf("jobs.default/1/%d", i) {
				t.Errorf("dead letter %d comes from %q", i, from)
			}
		}
		w.until("all is committed", 2*time.Second, func() bool { return w.committed(topics.Jobs("default"), 1).Offset == 13 })
	})
}

// TestSourceOfAMomentAgo: a job of a source that its scheduler has not heard of yet waits for the control log, and runs (architecture §6.2).
func TestSourceOfAMomentAgo(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		w.enqueue(0)
		w.scheduler(0)
		ran := &tally{}
		w.worker(8, ran.handler(0))
		source := nameIn(2, "new")
		release := w.broker.Hold(kafkatest.Fetch) // of everybody: the job is in the log before anybody reads on
		w.append(topics.Jobs("default"), 2, w.record(source, 2), envelope.VersionHeader())
		time.AfterFunc(100*time.Millisecond, release)
		w.register(source)
		w.until("it runs", 5*time.Second, func() bool { return ran.total() == 1 })
		if letters := w.dead(); len(letters) != 0 {
			t.Errorf("%d dead letters", len(letters))
		}
	})
}

// TestLargestPayload: the largest job goes through a lane, a retry and the dead letters, byte for byte (H24, I3).
func TestLargestPayload(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		names := w.inShard(0, 1, attempts(2))
		w.enqueue(0, func(c *enqueue.Config) { c.Payload = 900 << 10 })
		w.scheduler(0)
		big := bytes.Repeat([]byte("0123456789abcdef"), 900<<10/16)
		ran := &tally{}
		w.worker(4, func(_ context.Context, job *worker.Job) error {
			ran.run(job)
			if !bytes.Equal(job.Payload, big) {
				t.Error("another payload arrived")
			}
			return errors.New("it never works")
		})
		c := w.caller()
		defer c.Close()
		w.hold(names[0])
		time.Sleep(500 * time.Millisecond)
		var ids []string
		for range 3 {
			r, err := c.Enqueue(w.ctx, client.Job{Source: names[0], Type: "tag", Payload: big, Labels: map[string]string{"k": "v"}})
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, r.JobID)
		}
		time.Sleep(time.Second)
		w.resume(names[0])
		l := w.drained(30*time.Second, ran, ids...)
		for _, id := range ids {
			if ran.of(id) != 2 || l.settled[id][0].GetOutcome() != jobv1.Outcome_OUTCOME_DEAD {
				t.Errorf("%s ran %d times: %v", id, ran.of(id), l.settled[id][0].GetOutcome())
			}
		}
		for _, letter := range w.dead() {
			job := &jobv1.Job{}
			if err := proto.Unmarshal(letter.Value, job); err != nil || !bytes.Equal(job.GetSpec().GetPayload(), big) {
				t.Errorf("a dead letter with another payload: %v", err)
			}
		}
		if n := len(w.dead()); n != len(ids) {
			t.Errorf("%d dead letters", n)
		}
		var values [][]byte
		for p := range shards * lanes {
			for _, m := range w.read(topics.Spill(), p) {
				values = append(values, m.Value)
			}
		}
		if len(values) != len(ids) {
			t.Errorf("%d records in lanes", len(values))
		}
	})
}

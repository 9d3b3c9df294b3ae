package system

import (
	"context"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/client"
	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/rpc"
	"github.com/spillway/spillway/pkg/worker"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	"github.com/spillway/spillway/services/scheduler"
)

// inShard names n sources of a shard and registers them.
func (w *world) inShard(shard, n int, change ...func(*automationv1.Source)) (sources []string) {
	w.t.Helper()
	for i := range n {
		sources = append(sources, nameIn(shard, string(rune('a'+i))))
		w.register(sources[i], change...)
	}
	return sources
}

// lanesOf are the partitions of spill that the commits give to a source.
func (w *world) lanesOf(source string) (partitions []int) {
	w.t.Helper()
	for p := range shards * lanes {
		if w.committed(topics.Spill(), p).Meta.Source == source {
			partitions = append(partitions, p)
		}
	}
	return partitions
}

// small is the least memory that a scheduler takes, so that little work is a flood.
func small(c *scheduler.Config) { c.Memory = 4 << 20 }

// TestMorePairsThanLanes: three held sources have all lanes of a shard. What a fourth spills goes through the common lane and runs, its new work
// is refused meanwhile and accepted afterwards, and a fifth does not notice (H12).
func TestMorePairsThanLanes(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		names := w.inShard(0, 5)
		held, flood, victim := names[:3], names[3], names[4]
		w.enqueue(0)
		w.scheduler(0, small)
		ran := &tally{}
		w.worker(8, ran.handler(5*time.Millisecond))
		c := w.caller()
		defer c.Close()
		for _, source := range held {
			w.hold(source)
		}
		time.Sleep(500 * time.Millisecond)
		for _, source := range held {
			w.send(c, source, 5)
		}
		w.until("the lanes are taken", 5*time.Second, func() bool {
			n := 0
			for _, source := range held {
				n += len(w.lanesOf(source))
			}
			return n == lanes-1
		})
		ids := w.send(c, flood, 800) // several times its share of memory
		time.Sleep(500 * time.Millisecond)
		if n := w.ends(topics.Spill(), 0).Next; n == 0 {
			t.Fatal("nothing went to the common lane")
		}
		_, err := c.Enqueue(w.ctx, client.Job{Source: flood, Type: "tag"})
		if client.Reason(err) != rpc.ReasonLanesExhausted {
			t.Errorf("new work of a source in the common lane: %v", err)
		}
		victims := w.send(c, victim, 20)
		w.drained(2*time.Second, ran, victims...)
		w.drained(60*time.Second, ran, ids...)
		if n := ran.again(); n != 0 {
			t.Errorf("%d jobs ran again", n)
		}
		copies := w.ends(topics.Spill(), 0).Next
		w.until("new work is accepted", 5*time.Second, func() bool {
			r, err := c.Enqueue(w.ctx, client.Job{Source: flood, Type: "tag"})
			return err == nil && r.Verdict == client.Accepted
		})
		t.Logf("%d copies in the common lane for %d jobs", copies, len(ids))
	})
}

// TestHeldInTheCommonLane: held jobs that found no lane go round in the common lane, at a bounded rate, others come past them, and they run after
// the resume (H12, I10, I11).
func TestHeldInTheCommonLane(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		names := w.inShard(0, 5)
		w.enqueue(0)
		w.scheduler(0, small)
		ran := &tally{}
		w.worker(8, ran.handler(5*time.Millisecond))
		c := w.caller()
		defer c.Close()
		for _, source := range names[:4] {
			w.hold(source)
		}
		time.Sleep(500 * time.Millisecond)
		var ids []string
		for _, source := range names[:4] {
			ids = append(ids, w.send(c, source, 50)...)
			time.Sleep(100 * time.Millisecond)
		}
		w.until("they are in the common lane", time.Second, func() bool { return w.ends(topics.Spill(), 0).Next >= 50 })
		before := w.ends(topics.Spill(), 0).Next
		time.Sleep(20 * time.Second)
		if n := w.ends(topics.Spill(), 0).Next - before; n > 4*50+50 {
			t.Errorf("%d copies of 50 held jobs in 20 s", n)
		}
		other := w.send(c, names[4], 300)
		w.drained(30*time.Second, ran, other...)
		if n := ran.total(); n != len(other) {
			t.Fatalf("%d jobs ran, %d may", n, len(other))
		}
		for _, source := range names[:4] {
			w.resume(source)
		}
		w.drained(30*time.Second, ran, ids...)
		w.drained(time.Second, ran, other...)
	})
}

// TestHeldBacklogIsNobodysBurden: 10,000 jobs of a held source wait in their lane; another source runs as if they were not there (H22, promise 4).
func TestHeldBacklogIsNobodysBurden(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		names := w.inShard(2, 2)
		held, other := names[0], names[1]
		w.enqueue(0)
		w.scheduler(0)
		ran := &tally{}
		w.worker(8, ran.handler(10*time.Millisecond))
		c := w.caller()
		defer c.Close()
		w.hold(held)
		time.Sleep(500 * time.Millisecond)
		ids := w.send(c, held, 10_000)
		time.Sleep(time.Second)
		stop := w.traffic(c, 20*time.Millisecond, other)
		time.Sleep(5 * time.Second)
		list := stop()
		w.drained(time.Second, ran, idsOf(list)...)
		for _, job := range list {
			if wait := ran.waited(job.id); wait > 20*time.Millisecond {
				t.Fatalf("a job of another source waited %v", wait)
			}
		}
		if ran.total() != len(list) {
			t.Errorf("%d runs of %d jobs that may", ran.total(), len(list))
		}
		w.resume(held)
		w.until("they run", 5*time.Second, func() bool { return ran.total() >= len(list)+500 })
		settled := w.outcomes().settled
		for _, id := range ids[:200] { // in their order
			if len(settled[id]) != 1 {
				t.Errorf("%s has outcomes %v", id, settled[id])
			}
		}
	})
}

// TestLaneIsFreedAndWatched: a drained lane is given back after a minute. A record that an enqueue replica with an old mark writes there later is
// found and runs, though the lane is nobody's (H36).
func TestLaneIsFreedAndWatched(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := w.inShard(1, 1)[0]
		w.enqueue(0)
		w.scheduler(0)
		ran := &tally{}
		w.worker(8, ran.handler(0))
		c := w.caller()
		defer c.Close()
		w.hold(source)
		time.Sleep(500 * time.Millisecond)
		ids := w.send(c, source, 20)
		time.Sleep(time.Second)
		w.resume(source)
		w.drained(10*time.Second, ran, ids...)
		freed := time.Now()
		was := w.lanesOf(source)
		if len(was) != 1 {
			t.Fatalf("the source has the lanes %v", was)
		}
		time.Sleep(55 * time.Second)
		w.until("it is freed", 10*time.Second, func() bool { return len(w.lanesOf(source)) == 0 })
		if after := time.Since(freed); after < 59*time.Second {
			t.Errorf("freed after %v", after)
		}
		stray := w.stray(was[0], source)
		w.until("the stray record runs", 5*time.Second, func() bool { return ran.of(stray) == 1 })
		w.drained(5*time.Second, ran, stray)
	})
}

// TestStrayInAnothersLaneRuns: a record with an old mark in a lane that has another owner by now is judged by its own source (H36).
func TestStrayInAnothersLaneRuns(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		names := w.inShard(1, 2)
		w.enqueue(0)
		w.scheduler(0)
		ran := &tally{}
		w.worker(8, ran.handler(0))
		c := w.caller()
		defer c.Close()
		w.hold(names[0])
		time.Sleep(500 * time.Millisecond)
		ids := w.send(c, names[0], 20)
		w.until("it has a lane", time.Second, func() bool { return len(w.lanesOf(names[0])) == 1 })
		stray := w.stray(w.lanesOf(names[0])[0], names[1])
		w.resume(names[0])
		w.drained(10*time.Second, ran, append(ids, stray)...)
		if n := ran.again(); n != 0 {
			t.Errorf("%d jobs ran again", n)
		}
	})
}

// TestLongRunsLeaveTheirWindow: a job that runs for long is moved to a lane so that it holds no window up, and does not run again when its lane is
// read long after it has ended, or by the next owner (architecture §6.6, H3).
func TestLongRunsLeaveTheirWindow(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		source := w.inShard(3, 1)[0]
		w.enqueue(0)
		replica := w.scheduler(0)
		ran := &tally{}
		w.worker(8, func(ctx context.Context, job *worker.Job) error {
			d := time.Duration(0)
			if string(job.Payload) == "long" {
				d = 36 * time.Second
			}
			return ran.handler(d)(ctx, job)
		})
		c := w.caller()
		defer c.Close()
		ids := w.send(c, source, 2, payload("long"))
		w.until("it runs", time.Second, func() bool { return ran.total() == 2 })
		w.hold(source) // its lane is not read from now on
		time.Sleep(34 * time.Second)
		if at := w.committed(topics.Jobs("default"), 3); at.Offset != 2 {
			t.Errorf("committed %d: the long jobs hold the window up", at.Offset)
		}
		w.drained(20*time.Second, ran, ids...)
		more := w.send(c, source, 10)
		time.Sleep(155 * time.Second) // longer than its id is remembered
		if err := replica.stop(); err != nil {
			t.Fatal(err)
		}
		w.scheduler(1)
		time.Sleep(2 * time.Second)
		w.resume(source)
		w.drained(time.Minute, ran, append(ids, more...)...)
		if n := ran.again(); n != 0 {
			t.Errorf("%d jobs ran again", n)
		}
	})
}

// stray writes a job of a source where an old mark would have it; it returns its id.
func (w *world) stray(partition int, source string) string {
	w.t.Helper()
	value := w.record(source, envelope.Shard(source, shards))
	w.append(topics.Spill(), partition, value, envelope.VersionHeader())
	fields, err := envelope.Scan(value)
	if err != nil {
		w.t.Fatal(err)
	}
	return fields.ID.String()
}

// append writes a record as somebody who may write to the topic.
func (w *world) append(topic string, partition int, value []byte, headers ...kafka.Header) int64 {
	w.t.Helper()
	offset, err := w.client.Append(w.ctx, topic, partition, []kafka.Record{{Topic: topic, Partition: partition, Value: value, Headers: headers}})
	if err != nil {
		w.t.Fatal(err)
	}
	return offset
}

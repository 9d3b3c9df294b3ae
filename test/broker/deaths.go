package broker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/produce"
)

const (
	// deathRate is what is offered while brokers die, in records a second.
	deathRate = 500
	// deathDeadline is how long a record may be tried: here it is asked what
	// is lost, not how soon brokers are back.
	deathDeadline = 3 * time.Minute
	// deathQuiet is how long it is watched that nobody acknowledges anything
	// while too few brokers live.
	deathQuiet = time.Second
	// deathBack bounds the time from the start of brokers until a record of
	// that time is acknowledged.
	deathBack = 30 * time.Second
)

// casualties are brokers that are killed together.
type casualties struct {
	name    string
	brokers []int
}

// deaths are the facts about brokers that die: each of them alone, so that the
// controller, the coordinator and the leader are among them, whichever that is;
// a majority of three; all.
func (s *suite) deaths() []casualties {
	if s.target.Brokers == 1 {
		return []casualties{{"a broker that is killed loses nothing acknowledged", []int{0}}}
	}
	var list []casualties
	for i := range s.target.Brokers {
		list = append(list, casualties{fmt.Sprintf("nothing acknowledged is lost when broker %d of %d is killed", i, s.target.Brokers), []int{i}})
	}
	return append(list,
		casualties{"nothing is acknowledged by a minority, and nothing is lost when the majority returns", []int{0, 1}},
		casualties{"nothing acknowledged is lost when all brokers are killed", []int{0, 1, 2}},
	)
}

// death kills brokers while records are written and commits made, and starts
// them again: what was acknowledged is there, at the offset that was told, and
// what was on its way arrives without anybody's help.
func (s *suite) death(t *testing.T, number int, victims []int) {
	topic, trimmed := s.layout.Jobs("bulk"), s.layout.Spill()
	base := s.append(t, trimmed, number+1, values(10, 100)...)
	if err := s.client.DeleteRecords(s.context(t), trimmed, map[int]int64{number + 1: base + 9}); err != nil {
		t.Fatal(err)
	}
	a := s.join(t, "a")
	eventually(t, 15*time.Second, "a owns all", func() bool { return a.owns(0, 1, 2, 3) })
	refused := s.commitUntilRefused(t, a, topic, 1)
	first := s.ends(t, topic, 0).Next
	w := s.write(t, topic, 0)
	time.Sleep(time.Second)

	before := w.highest()
	s.target.Kill(t, victims...)
	killed := time.Now()
	lowest := s.watchEnd(t, topic, 0)
	var without time.Duration
	if 2*len(victims) < s.target.Brokers {
		without = eventually(t, deathBack, "the others acknowledge", func() bool { return w.ackedSince(killed) })
	} else {
		time.Sleep(deathQuiet)
		if w.ackedSince(killed) {
			t.Error("a record that was sent after the kill is acknowledged, and there is no majority")
		}
	}
	s.target.Start(t, victims...)
	started := time.Now()
	back := eventually(t, deathBack, "records are acknowledged", func() bool { return w.ackedSince(started) })
	if end := lowest(); end <= before {
		t.Errorf("for a moment the partition ended at %d, and %d was acknowledged before the kill", end, before)
	}
	acked := w.end(t)
	again := s.verify(t, topic, 0, first, acked)

	committed := refused()
	if committed == 0 {
		t.Error("no commit was acknowledged")
	}
	// A coordinator that has just come back may answer with an older commit
	// until it knows again what its replicas hold.
	stale := eventually(t, deathBack, "the last acknowledged commit is there", func() bool {
		got := s.committed(t, topic, 1)
		return got.Offset >= committed && got.Metadata == keptMetadata
	})
	// Deleted records may be back, but the end must not be forgotten.
	r := s.ends(t, trimmed, number+1)
	if r.Next != base+10 || r.First > base+9 {
		t.Errorf("the trimmed partition holds [%d, %d), want the end at %d", r.First, r.Next, base+10)
	}
	owned := eventually(t, 15*time.Second, "a owns all again", func() bool { return a.owns(0, 1, 2, 3) && a.generation().Alive(time.Now()) })
	t.Logf("%d records acknowledged, %d twice in the log; %d of 9 deleted records came back; the commit was there after another %s",
		len(acked), again, base+9-r.First, stale.Round(time.Millisecond))
	t.Logf("acknowledged again %s after the kill by the others, %s after the start; the group came %s later",
		without.Round(time.Millisecond), back.Round(time.Millisecond), owned.Round(time.Millisecond))
}

// watchEnd asks again and again where a partition ends, until the function that
// it returns is called, which tells the lowest answer. Who owns the partition
// asks so before he reads, and takes an end below his commit for a lost log.
func (s *suite) watchEnd(t *testing.T, topic string, partition int) func() int64 {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	client := s.target.client(t, "watcher", topic)
	lowest := make(chan int64, 1)
	go func() {
		least := int64(math.MaxInt64)
		for ctx.Err() == nil {
			call, cancel := context.WithTimeout(ctx, time.Second)
			ends, err := client.Ends(call, topic, []int{partition})
			cancel()
			if err == nil {
				least = min(least, ends[partition].Next)
			}
			time.Sleep(10 * time.Millisecond)
		}
		lowest <- least
	}()
	return func() int64 {
		stop()
		return <-lowest
	}
}

// keptMetadata is some metadata of a commit.
const keptMetadata = "1;d;s/t;-;"

// commitUntilRefused commits 1, 2, 3, … until a commit fails or the function that
// it returns is called, which tells the last one that did not fail.
func (s *suite) commitUntilRefused(t *testing.T, o *owner, topic string, partition int) func() int64 {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	g, start := o.generation(), s.committed(t, topic, partition).Offset+1
	last := make(chan int64, 1)
	go func() {
		for offset := start; ; offset++ {
			c := kafka.Commit{Topic: topic, Partition: partition, Offset: offset, Metadata: keptMetadata}
			if err := g.Commit(ctx, []kafka.Commit{c}); err != nil {
				last <- offset - 1
				return
			}
		}
	}()
	return func() int64 {
		stop()
		return <-last
	}
}

// writing is a producer at work on one partition. Its records are numbered.
type writing struct {
	stop  context.CancelFunc
	ended chan error // of the producer; after it nothing changes any more

	mu     sync.Mutex
	acked  map[int]int64 // offsets by number
	latest time.Time     // when the latest of the acknowledged records was sent
	failed []error
}

// write begins to write records as the product does.
func (s *suite) write(t *testing.T, topic string, partition int) *writing {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	producing, done := context.WithCancel(context.WithoutCancel(ctx))
	w := &writing{stop: stop, ended: make(chan error, 1), acked: make(map[int]int64)}
	client := s.target.client(t, "writer", topic)
	producer := produce.New(client, produce.Config{MaxBytes: 16 << 20, Deadline: deathDeadline})
	ran := make(chan error, 1)
	go func() { ran <- producer.Run(producing) }()
	go func() {
		tick := time.NewTicker(time.Second / deathRate)
		defer tick.Stop()
		var err error
		for id := 0; ctx.Err() == nil && err == nil; id++ {
			sent := time.Now()
			record := produce.Record{Topic: topic, Partition: partition, Value: strconv.AppendInt(nil, int64(id), 10)}
			err = producer.Send(record, func(offset int64, err error) { w.answer(id, sent, offset, err) })
			<-tick.C
		}
		// Every record has a deadline, so this has one.
		err = errors.Join(err, producer.Flush(context.WithoutCancel(ctx)))
		done()
		w.ended <- errors.Join(err, <-ran)
	}()
	t.Cleanup(stop)
	return w
}

func (w *writing) answer(id int, sent time.Time, offset int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.failed = append(w.failed, err)
		return
	}
	w.acked[id] = offset
	if sent.After(w.latest) {
		w.latest = sent
	}
}

// ackedSince reports whether a record is acknowledged that was sent after t.
func (w *writing) ackedSince(t time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest.After(t)
}

// highest returns the highest offset that is acknowledged.
func (w *writing) highest() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := int64(-1)
	for _, offset := range w.acked {
		last = max(last, offset)
	}
	return last
}

// end stops the writing, waits for every answer and returns the offsets of the
// records that were acknowledged; all of them must have been.
func (w *writing) end(t *testing.T) map[int]int64 {
	t.Helper()
	w.stop()
	if err := <-w.ended; err != nil {
		t.Errorf("writing: %v", err)
	}
	if len(w.failed) > 0 {
		t.Errorf("%d records were not acknowledged, the first: %v", len(w.failed), w.failed[0])
	}
	return w.acked
}

// verify reads a partition from first on: every acknowledged record must be at
// its offset. It returns how many are there more than once.
func (s *suite) verify(t *testing.T, topic string, partition int, first int64, acked map[int]int64) (again int) {
	t.Helper()
	found, places := make(map[int64]int), make(map[int]int)
	end := s.ends(t, topic, partition)
	for next := first; next < end.Next; {
		batch, err := s.client.Fetch(s.context(t), topic, partition, next, 1<<20, time.Second)
		if err != nil || len(batch.Messages) == 0 {
			t.Fatalf("reading at %d of %d: %v", next, end.Next, err)
		}
		for _, m := range batch.Messages {
			id, err := strconv.Atoi(string(m.Value))
			if err != nil || m.Offset != next {
				t.Fatalf("at offset %d there is %q with offset %d", next, m.Value, m.Offset)
			}
			found[m.Offset] = id
			if places[id]++; places[id] > 1 {
				again++
			}
			next++
		}
	}
	var lost []int
	for id, offset := range acked {
		if at, ok := found[offset]; !ok || at != id {
			lost = append(lost, id)
		}
	}
	if len(lost) > 0 || len(acked) == 0 {
		t.Errorf("of %d acknowledged records %d are not at their offset, the first is number %d", len(acked), len(lost), slices.Min(append(lost, len(acked))))
	}
	return again
}

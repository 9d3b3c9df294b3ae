package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/offsets"
)

// Conformance holds a broker to every fact that the product relies on. It makes
// an installation of its own and leaves it behind.
func Conformance(t *testing.T, target Target) {
	s := &suite{target: target, layout: target.layout(shards)}
	t.Run("install is idempotent and checked", s.install)
	if t.Failed() {
		return
	}
	s.client = target.client(t, "conformance", s.layout.All()...)
	type fact struct {
		name string
		hold func(*testing.T)
	}
	facts := []fact{
		{"a new topic serves a new client after a refresh", s.newTopic},
		{"a missing topic is a retriable error", s.missingTopic},
		{"records come back byte for byte and in order", s.roundTrip},
		{"job topics carry the append time", s.appendTime},
		{"a record of the greatest size passes and a greater one is refused", s.sizes},
		{"a batch larger than the fetch limit comes whole", s.oversized},
		{"a produce wakes a parked fetch", s.longPoll},
		{"an empty fetch ends after its wait", s.emptyPoll},
		{"an offset outside of the log is an error", s.outOfRange},
		{"DeleteRecords moves the log start and keeps the last record", s.deleteRecords},
		{"offsets are found by time", s.offsetAt},
		{"offsets are found by time though records before them were deleted", s.offsetAtAfterDeletion},
		{"commits carry 3,000 characters of metadata", s.metadata},
		{"a commit may go back", s.commitBack},
		{"a partition without a commit is told from offset 0", s.noCommit},
		{"the fence of the group", s.fence},
		{"shards are dealt, drained and dealt again", s.membership},
		{"in its own way: metadata of a commit", s.metadataLimit},
		{"in its own way: settings of a topic", s.unknownSetting},
		{"in its own way: members", s.keepsMembers},
	}
	if target.Brokers == 1 {
		// Of three that die together it was seen both ways: it depends on what
		// each of them had noted down in the seconds before.
		facts = append(facts, fact{"in its own way: a partition without records", s.emptied})
	}
	for _, fact := range facts {
		t.Run(fact.name, fact.hold)
	}
	for i, d := range s.deaths() {
		t.Run(d.name, func(t *testing.T) { s.death(t, i, d.brokers) })
	}
}

func (s *suite) install(t *testing.T) {
	first, again := s.target.install(t, s.layout), s.target.install(t, s.layout)
	t.Logf("installed in %s, again in %s", first, again)
	c := s.target.client(t, "check")
	if err := kafka.Check(s.context(t), c, s.layout); err != nil {
		t.Errorf("check: %v", err)
	}
	other := s.layout
	other.Shards++
	if err := kafka.Install(s.context(t), c, other); err == nil {
		t.Error("another number of shards was installed over the first")
	}
}

func (s *suite) newTopic(t *testing.T) {
	c := s.target.client(t, "newcomer", s.layout.All()...)
	ctx := s.context(t)
	for attempt := 1; ; attempt++ {
		_, err := c.Append(ctx, s.layout.Dead(), 0, []kafka.Record{{Value: []byte("first")}})
		if err == nil {
			t.Logf("written at attempt %d", attempt)
			return
		}
		if !kafka.Retriable(err) || attempt == 50 {
			t.Fatalf("attempt %d: %v", attempt, err)
		}
		if err := c.Refresh(ctx); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *suite) missingTopic(t *testing.T) {
	c := s.target.client(t, "missing")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := c.Fetch(ctx, s.layout.Prefix+"nowhere", 0, 0, 1<<16, time.Millisecond); !kafka.Retriable(err) {
		t.Errorf("fetch: %v", err)
	}
	if _, err := c.Append(ctx, s.layout.Prefix+"nowhere", 0, []kafka.Record{{}}); !kafka.Retriable(err) || !errors.Is(err, kafka.ErrUnsent) {
		t.Errorf("append: %v", err)
	}
}

func (s *suite) roundTrip(t *testing.T) {
	topic := s.layout.Jobs("critical")
	var want []kafka.Record
	for i := range 300 {
		want = append(want, kafka.Record{
			Key:   []byte("source"),
			Value: bytes.Repeat([]byte{byte(i), 0, 0xff}, i),
			Headers: []kafka.Header{
				{Key: "h", Value: []byte{byte(i)}}, {Key: "h", Value: []byte("again")}, {Key: "empty", Value: nil},
			},
		})
	}
	var base int64
	for i := 0; i < len(want); i += 100 { // small, compressed, larger
		at, err := s.client.Append(s.context(t), topic, 0, want[i:i+100])
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			base = at
		} else if at != base+int64(i) {
			t.Fatalf("batch of record %d begins at %d, want %d", i, at, base+int64(i))
		}
	}
	var got []kafka.Message
	for next := base; len(got) < len(want); {
		batch, err := s.client.Fetch(s.context(t), topic, 0, next, 64<<10, time.Second)
		if err != nil || len(batch.Messages) == 0 {
			t.Fatalf("after %d records: %v", len(got), err)
		}
		got = append(got, batch.Messages...)
		next = got[len(got)-1].Offset + 1
	}
	for i, m := range got {
		w := want[i]
		if m.Offset != base+int64(i) || !bytes.Equal(m.Key, w.Key) || !bytes.Equal(m.Value, w.Value) || len(m.Headers) != 3 {
			t.Fatalf("record %d came back as %d bytes at offset %d", i, len(m.Value), m.Offset)
		}
		for j, h := range m.Headers {
			if h.Key != w.Headers[j].Key || !bytes.Equal(h.Value, w.Headers[j].Value) {
				t.Fatalf("record %d: header %d is %q=%q", i, j, h.Key, h.Value)
			}
		}
	}
}

func (s *suite) appendTime(t *testing.T) {
	topic, before := s.layout.Jobs("critical"), time.Now().Truncate(time.Millisecond)
	base := s.append(t, topic, 1, []byte("now"))
	after := time.Now()
	batch, err := s.client.Fetch(s.context(t), topic, 1, base, 1<<16, time.Second)
	if err != nil || len(batch.Messages) != 1 {
		t.Fatalf("%d records, %v", len(batch.Messages), err)
	}
	if at := batch.Messages[0].Time; at.Before(before) || at.After(after) {
		t.Errorf("append time %s is not within %s and %s", at, before, after)
	}
}

func (s *suite) sizes(t *testing.T) {
	topic := s.layout.Jobs("critical")
	// What is compressible would pass at any size.
	noise := make([]byte, kafka.MaxRecordBytes-64)
	for i, x := 0, uint64(88172645463325252); i < len(noise); i++ {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		noise[i] = byte(x)
	}
	base, err := s.client.Append(s.context(t), topic, 2, []kafka.Record{{Value: noise}})
	if err != nil {
		t.Fatalf("a record of %d bytes: %v", len(noise), err)
	}
	_, err = s.client.Append(s.context(t), topic, 2, []kafka.Record{{Value: append(noise, noise[:1<<16]...)}})
	if !errors.Is(err, kafka.ErrUnsent) || !errors.Is(err, kafka.ErrTooLarge) {
		t.Errorf("a record of %d bytes: %v", len(noise)+1<<16, err)
	}
	if end := s.ends(t, topic, 2); end.Next != base+1 {
		t.Errorf("the partition ends at %d, want %d", end.Next, base+1)
	}
}

func (s *suite) oversized(t *testing.T) {
	topic := s.layout.Jobs("critical")
	base := s.append(t, topic, 3, bytes.Repeat([]byte("0123456789abcdef"), 40<<10))
	batch, err := s.client.Fetch(s.context(t), topic, 3, base, 1<<10, time.Second)
	if err != nil || len(batch.Messages) != 1 || len(batch.Messages[0].Value) != 640<<10 {
		t.Errorf("%d records, %v", len(batch.Messages), err)
	}
}

func (s *suite) longPoll(t *testing.T) {
	topic := s.layout.Jobs("high")
	var waits []time.Duration
	for i := range 20 {
		next := s.ends(t, topic, 0).Next
		written := make(chan time.Time, 1)
		go func() {
			time.Sleep(20 * time.Millisecond) // the fetch is parked by then
			at := time.Now()
			_, err := s.client.Append(t.Context(), topic, 0, []kafka.Record{{Value: fmt.Appendf(nil, "%d", i)}})
			if err != nil {
				t.Error(err)
			}
			written <- at
		}()
		batch, err := s.client.Fetch(s.context(t), topic, 0, next, 1<<16, 4*time.Second)
		woke := time.Now()
		if err != nil || len(batch.Messages) != 1 {
			t.Fatalf("%d records, %v", len(batch.Messages), err)
		}
		waits = append(waits, woke.Sub(<-written))
	}
	slices.Sort(waits)
	t.Logf("produce to fetched: median %s, worst %s of %d", waits[len(waits)/2], waits[len(waits)-1], len(waits))
	if waits[len(waits)/2] > 50*time.Millisecond {
		t.Error("a parked fetch is not woken by a produce")
	}
}

func (s *suite) emptyPoll(t *testing.T) {
	topic := s.layout.Jobs("high")
	const wait = 300 * time.Millisecond
	next := s.ends(t, topic, 1).Next
	began := time.Now()
	batch, err := s.client.Fetch(s.context(t), topic, 1, next, 1<<16, wait)
	took := time.Since(began)
	if err != nil || len(batch.Messages) != 0 || batch.HighWatermark != next {
		t.Errorf("%d records, high watermark %d of %d, %v", len(batch.Messages), batch.HighWatermark, next, err)
	}
	if took < wait-10*time.Millisecond || took > wait+500*time.Millisecond {
		t.Errorf("it took %s instead of %s", took, wait)
	}
}

func (s *suite) outOfRange(t *testing.T) {
	topic := s.layout.Jobs("high")
	s.append(t, topic, 2, values(10, 100)...)
	end := s.ends(t, topic, 2)
	if err := s.client.DeleteRecords(s.context(t), topic, map[int]int64{2: end.First + 5}); err != nil {
		t.Fatal(err)
	}
	for name, offset := range map[string]int64{"below the log start": end.First + 4, "above the end": end.Next + 1} {
		if _, err := s.client.Fetch(s.context(t), topic, 2, offset, 1<<16, time.Millisecond); !kafka.OutOfRange(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, offset := range map[string]int64{"at the log start": end.First + 5, "at the end": end.Next} {
		if _, err := s.client.Fetch(s.context(t), topic, 2, offset, 1<<16, time.Millisecond); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func (s *suite) deleteRecords(t *testing.T) {
	topic := s.layout.Spill()
	base := s.append(t, topic, 0, values(100, 100)...)
	ctx := s.context(t)
	for _, upTo := range []int64{base + 40, base + 20 /* no-op */, base + 99} {
		if err := s.client.DeleteRecords(ctx, topic, map[int]int64{0: upTo}); err != nil {
			t.Errorf("up to %d: %v", upTo, err)
		}
	}
	if end := s.ends(t, topic, 0); end != (kafka.Range{First: base + 99, Next: base + 100}) {
		t.Errorf("left is %+v of [%d, %d)", end, base, base+100)
	}
	if err := s.client.DeleteRecords(ctx, topic, map[int]int64{0: base + 100}); !errors.Is(err, kafka.ErrWouldEmpty) {
		t.Errorf("deleting the last record: %v", err)
	}
	batch, err := s.client.Fetch(ctx, topic, 0, base+99, 1<<16, time.Second)
	if err != nil || len(batch.Messages) != 1 || batch.LogStart != base+99 {
		t.Errorf("the last record: %d, log start %d, %v", len(batch.Messages), batch.LogStart, err)
	}
}

func (s *suite) offsetAt(t *testing.T) {
	topic := s.layout.Jobs("high")
	before := time.Now().Add(-time.Minute)
	base := s.append(t, topic, 3, values(3, 10)...)
	for at, want := range map[time.Time]int64{before: base, time.Now().Add(time.Hour): base + 3} {
		if got, err := s.client.OffsetAt(s.context(t), topic, 3, at); err != nil || got != want {
			t.Errorf("the first record from %s on is %d, want %d (%v)", at, got, want, err)
		}
	}
}

// offsetAtAfterDeletion: a segment that lies below the log's start stays for some minutes, and its times must hide nothing that is left.
func (s *suite) offsetAtAfterDeletion(t *testing.T) {
	topic := s.layout.Jobs("high")
	before := time.Now().Add(-time.Minute)
	base := s.append(t, topic, 2, values(16, 800<<10)...) // three segments where there is one copy
	for _, upTo := range []int64{5, 13} {
		if err := s.client.DeleteRecords(s.context(t), topic, map[int]int64{2: base + upTo}); err != nil {
			t.Fatal(err)
		}
		for at, want := range map[time.Time]int64{before: base + upTo, time.Now().Add(time.Hour): base + 16} {
			if got, err := s.client.OffsetAt(s.context(t), topic, 2, at); err != nil || got != want {
				t.Errorf("deleted up to %d: the first record from %s on is %d, want %d (%v)", base+upTo, at, got, want, err)
			}
		}
	}
}

func (s *suite) metadata(t *testing.T) {
	meta := offsets.Metadata{Drained: true, Source: "a.b", Type: "c_d", Counts: strings.Repeat("9", 100)}
	for range 2000 {
		meta.Done = append(meta.Done, offsets.Range{Gap: 1, Length: 1})
	}
	text, err := meta.Encode()
	if err != nil || len(text) < offsets.MaxMetadata-3 {
		t.Fatalf("%d characters, %v", len(text), err)
	}
	s.append(t, s.layout.Jobs("low"), 0, values(10, 10)...)
	want := kafka.Commit{Topic: s.layout.Jobs("low"), Partition: 0, Offset: 7, Metadata: text}
	if err := s.client.CommitOffsets(s.context(t), s.nobody(), []kafka.Commit{want}); err != nil {
		t.Fatal(err)
	}
	if got := s.committed(t, want.Topic, 0); got != want {
		t.Errorf("read back %+v", got)
	}
}

func (s *suite) commitBack(t *testing.T) {
	topic := s.layout.Jobs("low")
	s.append(t, topic, 1, values(10, 10)...)
	for _, offset := range []int64{9, 2} {
		c := kafka.Commit{Topic: topic, Partition: 1, Offset: offset, Metadata: kafka.FirstMetadata}
		if err := s.client.CommitOffsets(s.context(t), s.nobody(), []kafka.Commit{c}); err != nil {
			t.Fatal(err)
		}
		if got := s.committed(t, topic, 1); got != c {
			t.Errorf("read back %+v", got)
		}
	}
}

func (s *suite) noCommit(t *testing.T) {
	got, err := s.client.Committed(s.context(t), s.layout.Group(), s.layout.Control(), []int{0})
	if err != nil || len(got) != 0 {
		t.Errorf("a partition without a commit: %+v, %v", got, err)
	}
	installed, err := s.client.Committed(s.context(t), s.layout.Group(), s.layout.Delay("15s"), []int{0, 1, 2, 3})
	if err != nil || len(installed) != shards {
		t.Errorf("installed partitions: %+v, %v", installed, err)
	}
	for _, c := range installed {
		if meta, err := offsets.DecodeMetadata(c.Metadata); err != nil || c.Offset != 0 || !reflect.DeepEqual(meta, offsets.Metadata{}) {
			t.Errorf("installed: %+v, %v", c, err)
		}
	}
}

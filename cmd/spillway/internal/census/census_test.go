package census

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spillway/spillway/pkg/envelope"
	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/kafka/kafkatest"
	"github.com/spillway/spillway/pkg/offsets"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

var macKey = []byte("0123456789abcdef0123456789abcdef")

// logs writes what the services would.
type logs struct {
	t      *testing.T
	client *kafka.Client
	topics kafka.Topics
}

func start(t *testing.T) *logs {
	broker := kafkatest.Start(t)
	topics := kafka.Topics{Prefix: "test."}
	broker.Install(t, kafka.Layout{Topics: topics, Shards: 2, Lanes: 2, Durability: kafka.Single})
	return &logs{t: t, client: broker.Client(t, "census-test"), topics: topics}
}

func id(n int) envelope.JobID {
	return envelope.NewJobID(time.UnixMilli(1_700_000_000_000), 0, [8]byte{byte(n >> 8), byte(n)})
}

func (l *logs) append(topic string, partition int, headers []kafka.Header, m proto.Message) int64 {
	l.t.Helper()
	value, err := proto.Marshal(m)
	if err != nil {
		l.t.Fatal(err)
	}
	if headers == nil {
		headers = []kafka.Header{{Key: envelope.HeaderMAC, Value: envelope.MAC(macKey, topic, value, nil)}}
	}
	offset, err := l.client.Append(l.t.Context(), topic, partition, []kafka.Record{{Value: value, Headers: headers}})
	if err != nil {
		l.t.Fatal(err)
	}
	return offset
}

func (l *logs) job(topic string, n int) int64 {
	return l.append(topic, 0, []kafka.Header{envelope.VersionHeader()}, &jobv1.Job{Id: id(n).String(), AcceptedAt: timestamppb.Now(),
		Spec: &jobv1.JobSpec{Source: "crm", Type: "tag", Priority: jobv1.Priority_PRIORITY_DEFAULT}})
}

func (l *logs) settle(n int, epoch int64, outcome jobv1.Outcome) {
	l.append(l.topics.Outcomes(), 0, nil, &logv1.JobEvent{Epoch: epoch, Event: &logv1.JobEvent_Settled{
		Settled: &logv1.Settled{JobId: id(n).String(), Source: "crm", Outcome: outcome}}})
}

func (l *logs) fence() int64 {
	return l.append(l.topics.Outcomes(), 0, nil, &logv1.JobEvent{Event: &logv1.JobEvent_Fence{Fence: &logv1.OwnerFence{Replica: "s"}}})
}

func (l *logs) commit(topic string, offset int64, meta offsets.Metadata) {
	l.t.Helper()
	text, err := meta.Encode()
	if err != nil {
		l.t.Fatal(err)
	}
	err = l.client.CommitOffsets(l.t.Context(), kafka.Member{Group: l.topics.Group(), Generation: -1},
		[]kafka.Commit{{Topic: topic, Offset: offset, Metadata: text}})
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *logs) count(cfg Config) *Census {
	l.t.Helper()
	cfg.Client, cfg.Topics = l.client, l.topics
	c := New(cfg)
	ctx, cancel := context.WithTimeout(l.t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Homes(ctx); err != nil {
		l.t.Fatal(err)
	}
	if err := c.Outcomes(ctx); err != nil {
		l.t.Fatal(err)
	}
	return c
}

func TestEveryJobIsCountedOnce(t *testing.T) {
	l := start(t)
	jobs := l.topics.Jobs("default")
	for n := range 8 {
		l.job(jobs, n)
	}
	l.job(l.topics.Spill(), 3) // 3 was moved
	first := l.fence()
	l.settle(0, first, jobv1.Outcome_OUTCOME_SUCCEEDED)
	l.settle(0, first, jobv1.Outcome_OUTCOME_DEAD) // the first terminal event counts
	l.settle(1, first, jobv1.Outcome_OUTCOME_DEAD)
	second := l.fence()
	l.settle(2, first, jobv1.Outcome_OUTCOME_SUCCEEDED) // of a former owner: does not count
	l.settle(99, second, jobv1.Outcome_OUTCOME_EXPIRED) // its record is trimmed
	// Complete: 0, 1, 3 (moved), 4 (vanished); 2, 5, 6 and 7 wait.
	l.commit(jobs, 2, offsets.Metadata{Done: offsets.Ranges{{Gap: 1, Length: 2}}})

	c := l.count(Config{MACKey: macKey})
	want := Totals{Accepted: 9, Succeeded: 1, Dead: 1, Expired: 1, Waiting: 4, Spilled: 1, Difference: 1}
	if got := c.Totals(0); got != want || c.Forged != 0 || c.Unreadable != 0 {
		t.Errorf("totals %+v\nwant   %+v; forged %d, unreadable %d", got, want, c.Forged, c.Unreadable)
	}
	if p := c.Place(id(4)); p != Vanished {
		t.Errorf("job 4 is at %d, want vanished", p)
	}
	if got := c.Totals(5); got.Leased != 5 || got.Waiting != 0 || got.Spilled != 0 || got.Accepted != 9 {
		t.Errorf("with 5 leases: %+v", got)
	}
	only := l.count(Config{Only: func(j envelope.JobID) bool { return j == id(1) }})
	if got := only.Totals(0); got != (Totals{Accepted: 1, Dead: 1}) {
		t.Errorf("only job 1: %+v", got)
	}
}

func TestOutcomesAreReadOnFromWhereTheyWereLeft(t *testing.T) {
	l := start(t)
	epoch := l.fence()
	c := l.count(Config{})
	for n := range 3 {
		l.settle(n, epoch, jobv1.Outcome_OUTCOME_SUCCEEDED)
		if err := c.Outcomes(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := c.Totals(0).Succeeded; got != int64(n+1) {
			t.Errorf("%d succeeded, want %d", got, n+1)
		}
	}
	if c.Trimmed() {
		t.Error("nothing was trimmed")
	}
}

func TestTrimmedOutcomesAreKnownFromTheCounts(t *testing.T) {
	l := start(t)
	epoch := l.fence()
	for n := range 6 {
		l.settle(n, epoch, jobv1.Outcome_OUTCOME_SUCCEEDED)
	}
	l.commit(l.topics.Outcomes(), 5, offsets.Metadata{Counts: "4,0,0,0,0,0"}) // jobs 0 to 3
	if err := l.client.DeleteRecords(t.Context(), l.topics.Outcomes(), map[int]int64{0: 3}); err != nil {
		t.Fatal(err)
	}
	c := l.count(Config{})
	if got := c.Totals(0); got != (Totals{Accepted: 6, Succeeded: 6}) || !c.Trimmed() {
		t.Errorf("totals %+v, trimmed %v", got, c.Trimmed())
	}
}

func TestForgedEventsDoNotCount(t *testing.T) {
	l := start(t)
	topic, prev := l.topics.Outcomes(), make([]byte, 32)
	event := &logv1.JobEvent{Event: &logv1.JobEvent_Settled{Settled: &logv1.Settled{JobId: id(1).String(), Outcome: jobv1.Outcome_OUTCOME_SUCCEEDED}}}
	value, err := proto.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	l.append(topic, 0, []kafka.Header{{Key: envelope.HeaderMAC, Value: prev}}, event)
	l.append(topic, 0, []kafka.Header{ // the MAC of a longer value, whose end is passed off as the hash of another record
		{Key: envelope.HeaderMAC, Value: envelope.MAC(macKey, topic, append(value, prev...), nil)}, {Key: envelope.HeaderPrev, Value: prev},
	}, event)
	c := l.count(Config{MACKey: macKey})
	if got := c.Totals(0); got != (Totals{}) || c.Forged != 2 {
		t.Errorf("totals %+v, forged %d", got, c.Forged)
	}
}

func TestLeasesAreReadFromTheStatusLog(t *testing.T) {
	l := start(t)
	for i, running := range []int32{9, 3, 2} {
		l.append(l.topics.Status(), 0, nil, &logv1.Status{Replica: []string{"a", "a", "b"}[i], Summaries: []*logv1.Summary{
			{Priorities: []*logv1.Summary_PriorityShare{{Running: running}, {Running: 1}}}}})
	}
	n, err := Leased(t.Context(), l.client, l.topics)
	if err != nil || n != 7 {
		t.Errorf("leased %d, %v, want the last word of each: 7", n, err)
	}
}

// TestParkedRecordsAreAccountedFor: a record that this release cannot read is no job and no loss once it is among the dead letters, be it of another
// version or not; one that is complete and is not there is a loss.
func TestParkedRecordsAreAccountedFor(t *testing.T) {
	l := start(t)
	topic := l.topics.Jobs("default")
	later := kafka.Header{Key: envelope.HeaderVersion, Value: []byte("2")}
	job := func(n int, p jobv1.Priority) *jobv1.Job {
		return &jobv1.Job{Id: id(n).String(), AcceptedAt: timestamppb.Now(), Spec: &jobv1.JobSpec{Source: "crm", Type: "tag", Priority: p}}
	}
	park := func(offset int64, headers []kafka.Header, m proto.Message) {
		from := kafka.Header{Key: envelope.HeaderParkedFrom, Value: fmt.Appendf(nil, "jobs.default/0/%d", offset)}
		l.append(l.topics.Dead(), 0, append([]kafka.Header{from}, headers...), m)
	}
	ours := []kafka.Header{envelope.VersionHeader()}
	future := job(0, jobv1.Priority_PRIORITY_DEFAULT)
	park(l.append(topic, 0, []kafka.Header{later}, future), []kafka.Header{later}, future)
	park(0, []kafka.Header{later}, future) // twice, after a crash
	unknown := job(1, 77)                  // a job with an outcome: it can be named
	park(l.append(topic, 0, ours, unknown), ours, unknown)
	l.append(topic, 0, []kafka.Header{later}, job(2, jobv1.Priority_PRIORITY_LOW)) // complete, and nowhere
	l.append(topic, 0, []kafka.Header{later}, job(3, jobv1.Priority_PRIORITY_LOW)) // still to be read
	l.settle(1, l.fence(), jobv1.Outcome_OUTCOME_DEAD)
	l.commit(topic, 3, offsets.Metadata{})
	c := l.count(Config{MACKey: macKey})
	if got := c.Totals(0); got != (Totals{Accepted: 1, Dead: 1, Parked: 1, Difference: 1}) || c.Unreadable != 3 {
		t.Errorf("totals %+v, unreadable %d", got, c.Unreadable)
	}
}

// TestCountBeginsWithTheFence: an event of an owner that was fenced before the log begins does not count.
func TestCountBeginsWithTheFence(t *testing.T) {
	l := start(t)
	former := l.fence()
	later := l.fence()
	l.settle(0, former, jobv1.Outcome_OUTCOME_SUCCEEDED)
	l.settle(1, later, jobv1.Outcome_OUTCOME_SUCCEEDED)
	l.commit(l.topics.Outcomes(), later+1, offsets.Metadata{Counts: offsets.Counts{Fence: later}.String()})
	if err := l.client.DeleteRecords(t.Context(), l.topics.Outcomes(), map[int]int64{0: later + 1}); err != nil {
		t.Fatal(err)
	}
	c := l.count(Config{MACKey: macKey})
	if got := c.Totals(0); got != (Totals{Accepted: 1, Succeeded: 1}) {
		t.Errorf("totals %+v", got)
	}
}

// TestRecordThatOutlivesItsOutcome: the last record of a partition is never trimmed. When its outcome has been, it is counted by its owner, and is no
// loss; a record that is younger than what is left of outcomes is one.
func TestRecordThatOutlivesItsOutcome(t *testing.T) {
	l := start(t)
	jobs := l.topics.Jobs("default")
	settle := func(n int, at time.Time) int64 {
		return l.append(l.topics.Outcomes(), 0, nil, &logv1.JobEvent{Event: &logv1.JobEvent_Settled{
			Settled: &logv1.Settled{JobId: id(n).String(), Outcome: jobv1.Outcome_OUTCOME_SUCCEEDED, SettledAt: timestamppb.New(at)}}})
	}
	l.job(jobs, 1) // now, by the broker's clock
	settle(1, time.Now())
	left := settle(2, time.Now().Add(time.Hour)) // its record is trimmed
	l.commit(jobs, 1, offsets.Metadata{})
	l.commit(l.topics.Outcomes(), left, offsets.Metadata{Counts: offsets.Counts{Succeeded: 1}.String()})
	if err := l.client.DeleteRecords(t.Context(), l.topics.Outcomes(), map[int]int64{0: left}); err != nil {
		t.Fatal(err)
	}
	if got := l.count(Config{}).Totals(0); got != (Totals{Accepted: 2, Succeeded: 2}) {
		t.Errorf("totals %+v", got)
	}

	// The same, but what is left of outcomes is older than the record.
	younger := settle(3, time.Now().Add(-time.Hour))
	l.commit(l.topics.Outcomes(), younger, offsets.Metadata{Counts: offsets.Counts{Succeeded: 2}.String()})
	if err := l.client.DeleteRecords(t.Context(), l.topics.Outcomes(), map[int]int64{0: younger}); err != nil {
		t.Fatal(err)
	}
	if got := l.count(Config{}).Totals(0); got != (Totals{Accepted: 4, Succeeded: 3, Difference: 1}) {
		t.Errorf("totals %+v", got)
	}
}

package failover

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// referencePartitions are spread over the brokers.
const referencePartitions = 12

// reference is a plain client that produces to every partition of a topic of its
// own, one record at a time with acks=all, and notes what was acknowledged: it says
// how long Kafka itself was away. It knows nothing of the product, and is of
// another make than the product's client.
type reference struct {
	client *kgo.Client

	mu   sync.Mutex
	acks [referencePartitions][]ack
}

type ack struct{ sent, at time.Time }

const referenceTopic = "reference"

// watch starts a reference. It ends with the test.
func watch(t testing.TB, addresses []string, replicas int) *reference {
	t.Helper()
	client, err := kgo.NewClient(
		kgo.SeedBrokers(addresses...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()), kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(1),
		kgo.ProducerLinger(0), kgo.ProduceRequestTimeout(5*time.Second),
		// As impatient as can be: it measures the brokers, not itself.
		kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.DialTimeout(time.Second),
	)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &reference{client: client}
	create := kmsg.NewCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = referenceTopic, referencePartitions, int16(replicas)
	create.Topics = append(create.Topics, topic)
	answer, err := create.RequestWith(ctx, client)
	if err == nil {
		err = kerr.ErrorForCode(answer.Topics[0].ErrorCode)
	}
	if err != nil {
		t.Fatalf("reference: %v", err)
	}
	var producing sync.WaitGroup
	for p := range int32(referencePartitions) {
		producing.Go(func() { r.produce(ctx, p) })
	}
	t.Cleanup(func() {
		cancel()
		producing.Wait()
		client.Close()
	})
	return r
}

func (r *reference) produce(ctx context.Context, partition int32) {
	for ctx.Err() == nil {
		sent := time.Now()
		err := r.client.ProduceSync(ctx, &kgo.Record{Topic: referenceTopic, Partition: partition, Value: []byte("reference")}).FirstErr()
		if err == nil {
			r.mu.Lock()
			r.acks[partition] = append(r.acks[partition], ack{sent, time.Now()})
			r.mu.Unlock()
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// since is when records that were sent after a moment were acknowledged: the first
// of any partition, and the first of the last one; zero: not yet. A record that
// was on its way at that moment counts once it is acknowledged later than settle
// after it, since a dying broker's answers arrive too.
func (r *reference) since(at time.Time, settle time.Duration) (first, all time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	complete := true
	for _, acks := range r.acks {
		var here time.Time
		for _, a := range acks {
			if !a.sent.Before(at) || a.at.After(at.Add(settle)) {
				here = a.at
				break
			}
		}
		if here.IsZero() {
			complete = false
			continue
		}
		if first.IsZero() || here.Before(first) {
			first = here
		}
		if here.After(all) {
			all = here
		}
	}
	if !complete {
		all = time.Time{}
	}
	return first, all
}

// table prints rows in columns.
type table struct{ rows [][]string }

func (t *table) add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		if d, ok := c.(time.Duration); ok {
			c = fmt.Sprintf("%.2f s", d.Seconds())
		}
		row[i] = fmt.Sprint(c)
	}
	t.rows = append(t.rows, row)
}

func (t *table) String() string {
	var widths []int
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], len([]rune(c)))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		b.WriteString("\n  ")
		for i, c := range row {
			b.WriteString(c + strings.Repeat(" ", widths[i]-len([]rune(c))+2))
		}
	}
	return b.String()
}

package plain

import (
	"context"
	"errors"
	"fmt"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	sdk "github.com/spillway/spillway/pkg/client"
)

const (
	// tenantHeader says whose job it is.
	tenantHeader = "tenant"
	// batchTimeout is how long a record may wait for others.
	batchTimeout = 2 * time.Millisecond
	batchSize    = 1000
)

// Producer sends jobs to the topic. It is a send.Port.
type Producer struct{ writer *kafkago.Writer }

// NewProducer makes a producer; it connects when it sends.
func NewProducer(t Target) *Producer {
	dial, brokers := t.dial()
	return &Producer{&kafkago.Writer{
		Addr: kafkago.TCP(brokers...), Topic: t.Topic, Balancer: &kafkago.RoundRobin{}, RequiredAcks: kafkago.RequireAll,
		BatchTimeout: batchTimeout, BatchSize: batchSize, Transport: &kafkago.Transport{Dial: dial, ClientID: "plain-producer"},
	}}
}

// Enqueue sends one job. The brokers may have it, whatever error there is.
func (p *Producer) Enqueue(ctx context.Context, job sdk.Job) (sdk.Result, error) {
	item := p.EnqueueBatch(ctx, []sdk.Job{job})[0]
	return item.Result, item.Err
}

// EnqueueBatch sends several.
func (p *Producer) EnqueueBatch(ctx context.Context, jobs []sdk.Job) []sdk.Item {
	messages := make([]kafkago.Message, len(jobs))
	for i, j := range jobs {
		messages[i] = kafkago.Message{Value: j.Payload, Headers: []kafkago.Header{{Key: tenantHeader, Value: []byte(j.Tenant)}}}
	}
	items := make([]sdk.Item, len(jobs))
	err := p.writer.WriteMessages(ctx, messages...)
	var each kafkago.WriteErrors
	if errors.As(err, &each) {
		for i, err := range each {
			if err != nil {
				items[i].Err = fmt.Errorf("produce: %w", err)
			}
		}
		return items
	}
	for i := range items {
		if err != nil {
			items[i].Err = fmt.Errorf("produce: %w", err)
		}
	}
	return items
}

// Close flushes and disconnects.
func (p *Producer) Close() error { return p.writer.Close() }

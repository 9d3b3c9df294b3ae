package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/spillway/spillway/pkg/envelope"
)

// Header is one header of a record.
type Header = envelope.Header

// Message is one record read from the log. Key, Value and header values are
// its own: they share no memory with other messages.
type Message struct {
	Topic     string
	Partition int
	Offset    int64
	Time      time.Time // append time on job topics, milliseconds
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Size is the message's weight in byte budgets: key, value and headers plus
// recordOverhead.
func (m *Message) Size() int { return weight(m.Key, m.Value, m.Headers) }

// recordOverhead is counted for each record beside its bytes: the framing on
// the wire, and the slice headers in memory.
const recordOverhead = 64

func weight(key, value []byte, headers []Header) int {
	n := len(key) + len(value) + recordOverhead
	for i := range headers {
		n += len(headers[i].Key) + len(headers[i].Value)
	}
	return n
}

// Batch is what one Fetch brought.
type Batch struct {
	// Messages are in offset order and start at or above the asked offset;
	// there may be gaps. Empty: nothing new came within the wait. What comes
	// next begins at the offset after the last one, not at HighWatermark.
	Messages []Message
	// HighWatermark is the offset that the next record of the partition gets.
	HighWatermark int64
	// LogStart is the offset of the first record that is kept.
	LogStart int64
	// Bytes is the sum of the messages' Size.
	Bytes int
}

// unpackedBytes is how many times maxBytes the Size of a Batch may have, give or
// take a record: the broker counts compressed bytes, and LZ4 makes up to 250 times
// less of what repeats itself. JSON is mostly compressed 5 to 10 times. It may have
// leastUnpacked in any case, two batches of our producer: who asks for little at a
// time would else get, and unpack, one of them again and again.
const (
	unpackedBytes = 8
	leastUnpacked = 512 << 10
)

// maxFetchWait is the longest wait that CallTimeout lets a broker be told.
const maxFetchWait = CallTimeout / 2

// Fetch reads topic's partition from offset from on. The broker answers when
// it has at least one record, and after maxWait (at most 5 s) at the latest.
// maxBytes bounds the answer as it is in the log, except that a first batch larger
// than it comes whole. What is unpacked of it ends with the record that brings it
// to 8 times maxBytes or to 512 KiB, whichever is more, be it in the middle of a
// batch: the next Fetch goes on there. So a Batch is bounded; while the call lasts
// the whole answer is in memory unpacked, which may be 250 times maxBytes: it is
// maxBytes that bounds it, and how many calls there are at once. An offset below the log start or above the high watermark is an error
// for which OutOfRange holds.
func (c *Client) Fetch(ctx context.Context, topic string, partition int, from int64, maxBytes int, maxWait time.Duration) (Batch, error) {
	if from < 0 || maxBytes <= 0 {
		return Batch{}, fmt.Errorf("kafka: fetch %s/%d: illegal offset %d or limit %d", topic, partition, from, maxBytes)
	}
	res, err := c.client.Fetch(ctx, &kafkago.FetchRequest{
		Topic:     topic,
		Partition: partition,
		Offset:    from,
		MinBytes:  1,
		MaxBytes:  int64(maxBytes),
		MaxWait:   min(max(maxWait, time.Millisecond), maxFetchWait),
	})
	if err == nil {
		err = res.Error
	}
	if local(err) {
		return Batch{}, fmt.Errorf("kafka: fetch %s/%d at %d: %w (not installed, leader moving, or no right to see the topic)", topic, partition, from, err)
	}
	if err != nil {
		return Batch{}, fmt.Errorf("kafka: fetch %s/%d at %d: %w", topic, partition, from, err)
	}
	batch := Batch{HighWatermark: res.HighWatermark, LogStart: res.LogStartOffset}
	if err := batch.read(res.Records, topic, partition, from, max(unpackedBytes*maxBytes, leastUnpacked)); err != nil {
		return Batch{}, fmt.Errorf("kafka: fetch %s/%d at %d: %w", topic, partition, from, err)
	}
	return batch, nil
}

// read copies the records at or above from out of the response's pages, until
// they have most bytes. The pages of what is left over are given back, too.
func (b *Batch) read(records kafkago.RecordReader, topic string, partition int, from int64, most int) error {
	for b.Bytes < most {
		r, err := records.ReadRecord()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if r.Offset < from { // a batch may begin before the asked offset
			release(r.Key)
			release(r.Value)
			continue
		}
		key, value, err := copyRecord(r.Key, r.Value)
		if err != nil {
			return err
		}
		m := Message{Topic: topic, Partition: partition, Offset: r.Offset, Time: r.Time, Key: key, Value: value}
		if len(r.Headers) > 0 {
			m.Headers = make([]Header, len(r.Headers))
			for i, h := range r.Headers {
				m.Headers[i] = Header(h)
			}
		}
		b.Bytes += m.Size()
		b.Messages = append(b.Messages, m)
	}
	for {
		r, err := records.ReadRecord()
		if err != nil {
			return nil // of what is asked for again
		}
		release(r.Key)
		release(r.Value)
	}
}

// copyRecord copies key and value into one allocation and gives their pages
// back.
func copyRecord(key, value protocol.Bytes) ([]byte, []byte, error) {
	defer release(key)
	defer release(value)
	var keyLen, valueLen int
	if key != nil {
		keyLen = key.Len()
	}
	if value != nil {
		valueLen = value.Len()
	}
	buf := make([]byte, keyLen+valueLen)
	if keyLen > 0 {
		if _, err := io.ReadFull(key, buf[:keyLen]); err != nil {
			return nil, nil, err
		}
	}
	if valueLen > 0 {
		if _, err := io.ReadFull(value, buf[keyLen:]); err != nil {
			return nil, nil, err
		}
	}
	return buf[:keyLen:keyLen], buf[keyLen:], nil
}

func release(b protocol.Bytes) {
	if b != nil {
		_ = b.Close() // gives a page back; it cannot fail
	}
}

// Range is what a partition holds: First is the offset of its first record,
// Next the one that its next record gets. First == Next: it is empty.
type Range struct{ First, Next int64 }

// offsetLookups is how many partitions are asked for their offsets at once:
// the transport makes a request, hence a connection, of every single one.
const offsetLookups = 8

// Ends returns the range of each of the partitions of topic.
func (c *Client) Ends(ctx context.Context, topic string, partitions []int) (map[int]Range, error) {
	ends := make(map[int]Range, len(partitions))
	for len(partitions) > 0 {
		n := min(offsetLookups, len(partitions))
		requests := make([]kafkago.OffsetRequest, 0, 2*n)
		for _, p := range partitions[:n] {
			requests = append(requests, kafkago.FirstOffsetOf(p), kafkago.LastOffsetOf(p))
		}
		partitions = partitions[n:]
		found, err := c.offsets(ctx, topic, requests)
		if err != nil {
			return nil, err
		}
		for _, p := range found {
			ends[p.Partition] = Range{First: p.FirstOffset, Next: p.LastOffset}
		}
	}
	return ends, nil
}

// OffsetAt returns the offset of the first record of the partition that is not
// older than t, or the partition's next offset when there is none.
func (c *Client) OffsetAt(ctx context.Context, topic string, partition int, t time.Time) (int64, error) {
	found, err := c.offsets(ctx, topic, []kafkago.OffsetRequest{kafkago.TimeOffsetOf(partition, t)})
	if err != nil {
		return 0, err
	}
	for offset := range found[0].Offsets {
		if offset >= 0 {
			return offset, nil
		}
	}
	// Apache Kafka also says so when the first segment that is young enough lies below the log's start and only waits to be deleted. Then all that
	// is left is young enough; the last record tells.
	ends, err := c.Ends(ctx, topic, []int{partition})
	if err != nil {
		return 0, err
	}
	held := ends[partition]
	if held.First == held.Next {
		return held.Next, nil
	}
	last, err := c.Fetch(ctx, topic, partition, held.Next-1, 1, 0)
	if err != nil {
		return 0, err
	}
	if n := len(last.Messages); n > 0 && last.Messages[n-1].Time.Before(t) {
		return held.Next, nil
	}
	return held.First, nil
}

// offsets asks and asks again while the failure may pass, at most CallTimeout: a
// read can be repeated, and after a restart of the broker the pool is full of
// connections that find out only when they are used.
func (c *Client) offsets(ctx context.Context, topic string, requests []kafkago.OffsetRequest) ([]kafkago.PartitionOffsets, error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	var found []kafkago.PartitionOffsets
	err := c.retry(ctx, func() (err error) {
		found, err = c.offsetsOnce(ctx, topic, requests)
		return err
	})
	return found, err
}

func (c *Client) offsetsOnce(ctx context.Context, topic string, requests []kafkago.OffsetRequest) ([]kafkago.PartitionOffsets, error) {
	// A partition that the cached view lacks would be sent to any broker.
	if _, err := c.describe(ctx, topic); err != nil {
		return nil, err
	}
	res, err := c.client.ListOffsets(ctx, &kafkago.ListOffsetsRequest{
		Topics: map[string][]kafkago.OffsetRequest{topic: requests},
	})
	if err != nil {
		return nil, fmt.Errorf("kafka: offsets of %s: %w", topic, err)
	}
	found := res.Topics[topic]
	if len(found) == 0 {
		return nil, fmt.Errorf("kafka: offsets of %s: no answer", topic)
	}
	for _, p := range found {
		if errors.Is(p.Error, kafkago.Unknown) {
			// The transport says so of a part whose connection broke.
			c.transport.renew()
			return nil, fmt.Errorf("kafka: offsets of %s/%d: %w", topic, p.Partition, io.ErrUnexpectedEOF)
		}
		if p.Error != nil {
			return nil, fmt.Errorf("kafka: offsets of %s/%d: %w", topic, p.Partition, p.Error)
		}
	}
	return found, nil
}

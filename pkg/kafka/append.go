package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/produce"
)

const (
	// MaxMessageBytes is the topics' max.message.bytes: 1 MiB for the largest
	// job (900 KiB payload) in its envelope, and 64 KiB for that to grow.
	MaxMessageBytes = 1<<20 + 64<<10

	// MaxRecordBytes is the largest record by Record.Size: what is left of
	// MaxMessageBytes after the 61 bytes of a batch header.
	MaxRecordBytes = MaxMessageBytes - 61

	// compressAbove is the batch size from which compressing pays.
	compressAbove = 1 << 10
)

// Record is one record to be written. The log keeps Key, Value and Headers:
// they must not change after the record was handed over, not even after its
// result, since a request that timed out may still be reading them.
type Record struct {
	Topic     string
	Partition int
	Key       []byte
	Value     []byte
	Headers   []Header
}

// Size is the record's weight in byte budgets and batch limits, before
// compression: key, value and headers plus 64 bytes.
func (r *Record) Size() int { return weight(r.Key, r.Value, r.Headers) }

// Append writes records, all of one topic and partition, as one batch that is
// there as a whole or not at all, with acks=all. It returns the offset of the
// first; the others follow it. It makes one attempt: an error wraps ErrUnsent
// or ErrFateUnknown, and Retriable says whether another attempt makes sense.
// Services use package produce, which batches and retries.
func (c *Client) Append(ctx context.Context, topic string, partition int, records []Record) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, CallTimeout)
	defer cancel()
	base, err := c.append(ctx, topic, partition, records)
	switch {
	case err == nil:
		return base, nil
	case errors.Is(err, storeFull):
		return 0, fmt.Errorf("kafka: append to %s/%d: %w: %w: the broker's store", topic, partition, ErrUnsent, ErrFull)
	case errors.Is(err, kafkago.MessageSizeTooLarge):
		return 0, fmt.Errorf("kafka: append to %s/%d: %w: %w", topic, partition, ErrUnsent, ErrTooLarge)
	case local(err):
		return 0, fmt.Errorf("kafka: append to %s/%d: %w: %w (not installed, leader moving, or no right to see the topic)", topic, partition, ErrUnsent, err)
	case unwritten(err):
		return 0, fmt.Errorf("kafka: append to %s/%d: %w: %w", topic, partition, ErrUnsent, err)
	default:
		return 0, fmt.Errorf("kafka: append to %s/%d: %w: %w", topic, partition, ErrFateUnknown, err)
	}
}

// append returns the transport's or the broker's own error. It does not use
// kafkago.Client.Produce, which gives an answer without our partition the same
// error as a request that was never sent.
func (c *Client) append(ctx context.Context, topic string, partition int, records []Record) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, &unsentError{err}
	}
	size := 0
	for i := range records {
		size += records[i].Size()
	}
	var attributes protocol.Attributes
	if size > compressAbove {
		attributes = protocol.Lz4
	}
	msg, err := c.transport.RoundTrip(ctx, c.client.Addr, &produce.Request{
		Acks:    int16(kafkago.RequireAll),
		Timeout: int32((CallTimeout / 2).Milliseconds()),
		Topics: []produce.RequestTopic{{
			Topic: topic,
			Partitions: []produce.RequestPartition{{
				Partition: int32(partition),
				RecordSet: protocol.RecordSet{Attributes: attributes, Records: &recordReader{records: records}},
			}},
		}},
	})
	if err != nil {
		return 0, err
	}
	res := msg.(*produce.Response)
	if len(res.Topics) != 1 || len(res.Topics[0].Partitions) != 1 {
		return 0, errors.New("the answer does not speak of the partition")
	}
	answer := &res.Topics[0].Partitions[0]
	if answer.ErrorCode != 0 {
		return 0, kafkago.Error(answer.ErrorCode)
	}
	return answer.BaseOffset, nil
}

// recordReader hands records to the encoder one at a time, in one reused
// protocol.Record and two reused readers: no allocation per record but for
// headers.
type recordReader struct {
	records    []Record
	next       int
	record     protocol.Record
	key, value view
}

// ReadRecord implements protocol.RecordReader.
func (r *recordReader) ReadRecord() (*protocol.Record, error) {
	if r.next == len(r.records) {
		return nil, io.EOF
	}
	from := &r.records[r.next]
	r.next++
	r.record.Key, r.record.Value = nil, nil
	if from.Key != nil {
		r.key.Reset(from.Key)
		r.record.Key = &r.key
	}
	if from.Value != nil {
		r.value.Reset(from.Value)
		r.record.Value = &r.value
	}
	r.record.Headers = r.record.Headers[:0]
	for _, h := range from.Headers {
		r.record.Headers = append(r.record.Headers, protocol.Header(h))
	}
	return &r.record, nil
}

// view is a protocol.Bytes over memory of the caller.
type view struct{ bytes.Reader }

// Close implements protocol.Bytes.
func (*view) Close() error { return nil }

package rpc

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

const (
	// maxParts is how many messages, and items of lists and maps, a message may
	// consist of. Empty ones are two bytes on the wire and a hundred in memory,
	// so that 4 MiB would be 200 MiB before any rule is asked. The most that a
	// valid one has is a worker's frame of 20,000 leases in each of its parts.
	maxParts = 250_000
	// smallMessage is not counted: it cannot have enough parts to matter (6 MB).
	smallMessage = 128 << 10
	// maxNesting is how deep messages may nest; ours are below ten.
	maxNesting = 100
)

// boundedCodec decodes messages of a bounded number of parts.
type boundedCodec struct{ encoding.CodecV2 }

func newCodec() boundedCodec { return boundedCodec{encoding.GetCodecV2("proto")} }

// Unmarshal decodes data into v. It fails on too many parts before it allocates
// any.
func (c boundedCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(proto.Message)
	if !ok || data.Len() <= smallMessage {
		return c.CodecV2.Unmarshal(data, v)
	}
	whole := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer whole.Free()
	if parts(whole.ReadOnlyData(), m.ProtoReflect().Descriptor(), maxParts, maxNesting) > maxParts {
		return fmt.Errorf("a message of more than %d parts", maxParts)
	}
	return c.CodecV2.Unmarshal(mem.BufferSlice{whole}, v)
}

// parts counts what a message consists of until it is more than limit. What is
// malformed is not counted any further: it is not decoded either.
func parts(b []byte, d protoreflect.MessageDescriptor, limit, depth int) (n int) {
	for len(b) > 0 && n <= limit && depth > 0 {
		number, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return n
		}
		b = b[size:]
		if size = protowire.ConsumeFieldValue(number, kind, b); size < 0 {
			return n
		}
		field := d.Fields().ByNumber(number)
		if kind == protowire.BytesType && field != nil && (field.Message() != nil || field.IsList()) {
			n++
			if field.Message() != nil {
				inner, _ := protowire.ConsumeBytes(b)
				n += parts(inner, field.Message(), limit-n, depth-1)
			}
		}
		b = b[size:]
	}
	return n
}

package trace

import (
	"encoding/hex"
	"fmt"
	"math"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// What of OTLP's messages is read and written here, by field number (opentelemetry-proto 1.x, trace/v1 and collector/trace/v1). The module
// has no generated code of theirs, and this is all that it would need of it.
const (
	requestResourceSpans = 1

	resourceSpansResource, resourceSpansScopes = 1, 2
	resourceAttributes                         = 1
	scopeSpansSpans                            = 2

	spanTrace, spanID, spanParent, spanName, spanKind         = 1, 2, 4, 5, 6
	spanStart, spanEnd, spanAttributes, spanLinks, spanStatus = 7, 8, 9, 13, 15

	linkTrace, linkSpan = 1, 2
	statusCode          = 3

	pairKey, pairValue                            = 1, 2
	valueString, valueBool, valueInt, valueDouble = 1, 2, 3, 4
)

// Kinds of spans, as OTLP numbers them.
const (
	internal, server, calling, producer, consumer = 1, 2, 3, 4, 5
)

var kinds = map[uint64]string{internal: "INTERNAL", server: "SERVER", calling: "CLIENT", producer: "PRODUCER", consumer: "CONSUMER"}

// place is where a span is in all traces.
type place struct{ trace, span string }

// span is one that was exported.
type span struct {
	process, instance string // service.name and service.instance.id of its resource
	pid               string
	place
	parent     string // "": a root
	name       string
	kind       uint64
	start, end time.Time
	attributes map[string]string
	links      []place
	failed     bool
}

func (s *span) String() string { return s.name + " of " + s.process }

// fields calls see for each field of a message: with its number, and what it holds, bytes or a number.
func fields(message []byte, see func(number protowire.Number, bytes []byte, word uint64) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		var bytes []byte
		var word uint64
		switch kind {
		case protowire.BytesType:
			bytes, n = protowire.ConsumeBytes(message)
		case protowire.VarintType:
			word, n = protowire.ConsumeVarint(message)
		case protowire.Fixed64Type:
			word, n = protowire.ConsumeFixed64(message)
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if err := see(number, bytes, word); err != nil {
			return err
		}
	}
	return nil
}

// decode reads an ExportTraceServiceRequest.
func decode(request []byte) ([]*span, error) {
	var list []*span
	err := fields(request, func(number protowire.Number, spans []byte, _ uint64) error {
		if number != requestResourceSpans {
			return nil
		}
		resource, mine := map[string]string{}, []*span(nil)
		err := fields(spans, func(number protowire.Number, part []byte, _ uint64) error {
			switch number {
			case resourceSpansResource:
				return fields(part, func(number protowire.Number, pair []byte, _ uint64) error {
					if number != resourceAttributes {
						return nil
					}
					return decodePair(pair, resource)
				})
			case resourceSpansScopes:
				return fields(part, func(number protowire.Number, text []byte, _ uint64) error {
					if number != scopeSpansSpans {
						return nil
					}
					s, err := decodeSpan(text)
					mine = append(mine, s)
					return err
				})
			}
			return nil
		})
		for _, s := range mine {
			s.process, s.instance, s.pid = resource["service.name"], resource["service.instance.id"], resource["process.pid"]
		}
		list = append(list, mine...)
		return err
	})
	return list, err
}

func decodeSpan(text []byte) (*span, error) {
	s := &span{attributes: map[string]string{}}
	err := fields(text, func(number protowire.Number, part []byte, word uint64) error {
		switch number {
		case spanTrace:
			s.trace = hex.EncodeToString(part)
		case spanID:
			s.place.span = hex.EncodeToString(part)
		case spanParent:
			s.parent = hex.EncodeToString(part)
		case spanName:
			s.name = string(part)
		case spanKind:
			s.kind = word
		case spanStart:
			s.start = time.Unix(0, int64(word))
		case spanEnd:
			s.end = time.Unix(0, int64(word))
		case spanAttributes:
			return decodePair(part, s.attributes)
		case spanLinks:
			var to place
			err := fields(part, func(number protowire.Number, id []byte, _ uint64) error {
				switch number {
				case linkTrace:
					to.trace = hex.EncodeToString(id)
				case linkSpan:
					to.span = hex.EncodeToString(id)
				}
				return nil
			})
			s.links = append(s.links, to)
			return err
		case spanStatus:
			return fields(part, func(number protowire.Number, _ []byte, code uint64) error {
				s.failed = s.failed || number == statusCode && code == 2
				return nil
			})
		}
		return nil
	})
	return s, err
}

// decodePair reads a KeyValue into a map; lists and maps are left out.
func decodePair(pair []byte, into map[string]string) error {
	var key, value string
	err := fields(pair, func(number protowire.Number, part []byte, _ uint64) error {
		switch number {
		case pairKey:
			key = string(part)
		case pairValue:
			return fields(part, func(number protowire.Number, text []byte, word uint64) error {
				switch number {
				case valueString:
					value = string(text)
				case valueBool:
					value = strconv.FormatBool(word != 0)
				case valueInt:
					value = strconv.FormatInt(int64(word), 10)
				case valueDouble:
					value = strconv.FormatFloat(math.Float64frombits(word), 'g', 4, 64)
				}
				return nil
			})
		}
		return nil
	})
	into[key] = value
	return err
}

// encode writes an ExportTraceServiceRequest, as the product's exporters do: for the processes of a test.
func encode(spans []sdk.ReadOnlySpan) []byte {
	var request []byte
	for _, s := range spans {
		var resource, text []byte
		for _, a := range s.Resource().Attributes() {
			resource = message(resource, resourceAttributes, pair(a))
		}
		trace, id, parent := s.SpanContext().TraceID(), s.SpanContext().SpanID(), s.Parent().SpanID()
		text = message(text, spanTrace, trace[:])
		text = message(text, spanID, id[:])
		if parent.IsValid() {
			text = message(text, spanParent, parent[:])
		}
		text = message(text, spanName, []byte(s.Name()))
		text = number(text, spanKind, uint64(s.SpanKind())) // the API numbers them as OTLP does
		text = fixed(text, spanStart, uint64(s.StartTime().UnixNano()))
		text = fixed(text, spanEnd, uint64(s.EndTime().UnixNano()))
		for _, a := range s.Attributes() {
			text = message(text, spanAttributes, pair(a))
		}
		for _, l := range s.Links() {
			trace, id := l.SpanContext.TraceID(), l.SpanContext.SpanID()
			text = message(text, spanLinks, message(message(nil, linkTrace, trace[:]), linkSpan, id[:]))
		}
		scope := message(nil, scopeSpansSpans, text)
		request = message(request, requestResourceSpans, message(message(nil, resourceSpansResource, resource), resourceSpansScopes, scope))
	}
	return request
}

func pair(a attribute.KeyValue) []byte {
	var value []byte
	switch a.Value.Type() {
	case attribute.BOOL:
		value = number(nil, valueBool, protowire.EncodeBool(a.Value.AsBool()))
	case attribute.INT64:
		value = number(nil, valueInt, uint64(a.Value.AsInt64()))
	case attribute.FLOAT64:
		value = fixed(nil, valueDouble, math.Float64bits(a.Value.AsFloat64()))
	case attribute.STRING:
		value = message(nil, valueString, []byte(a.Value.AsString()))
	default:
		value = message(nil, valueString, fmt.Append(nil, a.Value.AsInterface()))
	}
	return message(message(nil, pairKey, []byte(a.Key)), pairValue, value)
}

func message(to []byte, n protowire.Number, part []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(to, n, protowire.BytesType), part)
}

func number(to []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(to, n, protowire.VarintType), v)
}

func fixed(to []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(to, n, protowire.Fixed64Type), v)
}

package envelope

import (
	"errors"
	"fmt"
)

// What a record carries beside its value. traceparent and tracestate stand
// beside these under their W3C names.
const (
	// HeaderTransit holds the encoded log.v1.Transit: everything about a job
	// that changes from hop to hop.
	HeaderTransit = "spillway-transit"
	// HeaderVersion holds the format version, Version.
	HeaderVersion = "spillway-v"
	// HeaderMAC holds MAC, on records of control and outcomes.
	HeaderMAC = "spillway-mac"
	// HeaderPrev holds Prev, on records of control.
	HeaderPrev = "spillway-prev"
	// HeaderReason says, on records of dead, why the job is dead: what its Settled event says, at most 2 KiB, for as long as the record is kept.
	HeaderReason = "spillway-reason"
	// HeaderParked says, on records of dead that nobody could act on, why; HeaderParkedFrom names where such a record was, as
	// topic/partition/offset with the topic's name without prefix. Its own headers follow unchanged.
	HeaderParked     = "spillway-parked"
	HeaderParkedFrom = "spillway-parked-from"
	// HeaderParkedCut is there when such a record was too large to be kept whole
	// among the dead letters. It says what there was, in bytes and headers, of
	// which the value's beginning is left: "value 1114000, key 3, headers 2".
	HeaderParkedCut = "spillway-parked-cut"

	// Version is the only version of the record formats so far.
	Version = "1"
)

// Why a record cannot be used. Such a record is parked in dead, never dropped.
var (
	// ErrMalformed means that the bytes are not what the format says.
	ErrMalformed = errors.New("malformed record")
	// ErrUnknownValue means that the bytes decode, but hold an enum value
	// that this release does not know.
	ErrUnknownValue = errors.New("unknown value in record")
	// ErrVersion means that the record's format version is absent or not
	// known to this release.
	ErrVersion = errors.New("unknown record version")
)

// Header is one header of a Kafka record.
type Header struct {
	Key   string
	Value []byte
}

// Get is the value of the last header named key (case-sensitive, as Kafka's
// are); ok is false when there is none.
func Get(hs []Header, key string) (value []byte, ok bool) {
	for i := len(hs) - 1; i >= 0; i-- {
		if hs[i].Key == key {
			return hs[i].Value, true
		}
	}
	return nil, false
}

// VersionHeader is the header that every record of ours carries.
func VersionHeader() Header {
	return Header{Key: HeaderVersion, Value: []byte(Version)}
}

// CheckVersion refuses, with ErrVersion, a record whose version header is
// absent or names a version that this release does not know.
func CheckVersion(hs []Header) error {
	version, ok := Get(hs, HeaderVersion)
	if !ok {
		return fmt.Errorf("%w: header %s is absent", ErrVersion, HeaderVersion)
	}
	if string(version) != Version {
		return fmt.Errorf("%w: %.16q", ErrVersion, version)
	}
	return nil
}

// Carrier lets a trace propagator read and write record headers. It is an
// OpenTelemetry propagation.TextMapCarrier.
type Carrier struct {
	// Headers is the slice that Set appends to; it must not be nil.
	Headers *[]Header
}

// Get is the last value of key, or "" when there is none.
func (c Carrier) Get(key string) string {
	value, _ := Get(*c.Headers, key)
	return string(value)
}

// Set replaces the last header named key, or appends one. It replaces the
// value and never writes into the old one's bytes, which another record may
// share.
func (c Carrier) Set(key, value string) {
	hs := *c.Headers
	for i := len(hs) - 1; i >= 0; i-- {
		if hs[i].Key == key {
			hs[i].Value = []byte(value)
			return
		}
	}
	*c.Headers = append(hs, Header{Key: key, Value: []byte(value)})
}

// Keys lists the headers' names in their order.
func (c Carrier) Keys() []string {
	keys := make([]string, len(*c.Headers))
	for i, h := range *c.Headers {
		keys[i] = h.Key
	}
	return keys
}

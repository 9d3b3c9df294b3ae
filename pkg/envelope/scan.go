package envelope

import (
	"fmt"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

// Fields is what routing, scheduling and settling need to know of a job. The
// payload is not among them: it stays in the record's bytes.
type Fields struct {
	ID     JobID
	Source string
	Tenant string // "" for none
	Type   string
	// Priority is a jobv1.Priority that this release knows, never unspecified
	// but beside ErrUnknownValue.
	Priority     int32
	PayloadBytes int
	// PayloadSHA256 points into the scanned value; nil when absent.
	PayloadSHA256 []byte
	AcceptedAt    time.Time
	ExpiresAt     time.Time     // zero: never
	NotBefore     time.Time     // zero: at once
	RunTimeout    time.Duration // 0: the source's policy
	MaxAttempts   int32         // 0: the source's policy
	Depth         int32
	// Keyed tells that the caller or its SDK gave an idempotency key.
	Keyed bool
	// RedriveOf is the dead job that this one repeats; "" for none.
	RedriveOf string
}

// Scan reads Fields from the value of a job's record, in one pass and without
// decoding or copying the payload. It accepts exactly what the full decoder
// accepts (a fuzz test holds them together), less what no scheduler could
// act on: a job without canonical id, source, type or accepted_at, or with
// times out of range, is ErrMalformed; a priority that this release does not
// know is ErrUnknownValue, and then Fields say all but Priority, so that the
// job can be given its outcome.
func Scan(value []byte) (Fields, error) {
	s := scanner{}
	if !s.job(value) {
		return Fields{}, fmt.Errorf("%w: not a job (%d bytes)", ErrMalformed, len(value))
	}
	return s.fields()
}

// The numbers of job.v1's fields that Scan reads.
const (
	jobID         protowire.Number = 1
	jobSpec       protowire.Number = 2
	jobAcceptedAt protowire.Number = 3
	jobExpiresAt  protowire.Number = 4
	jobDepth      protowire.Number = 5
	jobSHA256     protowire.Number = 6
	jobAcceptedBy protowire.Number = 7

	specSource      protowire.Number = 1
	specTenant      protowire.Number = 2
	specType        protowire.Number = 3
	specPriority    protowire.Number = 4
	specPayload     protowire.Number = 5
	specContentType protowire.Number = 6
	specNotBefore   protowire.Number = 7
	specExpiresIn   protowire.Number = 8
	specKey         protowire.Number = 9
	specRunTimeout  protowire.Number = 10
	specMaxAttempts protowire.Number = 11
	specLabels      protowire.Number = 12
	specParent      protowire.Number = 13
	specRedriveOf   protowire.Number = 14
)

// scanner holds slices of the value until it is known that all of it is sound:
// strings are only made for a job that will be used. A field that comes twice
// follows the full decoder: scalars take the last, messages merge.
type scanner struct {
	id, source, tenant, typ, key, redriveOf []byte
	sha256                                  []byte
	payload                                 int
	priority, maxAttempts, depth            int32
	accepted, expires, notBefore            seconds
	expiresIn, runTimeout                   seconds
}

// seconds is a google.protobuf.Timestamp or Duration, which have one form.
type seconds struct {
	set   bool
	secs  int64
	nanos int32
}

func (s *scanner) fields() (Fields, error) {
	malformed := func(what string) (Fields, error) {
		return Fields{}, fmt.Errorf("%w: job: %s", ErrMalformed, what)
	}
	id, ok := jobIDOf(s.id)
	switch {
	case !ok:
		return malformed("id is missing or no job id")
	case len(s.source) == 0:
		return malformed("source is missing")
	case len(s.typ) == 0:
		return malformed("type is missing")
	case !s.accepted.set:
		return malformed("accepted_at is missing")
	case !s.accepted.isTime() || !s.expires.isTime() || !s.notBefore.isTime():
		return malformed("time out of range")
	case !s.runTimeout.isDuration() || !s.expiresIn.isDuration():
		return malformed("duration out of range")
	case s.maxAttempts < 0 || s.depth < 0 || s.runTimeout.secs < 0 || s.runTimeout.nanos < 0:
		return malformed("negative number")
	}
	var err error
	if _, known := jobv1.Priority_name[s.priority]; !known || s.priority == 0 {
		err = fmt.Errorf("%w: job: priority %d", ErrUnknownValue, s.priority)
		s.priority = 0
	}
	return Fields{
		ID:            id,
		Source:        string(s.source),
		Tenant:        string(s.tenant),
		Type:          string(s.typ),
		Priority:      s.priority,
		PayloadBytes:  s.payload,
		PayloadSHA256: s.sha256,
		AcceptedAt:    s.accepted.time(),
		ExpiresAt:     s.expires.time(),
		NotBefore:     s.notBefore.time(),
		RunTimeout:    s.runTimeout.duration(),
		MaxAttempts:   s.maxAttempts,
		Depth:         s.depth,
		Keyed:         len(s.key) > 0,
		RedriveOf:     string(s.redriveOf),
	}, err
}

func (s *scanner) job(b []byte) bool {
	for len(b) > 0 {
		num, typ, n := tag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		ok := true
		switch {
		case num == jobID && typ == protowire.BytesType:
			s.id, b, ok = text(b)
		case num == jobSpec && typ == protowire.BytesType:
			var spec []byte
			if spec, b, ok = chunk(b); ok {
				ok = s.spec(spec)
			}
		case num == jobAcceptedAt && typ == protowire.BytesType:
			b, ok = s.accepted.read(b)
		case num == jobExpiresAt && typ == protowire.BytesType:
			b, ok = s.expires.read(b)
		case num == jobDepth && typ == protowire.VarintType:
			b, ok = integer(b, &s.depth)
		case num == jobSHA256 && typ == protowire.BytesType:
			s.sha256, b, ok = chunk(b)
		case num == jobAcceptedBy && typ == protowire.BytesType:
			_, b, ok = text(b)
		default:
			b, ok = skip(num, typ, b)
		}
		if !ok {
			return false
		}
	}
	return true
}

func (s *scanner) spec(b []byte) bool {
	for len(b) > 0 {
		num, typ, n := tag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		ok := true
		switch {
		case num == specPriority && typ == protowire.VarintType:
			b, ok = integer(b, &s.priority)
		case num == specMaxAttempts && typ == protowire.VarintType:
			b, ok = integer(b, &s.maxAttempts)
		case typ != protowire.BytesType:
			b, ok = skip(num, typ, b)
		case num == specSource:
			s.source, b, ok = text(b)
		case num == specTenant:
			s.tenant, b, ok = text(b)
		case num == specType:
			s.typ, b, ok = text(b)
		case num == specPayload:
			var payload []byte
			payload, b, ok = chunk(b)
			s.payload = len(payload)
		case num == specNotBefore:
			b, ok = s.notBefore.read(b)
		case num == specExpiresIn:
			b, ok = s.expiresIn.read(b)
		case num == specKey:
			s.key, b, ok = text(b)
		case num == specRunTimeout:
			b, ok = s.runTimeout.read(b)
		case num == specRedriveOf:
			s.redriveOf, b, ok = text(b)
		case num == specContentType, num == specParent:
			_, b, ok = text(b)
		case num == specLabels:
			var label []byte
			if label, b, ok = chunk(b); ok {
				ok = labelOK(label)
			}
		default:
			b, ok = skip(num, typ, b)
		}
		if !ok {
			return false
		}
	}
	return true
}

// labelOK walks one entry of labels only to find what the full decoder would
// refuse.
func labelOK(b []byte) bool {
	for len(b) > 0 {
		num, typ, n := tag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		ok := true
		if (num == 1 || num == 2) && typ == protowire.BytesType {
			_, b, ok = text(b)
		} else {
			b, ok = skip(num, typ, b)
		}
		if !ok {
			return false
		}
	}
	return true
}

func (v *seconds) read(b []byte) (rest []byte, ok bool) {
	m, rest, ok := chunk(b)
	if !ok {
		return nil, false
	}
	v.set = true
	for len(m) > 0 {
		num, typ, n := tag(m)
		if n < 0 {
			return nil, false
		}
		m = m[n:]
		switch {
		case num == 1 && typ == protowire.VarintType:
			u, n := protowire.ConsumeVarint(m)
			if n < 0 {
				return nil, false
			}
			v.secs, m = int64(u), m[n:]
		case num == 2 && typ == protowire.VarintType:
			m, ok = integer(m, &v.nanos)
		default:
			m, ok = skip(num, typ, m)
		}
		if !ok {
			return nil, false
		}
	}
	return rest, true
}

func (v seconds) isTime() bool {
	at := timestamppb.Timestamp{Seconds: v.secs, Nanos: v.nanos}
	return at.IsValid()
}

func (v seconds) isDuration() bool {
	d := durationpb.Duration{Seconds: v.secs, Nanos: v.nanos}
	return d.IsValid()
}

func (v seconds) time() time.Time {
	if !v.set {
		return time.Time{}
	}
	return time.Unix(v.secs, int64(v.nanos)).UTC()
}

// duration saturates at what a time.Duration holds (292 years).
func (v seconds) duration() time.Duration {
	d := durationpb.Duration{Seconds: v.secs, Nanos: v.nanos}
	return d.AsDuration()
}

// tag is protowire.ConsumeTag without the numbers above the highest valid one,
// which the full decoder refuses.
func tag(b []byte) (protowire.Number, protowire.Type, int) {
	num, typ, n := protowire.ConsumeTag(b)
	if n >= 0 && num > protowire.MaxValidNumber {
		return 0, 0, -1
	}
	return num, typ, n
}

func chunk(b []byte) (v, rest []byte, ok bool) {
	v, n := protowire.ConsumeBytes(b)
	if n < 0 {
		return nil, nil, false
	}
	return v, b[n:], true
}

func text(b []byte) (v, rest []byte, ok bool) {
	v, rest, ok = chunk(b)
	return v, rest, ok && utf8.Valid(v)
}

func integer(b []byte, to *int32) (rest []byte, ok bool) {
	v, n := protowire.ConsumeVarint(b)
	if n < 0 {
		return nil, false
	}
	*to = int32(v)
	return b[n:], true
}

func skip(num protowire.Number, typ protowire.Type, b []byte) (rest []byte, ok bool) {
	n := protowire.ConsumeFieldValue(num, typ, b)
	if n < 0 {
		return nil, false
	}
	return b[n:], true
}

package offsets

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

const (
	// MaxMetadata is the most characters Encode returns and DecodeMetadata
	// accepts, all of them ASCII. Apache Kafka refuses more than 4,096; the rest
	// is room for a broker configured lower and for a longer format.
	MaxMetadata = 3000
	// maxReach bounds how far above the committed offset decoded runs may end: a
	// million windows, so that no arithmetic on offsets can overflow.
	maxReach = int64(1) << 32
	// maxName is the bound of source and type names.
	maxName = 64

	version = "1"
	none    = "-"
)

// Errors of the codec. They are wrapped with what was wrong.
var (
	// ErrMetadata: a string that is not commit metadata of this format, or a
	// Metadata that cannot be written in it. The owner refuses the partition.
	ErrMetadata = errors.New("offsets: malformed commit metadata")
	// ErrVersion: commit metadata of another format version. The owner refuses
	// the partition: guessing could skip jobs.
	ErrVersion = errors.New("offsets: unknown version of commit metadata")
)

// Position is what one partition's commit says.
type Position struct {
	// Offset is the lowest offset that may still have to be worked on.
	Offset int64
	// Meta is the decoded metadata of the same commit.
	Meta Metadata
}

// Metadata is what travels in a commit beside the offset: format 6 of
// ARCHITECTURE.md, fixed from the first release:
//
//	1;<flags>;<source>/<type> or -;<counts or ->;<completed ranges>
//
// The ranges are the base64url text (no padding) of varint pairs (gap, length)
// above the committed offset. The empty Metadata is "1;;-;-;".
type Metadata struct {
	// Drained is flag d: the owner that committed this left nothing running but
	// what it handed over.
	Drained bool
	// Source and Type name whom a taken lane belongs to. Both are empty for a
	// free lane and for every other partition; names match [a-z0-9._-]{1,64}.
	Source, Type string
	// Counts is the ledger's running account, opaque here: printable ASCII
	// without ';', not "-"; empty when there is none.
	Counts string
	// Done are the completed runs above the committed offset.
	Done Ranges
}

// Encode writes the metadata in at most MaxMetadata characters. Runs that do not
// fit are left out from the top: their records run again after a restart. It
// fails with ErrMetadata when a field breaks its bound or the runs are not
// canonical; a metadata of a Tracker never does the latter.
func (m Metadata) Encode() (string, error) {
	var b strings.Builder
	b.WriteString(version)
	b.WriteByte(';')
	if m.Drained {
		b.WriteByte('d')
	}
	b.WriteByte(';')
	switch {
	case m.Source == "" && m.Type == "":
		b.WriteString(none)
	case !validName(m.Source) || !validName(m.Type):
		return "", fmt.Errorf("%w: lane owner %q/%q", ErrMetadata, m.Source, m.Type)
	default:
		b.WriteString(m.Source)
		b.WriteByte('/')
		b.WriteString(m.Type)
	}
	b.WriteByte(';')
	switch {
	case m.Counts == "":
		b.WriteString(none)
	case m.Counts == none || !validCounts(m.Counts):
		return "", fmt.Errorf("%w: counts %q", ErrMetadata, m.Counts)
	default:
		b.WriteString(m.Counts)
	}
	b.WriteByte(';')
	if b.Len() > MaxMetadata {
		return "", fmt.Errorf("%w: counts of %d characters", ErrMetadata, len(m.Counts))
	}
	runs, err := m.Done.encode(MaxMetadata - b.Len())
	if err != nil {
		return "", err
	}
	b.WriteString(runs)
	return b.String(), nil
}

// Overflow says whether Encode has to leave runs out, for the committed offset
// low, and then up to which offset (exclusive) everything must be complete so
// that it has not: the owner moves what is incomplete below it. The offset is the
// lowest one that will do. A metadata that Encode refuses does not overflow.
func (m Metadata) Overflow(low int64) (upTo int64, over bool) {
	head := m
	head.Done = nil
	text, err := head.Encode()
	if err != nil {
		return 0, false
	}
	room := MaxMetadata - len(text)
	size := 0
	for i := len(m.Done) - 1; i >= 0; i-- {
		size += varintLen(m.Done[i].Gap) + varintLen(m.Done[i].Length)
		if base64.RawURLEncoding.EncodedLen(size) > room {
			// This run and all below it have to become part of the offset.
			for _, x := range m.Done[:i+1] {
				low += x.Gap + x.Length
			}
			return low, true
		}
	}
	return 0, false
}

// varintLen is how many bytes a number of a run takes.
func varintLen(n int64) int {
	size := 1
	for v := uint64(n); v >= 1<<7; v >>= 7 {
		size++
	}
	return size
}

// DecodeMetadata reads what Encode wrote. It is strict: a string is accepted
// only if it is exactly what Encode returns for the result. Errors are
// ErrVersion for another version and ErrMetadata for everything else.
func DecodeMetadata(s string) (Metadata, error) {
	if len(s) > MaxMetadata {
		return Metadata{}, fmt.Errorf("%w: %d characters", ErrMetadata, len(s))
	}
	v, rest, ok := strings.Cut(s, ";")
	if !ok {
		return Metadata{}, fmt.Errorf("%w: %.16q", ErrMetadata, s)
	}
	if v != version {
		return Metadata{}, fmt.Errorf("%w: %.16q", ErrVersion, v)
	}
	field := strings.Split(rest, ";")
	if len(field) != 4 {
		return Metadata{}, fmt.Errorf("%w: %d fields", ErrMetadata, 1+len(field))
	}
	var m Metadata
	switch field[0] {
	case "":
	case "d":
		m.Drained = true
	default:
		return Metadata{}, fmt.Errorf("%w: flags %.16q", ErrMetadata, field[0])
	}
	if field[1] != none {
		m.Source, m.Type, ok = strings.Cut(field[1], "/")
		if !ok || !validName(m.Source) || !validName(m.Type) {
			return Metadata{}, fmt.Errorf("%w: lane owner %.140q", ErrMetadata, field[1])
		}
	}
	if field[2] != none {
		if field[2] == "" || !validCounts(field[2]) {
			return Metadata{}, fmt.Errorf("%w: counts %.64q", ErrMetadata, field[2])
		}
		m.Counts = field[2]
	}
	var err error
	m.Done, err = decodeRanges(field[3])
	return m, err
}

// encode writes as many runs as fit into room characters, lowest first.
func (r Ranges) encode(room int) (string, error) {
	raw := make([]byte, 0, min(len(r)*3, MaxMetadata))
	var reach int64
	for _, x := range r {
		if x.Gap < 1 || x.Length < 1 || x.Gap > maxReach || x.Length > maxReach || reach+x.Gap+x.Length > maxReach {
			return "", fmt.Errorf("%w: run of %d after a gap of %d", ErrMetadata, x.Length, x.Gap)
		}
		reach += x.Gap + x.Length
		pair := binary.AppendUvarint(binary.AppendUvarint(raw, uint64(x.Gap)), uint64(x.Length))
		if base64.RawURLEncoding.EncodedLen(len(pair)) > room {
			break
		}
		raw = pair
	}
	return base64.RawURLEncoding.EncodeToString(raw), nil
}

// decodeRanges accepts only canonical text: no line breaks, no stray bits, no
// overlong varints, no empty or touching runs.
func decodeRanges(s string) (Ranges, error) {
	if strings.ContainsAny(s, "\r\n") { // which the base64 package skips
		return nil, fmt.Errorf("%w: line break in the ranges", ErrMetadata)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%w: ranges: %w", ErrMetadata, err)
	}
	var out Ranges
	var reach int64
	for len(raw) > 0 {
		var pair [2]int64
		for i := range pair {
			v, n := binary.Uvarint(raw)
			if n <= 0 || (n > 1 && raw[n-1] == 0) || v < 1 || v > uint64(maxReach-reach) {
				return nil, fmt.Errorf("%w: bad number in range %d", ErrMetadata, len(out))
			}
			pair[i], raw = int64(v), raw[n:]
			reach += int64(v)
		}
		out = append(out, Range{Gap: pair[0], Length: pair[1]})
	}
	return out, nil
}

// validName holds the charset of source and type names (security rule S36).
func validName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

func validCounts(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || c == ';' {
			return false
		}
	}
	return true
}

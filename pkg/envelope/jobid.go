package envelope

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// JobID is a job's name: a UUID (RFC 9562) of version 7 or 8 whose 12 rand_a
// bits are the shard of the job's source. So anybody who holds an id can route
// to its owner, and for version 7 knows when it was made, without a lookup.
//
//	 0                   48   52         64  66                            128
//	+---------------------+----+----------+---+------------------------------+
//	| v7: ms since epoch  | ver|  shard   | 10| v7 no key: random            |
//	| v8: hash bits 0..48 |    |          |   | keyed: hash of (source, key) |
//	+---------------------+----+----------+---+------------------------------+
type JobID [16]byte

const (
	versionTime   = 7 // the first 48 bits are a time
	versionHashed = 8 // the first 48 bits are a hash: no time in it

	rand62 = 1<<62 - 1
	ms48   = 1<<48 - 1
)

// NewJobID names a job that came without an idempotency key: a version 7 UUID
// of now, in milliseconds. random supplies rand_b: its first 62 bits are used.
func NewJobID(now time.Time, shard int, random [8]byte) JobID {
	return layout(milliseconds(now), versionTime, shard, binary.BigEndian.Uint64(random[:])>>2)
}

// KeyedJobID names a job by its idempotency key, so that a retry makes the
// same id. A key that is itself a version 7 UUID in canonical text (what the
// SDK sends when the caller gave none) lends its time to the id; any other key
// makes a version 8 UUID. Keys are scoped by source: the same key of another
// source names another job.
func KeyedJobID(source, key string, shard int) JobID {
	h := sha256.New()
	h.Write([]byte(source))
	h.Write([]byte{0})
	h.Write([]byte(key))
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	first, second := binary.BigEndian.Uint64(sum[:8]), binary.BigEndian.Uint64(sum[8:16])
	if ms, ok := keyMilliseconds(key); ok {
		return layout(ms, versionTime, shard, first>>2)
	}
	// Bits 0..48 of the hash, then its bits 48..110.
	return layout(first>>16, versionHashed, shard, first<<46&rand62|second>>18)
}

// NewKey makes the idempotency key that the SDK sends before its first try
// when the caller gave none: a version 7 UUID of now with 74 random bits, in
// canonical text.
func NewKey(now time.Time, random [10]byte) string {
	a := int(binary.BigEndian.Uint16(random[:2]) & 0xfff)
	return layout(milliseconds(now), versionTime, a, binary.BigEndian.Uint64(random[2:])>>2).String()
}

// KeyTime is the time in an idempotency key that is a version 7 UUID in
// canonical (lower-case) text; ok is false for any other key. Only the exact
// form counts, so that a caller's own keys are not taken for the SDK's.
func KeyTime(key string) (at time.Time, ok bool) {
	ms, ok := keyMilliseconds(key)
	if !ok {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(ms)).UTC(), true
}

// ParseJobID reads the canonical text of a job id. It refuses, with
// ErrMalformed, every other spelling (upper case, braces, no hyphens), other
// versions than 7 and 8, and other variants than RFC 9562's.
func ParseJobID(text string) (JobID, error) {
	id, ok := jobIDOf(text)
	if !ok {
		return JobID{}, fmt.Errorf("%w: job id is not a canonical UUID of version 7 or 8", ErrMalformed)
	}
	return id, nil
}

// String is the canonical text: 36 characters, lower case.
func (id JobID) String() string {
	var text [36]byte
	id.encode(&text)
	return string(text[:])
}

// Shard is the shard of the job's source, as it was when the job was named.
func (id JobID) Shard() int {
	return int(id[6]&0x0f)<<8 | int(id[7])
}

// Time is when the job (or its key) was named, in whole milliseconds; ok is
// false for an id that was made from a key without a time.
func (id JobID) Time() (at time.Time, ok bool) {
	if id.version() != versionTime {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(id[:8]) >> 16)).UTC(), true
}

// IsZero tells an unset id; no job has it.
func (id JobID) IsZero() bool { return id == JobID{} }

func (id JobID) version() int { return int(id[6] >> 4) }

func (id JobID) encode(text *[36]byte) {
	hex.Encode(text[0:8], id[0:4])
	text[8] = '-'
	hex.Encode(text[9:13], id[4:6])
	text[13] = '-'
	hex.Encode(text[14:18], id[6:8])
	text[18] = '-'
	hex.Encode(text[19:23], id[8:10])
	text[23] = '-'
	hex.Encode(text[24:36], id[10:16])
}

// layout puts the parts of an id in their places. front has 48 bits, rand 62.
func layout(front uint64, version, shard int, rand uint64) JobID {
	var id JobID
	high := front&ms48<<16 | uint64(version)<<12 | uint64(shard)&(MaxShards-1)
	binary.BigEndian.PutUint64(id[:8], high)
	binary.BigEndian.PutUint64(id[8:], 1<<63|rand&rand62)
	return id
}

// milliseconds clamps to what 48 bits hold (1970 to 10889), so that a broken
// clock cannot spill into the version.
func milliseconds(at time.Time) uint64 {
	return uint64(min(max(at.UnixMilli(), 0), ms48))
}

func jobIDOf[T string | []byte](text T) (JobID, bool) {
	id, ok := parseUUID(text)
	return id, ok && (id.version() == versionTime || id.version() == versionHashed)
}

func keyMilliseconds(key string) (uint64, bool) {
	id, ok := parseUUID(key)
	if !ok || id.version() != versionTime {
		return 0, false
	}
	return binary.BigEndian.Uint64(id[:8]) >> 16, true
}

// parseUUID reads canonical lower-case text of RFC 9562's variant, of any
// version.
func parseUUID[T string | []byte](text T) (id JobID, ok bool) {
	if len(text) != 36 {
		return JobID{}, false
	}
	n := 0
	for i := 0; i < len(text); {
		switch i {
		case 8, 13, 18, 23:
			if text[i] != '-' {
				return JobID{}, false
			}
			i++
			continue
		}
		high, low := hexDigit(text[i]), hexDigit(text[i+1])
		if high > 15 || low > 15 {
			return JobID{}, false
		}
		id[n] = high<<4 | low
		n++
		i += 2
	}
	return id, id[8]>>6 == 0b10
}

func hexDigit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

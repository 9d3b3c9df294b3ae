package controllog

import (
	"crypto/sha256"

	"github.com/spillway/spillway/pkg/envelope"
)

// Chain says how a record hangs on those before it. Every writer puts the hash of the last record that it had read into its own.
type Chain uint8

const (
	// ChainNext: its writer had read the record before it. Nothing is missing between them.
	ChainNext Chain = iota + 1
	// ChainConcurrent: its writer had read an earlier record; another writer came in between.
	ChainConcurrent
	// ChainBroken: no record of the last chainWindow is what its writer had read. One was removed, moved or edited, or the record is
	// not authentic itself.
	ChainBroken
)

// String names the link for logs.
func (c Chain) String() string {
	switch c {
	case ChainNext:
		return "next"
	case ChainConcurrent:
		return "concurrent"
	}
	return "broken"
}

// chainWindow is how many records back a writer may have been when it wrote. Writers follow the log by milliseconds; a thousand records are far more
// than others can write in between.
const chainWindow = 1024

// chain remembers the hashes of the last records, authentic or not: a writer has read them all.
type chain struct {
	ring [chainWindow][sha256.Size]byte
	n    int // records ever pushed
}

func (c *chain) push(value [sha256.Size]byte) {
	c.ring[c.n%chainWindow] = value
	c.n++
}

// empty is what the writer of the first record has read.
var empty = sha256.Sum256(nil)

func (c *chain) link(prev [sha256.Size]byte) Chain {
	if c.n == 0 {
		if prev == empty {
			return ChainNext
		}
		return ChainBroken
	}
	for back := 1; back <= min(c.n, chainWindow); back++ {
		if c.ring[(c.n-back)%chainWindow] == prev {
			if back == 1 {
				return ChainNext
			}
			return ChainConcurrent
		}
	}
	if c.n < chainWindow && prev == empty { // two writers began the log
		return ChainConcurrent
	}
	return ChainBroken
}

// Seal returns the headers of a control record: version, the hash of the value of the record that its writer has read last (nil: the
// log was empty) and the MAC over both and the topic.
func Seal(topic string, key, value, last []byte) []envelope.Header {
	prev := envelope.Prev(last)
	return seal(topic, key, value, prev)
}

func seal(topic string, key, value, prev []byte) []envelope.Header {
	return []envelope.Header{
		envelope.VersionHeader(),
		{Key: envelope.HeaderPrev, Value: prev},
		{Key: envelope.HeaderMAC, Value: envelope.MAC(key, topic, value, prev)},
	}
}

package core

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	cursorVersion = 1
	// maxCluster bounds the cluster id of a cursor in bytes; ours have 36.
	maxCluster = 64
	// maxPartitions bounds what a decoder makes room for; a cursor of so many would not fit into a message of a client.
	maxPartitions = 4096
)

// ErrCursor means that the bytes are no cursor of this release.
var ErrCursor = errors.New("not a cursor")

// Cursor is where a session stands in the whole log, so that it also covers channels that are subscribed to later. Encoded it has at most 1 KiB
// with 24 partitions. Nothing in it proves where it comes from: deliver adds that.
type Cursor struct {
	// Cluster is the id of the installation, 1 to 64 bytes.
	Cluster string
	// Offsets holds for every partition the offset of the first record that the client was not given. Never negative.
	Offsets []int64
}

// Append encodes the cursor: version, cluster, number of partitions, offsets.
func (c Cursor) Append(b []byte) []byte {
	b = append(b, cursorVersion, byte(len(c.Cluster)))
	b = append(b, c.Cluster...)
	b = binary.AppendUvarint(b, uint64(len(c.Offsets)))
	for _, o := range c.Offsets {
		b = binary.AppendUvarint(b, uint64(o))
	}
	return b
}

// ParseCursor decodes what Append made, and nothing else: every cursor has one encoding. Errors wrap ErrCursor.
func ParseCursor(b []byte) (Cursor, error) {
	if len(b) < 2 || b[0] != cursorVersion {
		return Cursor{}, fmt.Errorf("%w: version", ErrCursor)
	}
	n := int(b[1])
	if b = b[2:]; n == 0 || n > maxCluster || n > len(b) {
		return Cursor{}, fmt.Errorf("%w: cluster", ErrCursor)
	}
	c := Cursor{Cluster: string(b[:n])}
	count, b, ok := cutUvarint(b[n:])
	if !ok || count == 0 || count > maxPartitions || count > uint64(len(b)) { // every offset has a byte at least
		return Cursor{}, fmt.Errorf("%w: partitions", ErrCursor)
	}
	c.Offsets = make([]int64, count)
	for i := range c.Offsets {
		var offset uint64
		if offset, b, ok = cutUvarint(b); !ok || offset > 1<<62 {
			return Cursor{}, fmt.Errorf("%w: offset %d", ErrCursor, i)
		}
		c.Offsets[i] = int64(offset)
	}
	if len(b) > 0 {
		return Cursor{}, fmt.Errorf("%w: %d bytes more", ErrCursor, len(b))
	}
	return c, nil
}

// cutUvarint takes one number in its shortest form.
func cutUvarint(b []byte) (uint64, []byte, bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

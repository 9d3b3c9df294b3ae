package offsets

import (
	"fmt"
	"strconv"
	"strings"
)

// Counts is the ledger's running account of a shard: how many distinct jobs below the committed offset of outcomes have each outcome, and which
// fence was the last one below it. It travels as Metadata.Counts of the commit in outcomes:
//
//	<succeeded>,<dead>,<expired>,<purged>,<cancelled>,<superseded>,<fence>
//
// The first six are fixed from the first release. The fence came later: a text without it says 0. Whatever follows is a later release's.
type Counts struct {
	Succeeded, Dead, Expired, Purged, Cancelled, Superseded int64
	// Fence is the offset of the last fence below the committed offset: whoever reads on from there judges terminal events by it, until the
	// next fence is met. 0: none is known, and no event is older than that.
	Fence int64
}

// leastCounts is how many numbers a text has at least: one for each outcome.
const leastCounts = 6

// String is the form in Metadata.Counts.
func (c Counts) String() string {
	return fmt.Sprintf("%d,%d,%d,%d,%d,%d,%d", c.Succeeded, c.Dead, c.Expired, c.Purged, c.Cancelled, c.Superseded, c.Fence)
}

// Add adds up the outcomes of two accounts. Fence stays.
func (c *Counts) Add(d Counts) {
	c.Succeeded += d.Succeeded
	c.Dead += d.Dead
	c.Expired += d.Expired
	c.Purged += d.Purged
	c.Cancelled += d.Cancelled
	c.Superseded += d.Superseded
}

// ParseCounts reads what String wrote, or what a later release wrote with more numbers behind. The empty text is a shard that has settled nothing.
// Everything else is ErrMetadata.
func ParseCounts(text string) (c Counts, err error) {
	if text == "" {
		return Counts{}, nil
	}
	parts := strings.Split(text, ",")
	if len(parts) < leastCounts {
		return Counts{}, fmt.Errorf("%w: not the counts of a ledger: %.100q", ErrMetadata, text)
	}
	for i, to := range []*int64{&c.Succeeded, &c.Dead, &c.Expired, &c.Purged, &c.Cancelled, &c.Superseded, &c.Fence} {
		if i == len(parts) {
			break
		}
		if *to, err = strconv.ParseInt(parts[i], 10, 64); err != nil || *to < 0 {
			return Counts{}, fmt.Errorf("%w: not the counts of a ledger: %.100q", ErrMetadata, text)
		}
	}
	return c, nil
}

package core

import "time"

// Recall remembers, within a bound, which payload was seen under an idempotency key, to refuse another payload under it. It may forget: then
// the owner of the shard notices and settles the later job superseded (reliability H19).
//
// Two generations of at most half the entries each: lookups see both, a full young one replaces the old one. So forgetting is by age, costs
// nothing, and an entry is kept for at least limit/2 later ones. What could not be sent is not taken back: its caller was told that it may
// have happened, and keeps the payload for its next try.
type Recall struct {
	limit      int
	young, old map[[16]byte]memory
}

type memory struct {
	digest [16]byte
	until  int64
}

// recallEntryBytes is what one remembered key costs: 40 bytes of key and value, doubled for the map's slack.
const recallEntryBytes = 80

// NewRecall returns an empty Recall of at most the given bytes.
func NewRecall(bytes int64) *Recall {
	return &Recall{limit: max(int(bytes/recallEntryBytes), 2), young: map[[16]byte]memory{}}
}

// conflicts says whether another payload is remembered for id at now.
func (r *Recall) conflicts(id, digest [16]byte, now int64) bool {
	m, ok := r.young[id]
	if !ok {
		m, ok = r.old[id]
	}
	return ok && m.until > now && m.digest != digest
}

// remember keeps the payload of id for the window.
func (r *Recall) remember(id, digest [16]byte, now int64, window time.Duration) {
	if len(r.young) >= r.limit/2 {
		r.old, r.young = r.young, make(map[[16]byte]memory, r.limit/2)
	}
	r.young[id] = memory{digest: digest, until: now + int64(window)}
}

// Len is how many keys are remembered.
func (r *Recall) Len() int { return len(r.young) + len(r.old) }

package deliver

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"

	"github.com/spillway/spillway/services/notifier/internal/core"
)

// macSize is how much of HMAC-SHA-256 a cursor carries: 128 bits, because it is read by the one who would forge it and by nobody later.
const macSize = 16

// sealed is a cursor as clients get it: body and MAC in base64url. It is bound to the user, and to the tenant with it.
func (r *Room) sealed(user string, offsets []int64) string {
	body := core.Cursor{Cluster: r.ports.Cluster(), Offsets: offsets}.Append(make([]byte, 0, 512))
	return base64.RawURLEncoding.EncodeToString(append(body, r.mac(user, body)...))
}

// opened returns the offsets of a cursor, or false unless it is of this user, cluster and number of partitions, and whole.
func (r *Room) opened(user, cursor string) ([]int64, bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil || len(b) < macSize {
		return nil, false
	}
	body, mac := b[:len(b)-macSize], b[len(b)-macSize:]
	if !hmac.Equal(mac, r.mac(user, body)) {
		return nil, false
	}
	c, err := core.ParseCursor(body)
	if err != nil || c.Cluster != r.ports.Cluster() || len(c.Offsets) != len(r.partitions) {
		return nil, false
	}
	return c.Offsets, true
}

// mac is over the name of what is sealed, the user's channel and the body. The channel holds user and tenant escaped, so no two users share it and
// no zero byte is in it.
func (r *Room) mac(user string, body []byte) []byte {
	h := hmac.New(sha256.New, r.ports.CursorKey)
	h.Write([]byte("cursor\x00" + user + "\x00"))
	h.Write(body)
	return h.Sum(nil)[:macSize]
}

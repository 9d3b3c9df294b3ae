package history

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"
)

// payload tells a worker what a job is and what to do for it.
type payload struct {
	Key   string        `json:"key"`
	Work  time.Duration `json:"work"`            // how long the handler takes
	Fails int           `json:"fails,omitempty"` // how many attempts fail first
	Pad   string        `json:"pad,omitempty"`
}

func (p payload) encode(size int) []byte {
	b, _ := json.Marshal(p) // cannot fail
	if n := size - len(b) - len(`,"pad":""`); n > 0 {
		p.Pad = strings.Repeat("x", n)
		b, _ = json.Marshal(p)
	}
	return b
}

func sum(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:8])
}

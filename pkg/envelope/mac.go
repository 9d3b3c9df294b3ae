package envelope

import (
	"crypto/hmac"
	"crypto/sha256"
)

// MACSize is the length in bytes of a MAC and of Prev.
const MACSize = sha256.Size

// MAC proves that a record of control or outcomes was written by a holder of
// the installation key: HMAC-SHA-256(key; topic ‖ 0x00 ‖ value ‖ prev). prev
// is the record's HeaderPrev, or nil where the topic has none. It goes into
// HeaderMAC.
//
// value and prev are not separated, so a topic must either always carry a
// prev of MACSize bytes (control) or never (outcomes); readers insist on it,
// otherwise the end of a value could be passed off as a prev.
func MAC(key []byte, topic string, value, prev []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(topic))
	h.Write([]byte{0})
	h.Write(value)
	h.Write(prev)
	return h.Sum(nil)
}

// VerifyMAC checks a record's MAC in constant time. It is false for an empty
// key, for a prev that is neither absent nor MACSize bytes, and for a MAC of
// the wrong length.
func VerifyMAC(key []byte, topic string, value, prev, mac []byte) bool {
	if len(key) == 0 || (len(prev) != 0 && len(prev) != MACSize) {
		return false
	}
	return hmac.Equal(MAC(key, topic, value, prev), mac)
}

// Prev names the record that a writer of the control log had read before its
// own: the SHA-256 of that record's value. It goes into HeaderPrev; a reader
// that compares it finds removed, reordered and edited records.
func Prev(value []byte) []byte {
	sum := sha256.Sum256(value)
	return sum[:]
}

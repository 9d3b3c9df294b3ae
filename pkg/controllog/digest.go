package controllog

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/fnv"

	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// digest names one live entry: its kind, what it is about, at which revision it was made and registered, and the bytes of the command
// that made it.
func digest(kind byte, about string, revision, created int64, value [sha256.Size]byte) [sha256.Size]byte {
	var buf [1 + 8 + 8 + sha256.Size + 2*maxTenant]byte // about is at most a name, a zero and a tenant
	b := append(buf[:0], kind)
	b = binary.BigEndian.AppendUint64(b, uint64(revision))
	b = binary.BigEndian.AppendUint64(b, uint64(created))
	b = append(b, value[:]...)
	b = append(b, about...)
	return sha256.Sum256(b)
}

// text is the scope as part of a digest; no two scopes share one.
func (s scope) text() string {
	return string([]byte{'0' + byte(s.kind)}) + s.source + "\x00" + s.tenant
}

// about tells apart what two commands with the same request id are about: their act and its subject. Times and texts do not count,
// because a retry may word them anew.
func about(c *logv1.Command) uint64 {
	h := fnv.New64a()
	write := func(kind byte, subject string) { h.Write([]byte{kind}); h.Write([]byte(subject)) }
	switch act := c.GetAct().(type) {
	case *logv1.Command_PutSource:
		write(1, act.PutSource.GetSource().GetName())
	case *logv1.Command_DeleteSource:
		write(2, act.DeleteSource.GetName())
	case *logv1.Command_SetSwitch:
		key, _ := scopeOf(act.SetSwitch.GetSwitch().GetScope())
		write(3, key.text())
		h.Write([]byte{byte(act.SetSwitch.GetSwitch().GetVerb())})
	case *logv1.Command_ClearSwitch:
		key, _ := scopeOf(act.ClearSwitch.GetScope())
		write(4, key.text())
	case *logv1.Command_Observed:
		key, _ := scopeOf(act.Observed.GetScope())
		write(5, key.text())
	}
	return h.Sum64()
}

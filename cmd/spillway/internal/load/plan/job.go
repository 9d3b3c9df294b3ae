package plan

import (
	"encoding/binary"
	"errors"
	"strconv"
	"time"
)

// Instruction is what a job tells its handler. It is the beginning of the
// payload.
type Instruction struct {
	// Seed names the run, so that a worker leaves the jobs of earlier runs out
	// of its account.
	Seed uint64
	// Flow and Seq name the job within the run.
	Flow, Seq uint32
	// Work is how long the handler takes.
	Work time.Duration
}

// InstructionBytes is the length of an encoded Instruction, and with it the
// smallest payload.
const InstructionBytes = 32

var magic = [8]byte{'s', 'p', 'w', 'l', 'o', 'a', 'd', '1'}

// ErrForeign is returned for a payload that no load generator wrote.
var ErrForeign = errors.New("not a payload of the load generator")

// Instruction is what job k of flow i asks for.
func (r Run) Instruction(i, k int) Instruction {
	f := r.Flows[i]
	in := Instruction{Seed: r.Seed, Flow: uint32(i), Seq: uint32(k), Work: f.Work}
	// A hash instead of every n-th job, because every n-th may always fall on
	// the same tenant.
	if f.HangShare > 0 && float64(r.random(i, k, 0)>>11)/(1<<53) < f.HangShare {
		in.Work = f.HangFor
	}
	return in
}

// Payload is the payload of job k of flow i: the instruction and as many
// incompressible bytes as the flow asks for.
func (r Run) Payload(i, k int) []byte {
	in := r.Instruction(i, k)
	b := make([]byte, 0, r.Flows[i].Payload+8)
	b = append(b, magic[:]...)
	b = binary.BigEndian.AppendUint64(b, in.Seed)
	b = binary.BigEndian.AppendUint32(b, in.Flow)
	b = binary.BigEndian.AppendUint32(b, in.Seq)
	b = binary.BigEndian.AppendUint64(b, uint64(in.Work))
	for n := uint64(2); len(b) < r.Flows[i].Payload; n++ {
		b = binary.BigEndian.AppendUint64(b, r.random(i, k, n))
	}
	return b[:r.Flows[i].Payload]
}

// ParsePayload reads the instruction back.
func ParsePayload(b []byte) (Instruction, error) {
	if len(b) < InstructionBytes || [8]byte(b[:8]) != magic {
		return Instruction{}, ErrForeign
	}
	in := Instruction{
		Seed: binary.BigEndian.Uint64(b[8:]),
		Flow: binary.BigEndian.Uint32(b[16:]),
		Seq:  binary.BigEndian.Uint32(b[20:]),
		Work: time.Duration(binary.BigEndian.Uint64(b[24:])),
	}
	if in.Work < 0 || in.Work > MaxWork {
		return Instruction{}, ErrForeign
	}
	return in, nil
}

// Tenant is the tenant of job k of flow i.
func (r Run) Tenant(i, k int) string {
	return "t" + strconv.Itoa(r.Flows[i].FirstTenant+k%r.Flows[i].Tenants+1)
}

// KeyBytes is the random part of the idempotency key of job k of flow i.
func (r Run) KeyBytes(i, k int) [10]byte {
	var b [10]byte
	binary.BigEndian.PutUint64(b[:], r.random(i, k, 0))
	binary.BigEndian.PutUint16(b[8:], uint16(r.random(i, k, 1)))
	return b
}

// random is the n-th random word of a job (splitmix64 over its name).
func (r Run) random(i, k int, n uint64) uint64 {
	x := mix(r.Seed + uint64(i)*0x9e3779b97f4a7c15)
	x = mix(x + uint64(k)*0x9e3779b97f4a7c15)
	return mix(x + n*0x9e3779b97f4a7c15)
}

func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

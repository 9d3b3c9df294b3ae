package controllog

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/spillway/spillway/pkg/envelope"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

// Bounds of the state. They are part of the fold: every reader refuses the same command at the same place, so changing one is a new
// format.
const (
	// MaxSources bounds the registered sources: twice what the product is tried with.
	MaxSources = 20_000
	// MaxSwitches bounds the scopes that have a switch. Operators throw tens, protection hundreds.
	MaxSwitches = 10_000
	// MaxStateBytes bounds the commands that made the live entries. In memory they take about four times that, which fits beside
	// everything else into automation's 100 MiB.
	MaxStateBytes = 16 << 20
	// MaxCommandBytes bounds one command: a source with 1,000 tenants' overrides takes about 150 KiB.
	MaxCommandBytes = 256 << 10
	// RequestWindow is how many accepted request ids are remembered. A retry that comes later than that many other changes acts again.
	RequestWindow = 16_384
	// MaxRequestID bounds a request id, in bytes.
	MaxRequestID = 128
	// Format is the only format of commands so far.
	Format = 1
	// maxTypes is the contract's bound of types a source.
	maxTypes = 8
	// AnyRevision as the expected revision of a command means: whatever is there.
	AnyRevision = -1
	// NoRevision as the expected revision means: it must not exist.
	NoRevision = 0
)

// Record is one record of the control log as the broker returned it. The fold keeps no reference to it.
type Record struct {
	// Offset is the record's place in the log, hence its sequence.
	Offset int64
	// Value is the encoded command.
	Value []byte
	// Headers hold version, MAC and the hash of the record before.
	Headers []envelope.Header
}

// Verdict is what the fold made of a record.
type Verdict struct {
	// Sequence is the record's.
	Sequence int64
	// Refusal is nil when the command was accepted.
	Refusal *Refusal
	// Chain is how the record hangs on those before it.
	Chain Chain
}

// Fold is the deterministic reader. It is not safe for concurrent use; the states that it returns are.
type Fold struct {
	topic string
	key   []byte
	cur   State
	// shared: cur's maps and slices are those of a state that was given away, and must be cloned before a change.
	shared bool
	given  *State // the state given away at cur.sequence; nil when the fold has moved on
	stop   *StopError
	chain  chain

	// requests and ring are the accepted request ids of the last RequestWindow that had one; ring[at] is the next to forget.
	requests map[string]request
	ring     []string
	at       int
}

// request is an accepted request id.
type request struct {
	sequence int64
	about    uint64 // of the command's kind and subject, see about
}

// NewFold returns a fold that has read nothing. topic is the full name of the control log and key the installation's MAC key: both are
// part of every record's MAC.
func NewFold(topic string, key []byte) *Fold {
	return &Fold{
		topic:    topic,
		key:      slices.Clone(key),
		cur:      State{sequence: -1, tail: empty, sources: map[string]*source{}, switches: map[scope]*thrown{}},
		requests: map[string]request{},
	}
}

// State returns the state after the last record. It is cheap when nothing was folded since the last call, else the next change clones
// the maps: take it once a batch, not once a record.
func (f *Fold) State() *State {
	if f.given == nil {
		given := f.cur
		f.given, f.shared = &given, true
	}
	return f.given
}

// Request finds the accepted command with a request id.
func (f *Fold) Request(id string) (sequence int64, ok bool) {
	r, ok := f.requests[id]
	return r.sequence, ok
}

// Apply folds the next record. An error is a *StopError and final: the fold stays at the record before.
func (f *Fold) Apply(r Record) (Verdict, error) {
	if f.stop != nil {
		return Verdict{}, f.stop
	}
	if r.Offset <= f.cur.sequence {
		return Verdict{}, f.halt(r.Offset, fmt.Sprintf("read after record %d", f.cur.sequence))
	}
	value := sha256.Sum256(r.Value)
	prev, _ := envelope.Get(r.Headers, envelope.HeaderPrev)
	mac, _ := envelope.Get(r.Headers, envelope.HeaderMAC)
	// A prev is insisted on: value and prev are not separated in the MAC.
	authentic := len(prev) == sha256.Size && envelope.VerifyMAC(f.key, f.topic, r.Value, prev, mac)

	v := Verdict{Sequence: r.Offset, Chain: ChainBroken}
	if authentic {
		v.Chain = f.chain.link([sha256.Size]byte(prev))
		refusal, stop := f.command(r, value)
		if stop != "" {
			return Verdict{}, f.halt(r.Offset, stop)
		}
		v.Refusal = refusal
	} else {
		v.Refusal = &Refusal{Err: ErrForged}
	}
	if v.Refusal != nil {
		v.Refusal.Sequence = r.Offset
	}
	f.chain.push(value)
	f.cur.sequence, f.cur.tail, f.given = r.Offset, value, nil
	return v, nil
}

func (f *Fold) halt(sequence int64, reason string) error {
	f.stop = &StopError{Sequence: sequence, Reason: reason}
	return f.stop
}

// command judges an authentic record. stop is not empty when this version cannot know what the writer meant.
func (f *Fold) command(r Record, value [sha256.Size]byte) (refusal *Refusal, stop string) {
	if err := envelope.CheckVersion(r.Headers); err != nil {
		return nil, err.Error()
	}
	if len(r.Value) > MaxCommandBytes {
		return &Refusal{Err: ErrFull, Detail: "command is too large"}, ""
	}
	c := &logv1.Command{}
	if err := proto.Unmarshal(r.Value, c); err != nil {
		return nil, "cannot be decoded: " + err.Error()
	}
	if c.GetFormat() != Format {
		return nil, "unknown format " + strconv.Itoa(int(c.GetFormat()))
	}
	if f.cur.config == nil {
		if c.GetClusterConfig() == nil {
			return nil, "the log does not begin with its ClusterConfig"
		}
		return f.begin(c.GetClusterConfig())
	}
	if len(c.GetRequestId()) > MaxRequestID {
		return &Refusal{Err: ErrInvalid, Detail: "request_id is too long"}, ""
	}
	if c.GetExpectedRevision() < AnyRevision {
		return &Refusal{Err: ErrInvalid, Detail: "expected_revision is below -1"}, ""
	}
	if c.GetRequestId() != "" {
		if earlier, ok := f.requests[c.GetRequestId()]; ok {
			if earlier.about != about(c) {
				return &Refusal{Err: ErrConflict, Current: earlier.sequence}, ""
			}
			return &Refusal{Err: ErrRepeated, Current: earlier.sequence}, ""
		}
	}
	refusal, stop = f.act(c, r, value)
	if refusal == nil && stop == "" && c.GetRequestId() != "" {
		f.remember(c, r.Offset)
	}
	return refusal, stop
}

// begin takes the first command.
func (f *Fold) begin(config *logv1.ClusterConfig) (*Refusal, string) {
	if config.GetFormatVersion() != Format {
		return nil, "unknown format version " + strconv.Itoa(int(config.GetFormatVersion()))
	}
	if config.GetClusterId() == "" || config.GetShards() < 1 || config.GetLanes() < 1 {
		return nil, "the ClusterConfig is incomplete"
	}
	f.cur.config = config
	return nil, ""
}

func (f *Fold) act(c *logv1.Command, r Record, value [sha256.Size]byte) (*Refusal, string) {
	e := entry{command: c, sequence: r.Offset, value: value, size: int64(len(r.Value))}
	switch act := c.GetAct().(type) {
	case *logv1.Command_PutSource:
		return f.putSource(e, act.PutSource.GetSource()), ""
	case *logv1.Command_DeleteSource:
		return f.deleteSource(e, act.DeleteSource.GetName()), ""
	case *logv1.Command_SetSwitch:
		if verb := act.SetSwitch.GetSwitch().GetVerb(); verb > automationv1.Verb_VERB_RESUME || verb < 0 {
			return nil, fmt.Sprintf("unknown verb %d", verb)
		}
		if act.SetSwitch.GetCancelRunning() {
			return nil, "cancel_running is not known to this version"
		}
		return f.setSwitch(e, act.SetSwitch.GetSwitch()), ""
	case *logv1.Command_ClearSwitch:
		return f.clearSwitch(e, act.ClearSwitch), ""
	case *logv1.Command_Observed:
		return nil, ""
	case *logv1.Command_ClusterConfig:
		return &Refusal{Err: ErrStaleRevision, Detail: "the cluster is configured"}, ""
	case nil:
		if len(c.ProtoReflect().GetUnknown()) == 0 {
			return &Refusal{Err: ErrInvalid, Detail: "no act"}, ""
		}
	}
	return nil, "unknown act"
}

// own makes cur's maps and slices the fold's alone.
func (f *Fold) own() {
	if !f.shared {
		return
	}
	f.cur.sources, f.cur.switches = maps.Clone(f.cur.sources), maps.Clone(f.cur.switches)
	f.cur.names, f.cur.order = slices.Clone(f.cur.names), slices.Clone(f.cur.order)
	f.shared = false
}

// flip adds an entry to the hash or takes it out.
func (f *Fold) flip(digest [sha256.Size]byte) {
	for i := range digest {
		f.cur.hash[i] ^= digest[i]
	}
}

// remember keeps an accepted request id and forgets the oldest beyond the window.
func (f *Fold) remember(c *logv1.Command, sequence int64) {
	id := strings.Clone(c.GetRequestId())
	if len(f.ring) < RequestWindow {
		f.ring = append(f.ring, id)
	} else {
		delete(f.requests, f.ring[f.at])
		f.ring[f.at] = id
		f.at = (f.at + 1) % RequestWindow
	}
	f.requests[id] = request{sequence: sequence, about: about(c)}
}

package controllog

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/spillway/spillway/pkg/envelope"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

const topic = "spillway.control"

var key = []byte("0123456789abcdef0123456789abcdef")

// book writes a log in memory as one honest writer would.
type book struct {
	records []Record
	last    []byte
}

func newBook() *book {
	b := &book{}
	b.add(&logv1.Command{Act: &logv1.Command_ClusterConfig{ClusterConfig: &logv1.ClusterConfig{
		ClusterId: "c", FormatVersion: 1, Shards: 8, Lanes: 16, Prefix: "spillway.",
	}}})
	return b
}

// add appends a command and returns its sequence.
func (b *book) add(c *logv1.Command) int64 {
	if c.Format == 0 {
		c.Format = Format
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		panic(err)
	}
	return b.raw(value, Seal(topic, key, value, b.last)...)
}

func (b *book) raw(value []byte, headers ...envelope.Header) int64 {
	r := Record{Offset: int64(len(b.records)), Value: value, Headers: headers}
	b.records = append(b.records, r)
	b.last = value
	return r.Offset
}

func put(name string, expected int64, types ...string) *logv1.Command {
	if types == nil {
		types = []string{"t"}
	}
	return &logv1.Command{
		ExpectedRevision: expected, At: timestamppb.New(time.Unix(1_700_000_000, 0)),
		Act: &logv1.Command_PutSource{PutSource: &logv1.PutSource{Source: &automationv1.Source{Name: name, Types: types}}},
	}
}

func remove(name string, expected int64) *logv1.Command {
	return &logv1.Command{ExpectedRevision: expected, Act: &logv1.Command_DeleteSource{DeleteSource: &logv1.DeleteSource{Name: name}}}
}

func onSource(name string) *automationv1.Scope {
	return &automationv1.Scope{Scope: &automationv1.Scope_Source{Source: name}}
}

func onTenant(name string) *automationv1.Scope {
	return &automationv1.Scope{Scope: &automationv1.Scope_Tenant{Tenant: name}}
}

func onFlow(source, tenant string) *automationv1.Scope {
	return &automationv1.Scope{Scope: &automationv1.Scope_Flow{Flow: &automationv1.Flow{Source: source, Tenant: tenant}}}
}

func throw(on *automationv1.Scope, verb automationv1.Verb, until time.Time) *logv1.Command {
	sw := &automationv1.Switch{Scope: on, Verb: verb, Reason: "r"}
	if verb == automationv1.Verb_VERB_DEMOTE {
		sw.To = jobv1.Priority_PRIORITY_LOW
	}
	if !until.IsZero() {
		sw.Until = timestamppb.New(until)
	}
	return &logv1.Command{ExpectedRevision: AnyRevision, Act: &logv1.Command_SetSwitch{SetSwitch: &logv1.SetSwitch{Switch: sw}}}
}

func lift(on *automationv1.Scope, ramp float64) *logv1.Command {
	return &logv1.Command{ExpectedRevision: AnyRevision, Act: &logv1.Command_ClearSwitch{ClearSwitch: &logv1.ClearSwitch{Scope: on, RampRate: ramp}}}
}

func requested(id string, c *logv1.Command) *logv1.Command {
	c.RequestId = id
	return c
}

// fold applies all records and returns their verdicts.
func (b *book) fold(t testing.TB) (*Fold, []Verdict) {
	t.Helper()
	f := NewFold(topic, key)
	var verdicts []Verdict
	for _, r := range b.records {
		v, err := f.Apply(r)
		if err != nil {
			t.Fatalf("record %d: %v", r.Offset, err)
		}
		verdicts = append(verdicts, v)
	}
	return f, verdicts
}

func TestFoldVerdicts(t *testing.T) {
	hold := automationv1.Verb_VERB_HOLD
	cases := []struct {
		name  string
		setup []*logv1.Command // sequences 1, 2, …
		last  *logv1.Command
		want  error
		now   int64 // Refusal.Current
	}{
		{"register", nil, put("a", NoRevision), nil, 0},
		{"register what exists", []*logv1.Command{put("a", NoRevision)}, put("a", NoRevision), ErrStaleRevision, 1},
		{"update", []*logv1.Command{put("a", NoRevision)}, put("a", 1), nil, 0},
		{"update an old revision", []*logv1.Command{put("a", NoRevision), put("a", 1)}, put("a", 1), ErrStaleRevision, 2},
		{"update what is gone", []*logv1.Command{put("a", NoRevision), remove("a", 1)}, put("a", 1), ErrStaleRevision, 0},
		{"update anything", []*logv1.Command{put("a", NoRevision)}, put("a", AnyRevision), nil, 0},
		{"delete", []*logv1.Command{put("a", NoRevision)}, remove("a", 1), nil, 0},
		{"delete an old revision", []*logv1.Command{put("a", NoRevision), put("a", 1)}, remove("a", 1), ErrStaleRevision, 2},
		{"delete nothing", nil, remove("a", AnyRevision), ErrUnknownSource, 0},
		{"no name", nil, put("", NoRevision), ErrInvalid, 0},
		{"wildcard name", nil, put("*", NoRevision), ErrInvalid, 0},
		{"path name", nil, put("../a", NoRevision), ErrInvalid, 0},
		{"look-alike name", nil, put("crm-аutotag", NoRevision), ErrInvalid, 0}, // the a is Cyrillic
		{"too many types", nil, put("a", NoRevision, "1", "2", "3", "4", "5", "6", "7", "8", "9"), ErrInvalid, 0},
		{"bad type", nil, put("a", NoRevision, "T"), ErrInvalid, 0},
		{"expectation below -1", nil, put("a", -2), ErrInvalid, 0},
		{"hold", []*logv1.Command{put("a", NoRevision)}, throw(onSource("a"), hold, time.Time{}), nil, 0},
		{"hold an unknown source", nil, throw(onSource("a"), hold, time.Time{}), ErrUnknownSource, 0},
		{"hold an unknown source's flow", nil, throw(onFlow("a", "t"), hold, time.Time{}), ErrUnknownSource, 0},
		{"hold a tenant", nil, throw(onTenant("t"), hold, time.Time{}), nil, 0},
		{"hold no tenant", nil, throw(onTenant(""), hold, time.Time{}), ErrInvalid, 0},
		{"hold nothing", nil, throw(nil, hold, time.Time{}), ErrInvalid, 0},
		{"hold everything", nil, throw(onSource("*"), hold, time.Time{}), ErrInvalid, 0},
		{"switch without verb", nil, throw(onTenant("t"), automationv1.Verb_VERB_UNSPECIFIED, time.Time{}), ErrInvalid, 0},
		{"resume as a switch", nil, throw(onTenant("t"), automationv1.Verb_VERB_RESUME, time.Time{}), ErrInvalid, 0},
		{"hold again", []*logv1.Command{throw(onTenant("t"), hold, time.Time{})}, throw(onTenant("t"), hold, time.Time{}), nil, 0},
		{"resume what runs", nil, lift(onTenant("t"), 0), nil, 0},
		{"resume", []*logv1.Command{throw(onTenant("t"), hold, time.Time{})}, lift(onTenant("t"), 0), nil, 0},
		{"resume at a ramp", []*logv1.Command{throw(onTenant("t"), hold, time.Time{})}, lift(onTenant("t"), 5), nil, 0},
		{"resume at no rate", nil, lift(onTenant("t"), math.NaN()), ErrInvalid, 0},
		{"resume backwards", nil, lift(onTenant("t"), -1), ErrInvalid, 0},
		{"the same request", []*logv1.Command{requested("x", put("a", NoRevision))}, requested("x", put("a", NoRevision)), ErrRepeated, 1},
		{"the same request for something else", []*logv1.Command{requested("x", put("a", NoRevision))}, requested("x", put("b", NoRevision)), ErrConflict, 1},
		{"a refused request again", []*logv1.Command{requested("x", put("a", 5))}, requested("x", put("a", NoRevision)), nil, 0},
		{"a request id too long", nil, requested(strings.Repeat("x", MaxRequestID+1), put("a", NoRevision)), ErrInvalid, 0},
		{"no act", nil, &logv1.Command{}, ErrInvalid, 0},
		{"another ClusterConfig", nil, &logv1.Command{Act: &logv1.Command_ClusterConfig{ClusterConfig: &logv1.ClusterConfig{ClusterId: "d", FormatVersion: 1, Shards: 1, Lanes: 2}}}, ErrStaleRevision, 0},
		{"a note", nil, &logv1.Command{Act: &logv1.Command_Observed{Observed: &logv1.Observed{What: "expired"}}}, nil, 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBook()
			for _, s := range c.setup {
				b.add(proto.CloneOf(s))
			}
			before, _ := b.fold(t)
			sequence := b.add(proto.CloneOf(c.last))
			f, verdicts := b.fold(t)
			v := verdicts[sequence]
			if v.Sequence != sequence || f.State().Sequence() != sequence {
				t.Errorf("verdict on %d, state at %d, want %d", v.Sequence, f.State().Sequence(), sequence)
			}
			if c.want == nil {
				if v.Refusal != nil {
					t.Errorf("refused: %v", v.Refusal)
				}
				return
			}
			if v.Refusal == nil || !errors.Is(v.Refusal, c.want) || v.Refusal.Current != c.now {
				t.Errorf("got %v, want %v at %d", v.Refusal, c.want, c.now)
			}
			if !bytes.Equal(before.State().Hash(), f.State().Hash()) {
				t.Error("a refused command changed the state")
			}
		})
	}
}

// TestFoldStops: a record that this version cannot obey ends the fold at the record before, whoever asks and however often.
func TestFoldStops(t *testing.T) {
	version2 := func(b *book) {
		value, _ := proto.Marshal(&logv1.Command{Format: Format})
		headers := Seal(topic, key, value, b.last)
		headers[0].Value = []byte("2")
		b.raw(value, headers...)
	}
	garbage := func(b *book) { b.raw([]byte{0xff}, Seal(topic, key, []byte{0xff}, b.last)...) }
	command := func(c *logv1.Command) func(*book) { return func(b *book) { b.add(c) } }
	unknownAct := &logv1.Command{}
	unknownAct.ProtoReflect().SetUnknown([]byte{0xfa, 0x07, 0x00}) // field 127, empty
	unknownVerb := throw(onTenant("t"), automationv1.Verb(99), time.Time{})
	cancelling := throw(onTenant("t"), automationv1.Verb_VERB_HOLD, time.Time{})
	cancelling.GetSetSwitch().CancelRunning = true
	for name, spoil := range map[string]func(*book){
		"record version": version2, "undecodable": garbage, "format": command(&logv1.Command{Format: 2}), "act": command(unknownAct),
		"verb": command(unknownVerb), "purge": command(&logv1.Command{Act: &logv1.Command_Purge{Purge: &logv1.Purge{Id: "p"}}}),
		"cancelling": command(cancelling),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook()
			b.add(put("a", NoRevision))
			good, _ := b.fold(t)
			spoil(b)
			b.add(put("b", NoRevision))
			f := NewFold(topic, key)
			var stop *StopError
			for _, r := range b.records {
				if _, err := f.Apply(r); err != nil && !errors.As(err, &stop) {
					t.Fatalf("got %v", err)
				}
			}
			if stop == nil || stop.Sequence != 2 {
				t.Fatalf("got %v", stop)
			}
			if f.State().Sequence() != 1 || !bytes.Equal(f.State().Hash(), good.State().Hash()) {
				t.Errorf("state at %d", f.State().Sequence())
			}
		})
	}
	t.Run("another beginning", func(t *testing.T) {
		b := &book{}
		b.add(put("a", NoRevision))
		if _, err := NewFold(topic, key).Apply(b.records[0]); err == nil {
			t.Error("folded")
		}
	})
	t.Run("backwards", func(t *testing.T) {
		f, _ := newBook().fold(t)
		if _, err := f.Apply(newBook().records[0]); err == nil {
			t.Error("folded twice")
		}
	})
}

// TestFoldForged: who does not have the key changes nothing and stops nothing, and is seen.
func TestFoldForged(t *testing.T) {
	value, _ := proto.Marshal(func() *logv1.Command { c := put("evil", NoRevision); c.Format = Format; return c }())
	sealed := func(b *book) []envelope.Header { return Seal(topic, key, value, b.last) }
	without := func(name string) func(*book) []envelope.Header {
		return func(b *book) []envelope.Header {
			return slices.DeleteFunc(sealed(b), func(h envelope.Header) bool { return h.Key == name })
		}
	}
	for name, headers := range map[string]func(*book) []envelope.Header{
		"no headers":    func(*book) []envelope.Header { return nil },
		"no MAC":        without(envelope.HeaderMAC),
		"no prev":       without(envelope.HeaderPrev),
		"another key":   func(b *book) []envelope.Header { return Seal(topic, []byte("another"), value, b.last) },
		"another topic": func(b *book) []envelope.Header { return Seal("spillway.outcomes", key, value, b.last) },
		"another prev": func(b *book) []envelope.Header {
			hs := sealed(b)
			hs[1].Value = envelope.Prev([]byte("x"))
			return hs
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBook()
			before, _ := b.fold(t)
			b.raw(value, headers(b)...)
			b.add(put("a", NoRevision))
			f, verdicts := b.fold(t)
			if !errors.Is(verdicts[1].Refusal, ErrForged) || verdicts[1].Chain != ChainBroken {
				t.Errorf("got %v, %v", verdicts[1].Refusal, verdicts[1].Chain)
			}
			if _, ok := f.State().Source("evil"); ok || verdicts[2].Refusal != nil || verdicts[2].Chain != ChainNext {
				t.Errorf("after it: %v, %v", verdicts[2].Refusal, verdicts[2].Chain)
			}
			if before.State().Len() != 0 {
				t.Error("a state that was given away changed")
			}
		})
	}
}

// TestChain: what was done to a log shows in the first honest record after it.
func TestChain(t *testing.T) {
	write := func() *book {
		b := newBook()
		for i := range 5 {
			b.add(put(fmt.Sprintf("s%d", i), NoRevision))
		}
		return b
	}
	broken := func(b *book) (at []int64) {
		for i, v := range must(b.fold(t)) {
			if v.Chain == ChainBroken {
				at = append(at, b.records[i].Offset)
			}
		}
		return at
	}
	if at := broken(write()); at != nil {
		t.Errorf("honest log: broken at %v", at)
	}
	removed := write()
	removed.records = slices.Delete(removed.records, 3, 4)
	if at := broken(removed); !slices.Equal(at, []int64{4}) {
		t.Errorf("removed: broken at %v", at)
	}
	moved := write()
	moved.records[3], moved.records[4] = moved.records[4], moved.records[3]
	moved.records[3].Offset, moved.records[4].Offset = 3, 4
	if at := broken(moved); !slices.Equal(at, []int64{3}) {
		t.Errorf("moved: broken at %v", at)
	}
	edited := write()
	edited.records[2].Value = append(slices.Clone(edited.records[2].Value), 0)
	if at := broken(edited); !slices.Equal(at, []int64{2, 3}) {
		t.Errorf("edited: broken at %v", at)
	}

	two := newBook() // two writers that had read the same
	base := two.last
	two.add(put("a", NoRevision))
	two.last = base
	two.add(put("b", NoRevision))
	if v := must(two.fold(t)); v[1].Chain != ChainNext || v[2].Chain != ChainConcurrent {
		t.Errorf("two writers: %v, %v", v[1].Chain, v[2].Chain)
	}
}

func must(_ *Fold, v []Verdict) []Verdict { return v }

func TestStateFields(t *testing.T) {
	b := newBook()
	b.add(put("b", NoRevision))
	b.add(put("a", NoRevision, "x"))
	b.add(put("b", 1, "t", "u"))
	f, _ := b.fold(t)
	s := f.State()
	var names []string
	for m := range s.Sources() {
		names = append(names, m.GetName())
	}
	if !slices.Equal(names, []string{"a", "b"}) || s.Len() != 2 {
		t.Errorf("sources %v", names)
	}
	m, ok := s.Source("b")
	if !ok || m.GetRevision() != 3 || m.GetEtag() != "3" || len(m.GetTypes()) != 2 || m.GetCreateTime() == nil || m.GetUpdateTime() == nil {
		t.Errorf("got %v", m)
	}
	if s.Config().GetShards() != 8 {
		t.Errorf("config %v", s.Config())
	}
}

func TestEffective(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	hold, block, demote := automationv1.Verb_VERB_HOLD, automationv1.Verb_VERB_BLOCK, automationv1.Verb_VERB_DEMOTE
	soon, later, past := now.Add(time.Minute), now.Add(time.Hour), now.Add(-time.Second)
	type want struct {
		held, blocked bool
		demote        jobv1.Priority
		verb          automationv1.Verb
		until         time.Time
		ramp          float64
	}
	low := jobv1.Priority_PRIORITY_LOW
	for _, c := range []struct {
		name     string
		commands []*logv1.Command
		tenant   string
		want     want
	}{
		{"nothing", nil, "t", want{}},
		{"source", []*logv1.Command{throw(onSource("a"), hold, later)}, "t", want{held: true, verb: hold, until: later}},
		{"source, no tenant", []*logv1.Command{throw(onSource("a"), hold, later)}, "", want{held: true, verb: hold, until: later}},
		{"tenant", []*logv1.Command{throw(onTenant("t"), block, time.Time{})}, "t", want{held: true, blocked: true, verb: block}},
		{"flow", []*logv1.Command{throw(onFlow("a", "t"), demote, later)}, "t", want{demote: low, verb: demote, until: later}},
		{"flow of another tenant", []*logv1.Command{throw(onFlow("a", "u"), hold, later)}, "t", want{}},
		{"flow of no tenant", []*logv1.Command{throw(onFlow("a", ""), hold, later)}, "", want{held: true, verb: hold, until: later}},
		{"flow of no tenant is not the source", []*logv1.Command{throw(onFlow("a", ""), hold, later)}, "t", want{}},
		{"over", []*logv1.Command{throw(onSource("a"), hold, past)}, "t", want{}},
		{"over at this moment", []*logv1.Command{throw(onSource("a"), hold, now)}, "t", want{}},
		{"the strictest wins", []*logv1.Command{throw(onSource("a"), hold, later), throw(onTenant("t"), block, soon), throw(onFlow("a", "t"), demote, time.Time{})}, "t",
			want{held: true, blocked: true, demote: low, verb: block, until: soon}},
		{"replaced", []*logv1.Command{throw(onSource("a"), hold, later), throw(onSource("a"), demote, soon)}, "t", want{demote: low, verb: demote, until: soon}},
		{"resumed", []*logv1.Command{throw(onSource("a"), hold, later), lift(onSource("a"), 0)}, "t", want{}},
		{"resumed elsewhere", []*logv1.Command{throw(onSource("a"), hold, later), lift(onFlow("a", "t"), 0)}, "t", want{held: true, verb: hold, until: later}},
		{"resumed at a ramp", []*logv1.Command{throw(onSource("a"), hold, later), lift(onSource("a"), 7)}, "t", want{ramp: 7}},
		{"held again", []*logv1.Command{throw(onSource("a"), hold, later), lift(onSource("a"), 7), throw(onSource("a"), hold, soon)}, "t", want{held: true, verb: hold, until: soon}},
		{"resumed again, without a ramp", []*logv1.Command{throw(onSource("a"), hold, later), lift(onSource("a"), 7), lift(onSource("a"), 0)}, "t", want{}},
		{"outlives its source", []*logv1.Command{throw(onSource("a"), hold, later), remove("a", AnyRevision), put("a", NoRevision)}, "t", want{held: true, verb: hold, until: later}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBook()
			b.add(put("a", NoRevision))
			for _, m := range c.commands {
				b.add(proto.CloneOf(m))
			}
			f, verdicts := b.fold(t)
			for _, v := range verdicts {
				if v.Refusal != nil {
					t.Fatal(v.Refusal)
				}
			}
			e := f.State().Effective("a", c.tenant, now)
			got := want{e.Held, e.Blocked, e.Demote, e.Switch.GetVerb(), e.Until, 0}
			for _, sw := range f.State().Ramps() {
				got.ramp += sw.GetRampRate()
			}
			if !got.until.Equal(c.want.until) {
				t.Errorf("until %v, want %v", got.until, c.want.until)
			}
			got.until, c.want.until = time.Time{}, time.Time{}
			if got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// TestFoldBounds: what would make the state too big is refused, at the same place for everybody.
func TestFoldBounds(t *testing.T) {
	b := newBook()
	big := put("big", AnyRevision)
	big.GetPutSource().GetSource().Description = strings.Repeat("x", MaxCommandBytes)
	b.add(big)
	for i := range MaxStateBytes/(MaxCommandBytes-1024) + 1 {
		c := put(fmt.Sprintf("s%d", i), NoRevision)
		c.GetPutSource().GetSource().Description = strings.Repeat("x", MaxCommandBytes-1024)
		b.add(c)
	}
	f, verdicts := b.fold(t)
	if !errors.Is(verdicts[1].Refusal, ErrFull) || !errors.Is(verdicts[len(verdicts)-1].Refusal, ErrFull) {
		t.Errorf("got %v, %v", verdicts[1].Refusal, verdicts[len(verdicts)-1].Refusal)
	}
	if f.State().bytes > MaxStateBytes {
		t.Errorf("%d bytes", f.State().bytes)
	}
	b.add(remove("s0", AnyRevision))
	b.add(put("new", NoRevision))
	if _, v := b.fold(t); v[len(v)-1].Refusal != nil {
		t.Errorf("after a delete: %v", v[len(v)-1].Refusal)
	}
}

// TestRequestWindow: ids are forgotten in the order in which they came, and not before the window is full.
func TestRequestWindow(t *testing.T) {
	b := newBook()
	for i := range RequestWindow + 1 {
		b.add(requested(fmt.Sprint(i), lift(onTenant("t"), 0)))
	}
	f, _ := b.fold(t)
	if _, ok := f.Request("0"); ok {
		t.Error("the oldest is still there")
	}
	if at, ok := f.Request("1"); !ok || at != 2 {
		t.Errorf("request 1 at %d, %v", at, ok)
	}
	if len(f.requests) != RequestWindow || len(f.ring) != RequestWindow {
		t.Errorf("%d ids", len(f.requests))
	}
}

// commands generates commands that hit each other.
func commands() *rapid.Generator[*logv1.Command] {
	return rapid.Custom(func(t *rapid.T) *logv1.Command {
		name := rapid.SampledFrom([]string{"a", "b", "c", "*"}).Draw(t, "name")
		revision := rapid.Int64Range(-1, 12).Draw(t, "revision")
		on := rapid.SampledFrom([]*automationv1.Scope{onSource(name), onTenant("t"), onFlow(name, "t"), nil}).Draw(t, "scope")
		verb := automationv1.Verb(rapid.IntRange(0, 5).Draw(t, "verb"))
		var c *logv1.Command
		switch rapid.IntRange(0, 4).Draw(t, "act") {
		case 0, 1:
			c = put(name, revision)
		case 2:
			c = remove(name, revision)
		case 3:
			c = throw(on, verb, time.Time{})
		default:
			c = lift(on, rapid.SampledFrom([]float64{0, 1, math.Inf(1)}).Draw(t, "ramp"))
		}
		c = proto.CloneOf(c)
		c.ExpectedRevision = revision
		c.RequestId = rapid.SampledFrom([]string{"", "", "r1", "r2"}).Draw(t, "request")
		return c
	})
}

// TestFoldBatches: however the records came in batches, and whenever somebody looked, the states are the same; and the hash is that of
// what lives, found by a walk.
func TestFoldBatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBook()
		for _, c := range rapid.SliceOfN(commands(), 0, 40).Draw(t, "commands") {
			b.add(c)
		}
		at := NewFold(topic, key)
		var hashes [][]byte
		for _, r := range b.records {
			if _, err := at.Apply(r); err != nil {
				t.Fatal(err)
			}
			hashes = append(hashes, at.State().Hash())
		}
		batched := NewFold(topic, key)
		var given []*State
		for i, r := range b.records {
			if _, err := batched.Apply(r); err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "look") {
				given = append(given, batched.State())
				if !bytes.Equal(batched.State().Hash(), hashes[i]) {
					t.Fatalf("hash differs at %d", i)
				}
			}
		}
		for _, s := range given { // nothing that was given away has changed since
			if !bytes.Equal(s.Hash(), hashes[s.Sequence()]) {
				t.Fatalf("state at %d changed", s.Sequence())
			}
			check(t, s)
		}
		check(t, batched.State())
	})
}

// check compares everything that is kept incrementally with a walk over the state.
func check(t *rapid.T, s *State) {
	sum, bytes := [32]byte{}, int64(0)
	add := func(d [32]byte, size int64) {
		for i := range d {
			sum[i] ^= d[i]
		}
		bytes += size
	}
	for _, x := range s.sources {
		add(x.digest, x.size)
	}
	for _, x := range s.switches {
		add(x.digest, x.size)
	}
	if sum != s.hash || bytes != s.bytes {
		t.Fatalf("hash or bytes (%d, want %d) are not those of the entries", s.bytes, bytes)
	}
	if len(s.names) != len(s.sources) || !slices.IsSorted(s.names) || len(s.order) != len(s.switches) || !slices.IsSortedFunc(s.order, scope.compare) {
		t.Fatalf("order is lost: %v, %v", s.names, s.order)
	}
}

// TestHashTellsApart: states that differ in one revision, one registration or one switch have different hashes.
func TestHashTellsApart(t *testing.T) {
	seen := map[string]string{}
	for name, list := range map[string][]*logv1.Command{
		"nothing":             nil,
		"a":                   {put("a", NoRevision)},
		"b":                   {put("b", NoRevision)},
		"a, changed":          {put("a", NoRevision), put("a", 1)},
		"a, again":            {put("a", NoRevision), remove("a", 1), put("a", NoRevision)},
		"a, b":                {put("a", NoRevision), put("b", NoRevision)},
		"a, held":             {put("a", NoRevision), throw(onSource("a"), automationv1.Verb_VERB_HOLD, time.Time{})},
		"a, blocked":          {put("a", NoRevision), throw(onSource("a"), automationv1.Verb_VERB_BLOCK, time.Time{})},
		"a, flow held":        {put("a", NoRevision), throw(onFlow("a", ""), automationv1.Verb_VERB_HOLD, time.Time{})},
		"a, resumed at ramp":  {put("a", NoRevision), lift(onSource("a"), 3)},
		"a, resumed at ramp2": {put("a", NoRevision), lift(onSource("a"), 4)},
	} {
		b := newBook()
		for _, c := range list {
			b.add(proto.CloneOf(c))
		}
		f, _ := b.fold(t)
		hash := string(f.State().Hash())
		if other, ok := seen[hash]; ok {
			t.Errorf("%q and %q have one hash", name, other)
		}
		seen[hash] = name
	}
}

// FuzzFold: no authentic bytes crash the fold or make two readers differ.
func FuzzFold(f *testing.F) {
	for _, c := range []*logv1.Command{
		put("a", NoRevision), remove("a", 1), throw(onFlow("a", "t"), automationv1.Verb_VERB_DEMOTE, time.Unix(1, 0)), lift(onTenant("t"), 2),
	} {
		c.Format = Format
		value, _ := proto.Marshal(c)
		f.Add(value, value)
	}
	f.Add([]byte{}, []byte{0xff})
	f.Fuzz(func(t *testing.T, one, two []byte) {
		b := newBook()
		b.add(put("a", NoRevision))
		b.raw(one, Seal(topic, key, one, b.last)...)
		b.raw(two, Seal(topic, key, two, b.last)...)
		x, y := NewFold(topic, key), NewFold(topic, key)
		for _, r := range b.records {
			vx, ex := x.Apply(r)
			x.State()
			vy, ey := y.Apply(r)
			if (ex == nil) != (ey == nil) || (vx.Refusal == nil) != (vy.Refusal == nil) {
				t.Fatalf("%v, %v against %v, %v", vx, ex, vy, ey)
			}
		}
		if !bytes.Equal(x.State().Hash(), y.State().Hash()) || x.State().Sequence() != y.State().Sequence() {
			t.Fatal("states differ")
		}
		x.State().Effective("a", "t", time.Unix(0, 0))
	})
}

// BenchmarkFold folds an installation's history: a thousand sources that are updated, held and resumed. The aim is 200,000 records/s,
// 5 µs each.
func BenchmarkFold(b *testing.B) {
	log := newBook()
	revisions := make([]int64, 1000)
	full := func(i int) *logv1.Command {
		c := put(fmt.Sprintf("source-%04d", i), revisions[i], "import", "export")
		s := c.GetPutSource().GetSource()
		rate := 20000.0
		s.Owner, s.Principals, s.Weight, s.Quota = "team", []string{"*"}, 100, &automationv1.Quota{AcceptRate: &rate}
		c.Actor, c.Reason = "operator", "the usual"
		return c
	}
	for i := range revisions {
		revisions[i] = log.add(requested(fmt.Sprint("r", i), full(i)))
	}
	for i := 0; len(log.records) < 50_000; i = (i + 7) % len(revisions) {
		on := onSource(fmt.Sprintf("source-%04d", i))
		log.add(requested(fmt.Sprint("h", len(log.records)), throw(on, automationv1.Verb_VERB_HOLD, time.Unix(1, 0))))
		log.add(requested(fmt.Sprint("u", len(log.records)), lift(on, 0)))
		revisions[i] = log.add(requested(fmt.Sprint("p", len(log.records)), full(i)))
	}
	b.ReportAllocs()
	b.ResetTimer()
	done := 0
	for done < b.N {
		f := NewFold(topic, key)
		for i, r := range log.records {
			if _, err := f.Apply(r); err != nil {
				b.Fatal(err)
			}
			if i%2000 == 0 { // a fetch of 1 MiB brings a few thousand
				f.State()
			}
			if done++; done == b.N {
				break
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

package envelope

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
	logv1 "github.com/spillway/spillway/proto/gen/spillway/log/v1"
)

var update = flag.Bool("update", false, "rewrite testdata; a changed golden file is a broken format")

var _ propagation.TextMapCarrier = Carrier{}

// golden compares got with testdata/name. These files are the formats: one
// that changes breaks every record already written.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s changed\n got: %s\nwant: %s", path, got, want)
	}
}

// The vectors of Kafka's own UtilsTest.testMurmur2.
func TestMurmur2KafkaVectors(t *testing.T) {
	for in, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2(in)); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", in, got, want)
		}
	}
}

func TestGoldenShard(t *testing.T) {
	var b strings.Builder
	for _, source := range []string{"crm-autotag", "victim-01", "victim-20", "flood", "a", "", strings.Repeat("x", 64)} {
		fmt.Fprintf(&b, "%q", source)
		for _, shards := range []int{1, 8, 24, MaxShards} {
			fmt.Fprintf(&b, " %d:%d", shards, Shard(source, shards))
		}
		b.WriteByte('\n')
	}
	golden(t, "shard.txt", b.String())
}

var (
	at     = time.Date(2026, 3, 4, 5, 6, 7, 89e6, time.UTC)
	random = [10]byte{0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0, 0x0f, 0xed}
)

func TestGoldenJobID(t *testing.T) {
	key := NewKey(at, random)
	var b strings.Builder
	fmt.Fprintln(&b, "key  ", key)
	for _, shard := range []int{0, 7, MaxShards - 1} {
		fmt.Fprintln(&b, "new  ", shard, NewJobID(at, shard, [8]byte(random[:8])))
		fmt.Fprintln(&b, "sdk  ", shard, KeyedJobID("crm-autotag", key, shard))
		fmt.Fprintln(&b, "own  ", shard, KeyedJobID("crm-autotag", "order-4711", shard))
		fmt.Fprintln(&b, "other", shard, KeyedJobID("crm-autosend", "order-4711", shard))
	}
	golden(t, "jobid.txt", b.String())
}

func TestJobIDCarriesShardAndTime(t *testing.T) {
	key := NewKey(at.Add(-time.Minute), random)
	for _, shard := range []int{0, 1, 23, 24, MaxShards - 1} {
		fresh := NewJobID(at, shard, [8]byte(random[:8]))
		keyed := KeyedJobID("s", key, shard)
		hashed := KeyedJobID("s", strings.ToUpper(key), shard)
		for id, want := range map[JobID]time.Time{fresh: at, keyed: at.Add(-time.Minute), hashed: {}} {
			if id.Shard() != shard {
				t.Errorf("%s: shard %d, want %d", id, id.Shard(), shard)
			}
			if got, ok := id.Time(); !got.Equal(want) || ok == want.IsZero() {
				t.Errorf("%s: time %v %v, want %v", id, got, ok, want)
			}
			back, err := ParseJobID(id.String())
			if err != nil || back != id {
				t.Errorf("ParseJobID(%s) = %s, %v", id, back, err)
			}
		}
	}
	if got, ok := KeyTime(key); !ok || !got.Equal(at.Add(-time.Minute)) {
		t.Errorf("KeyTime = %v, %v", got, ok)
	}
	if _, ok := KeyTime(KeyedJobID("s", "k", 0).String()); ok {
		t.Error("a version 8 UUID has no time")
	}
}

// The 62 + 48 bits are those that the format names, computed here by hand.
func TestKeyedJobIDBits(t *testing.T) {
	sum := sha256.Sum256([]byte("src\x00key"))
	bits := ""
	for _, b := range sum {
		bits += fmt.Sprintf("%08b", b)
	}
	id := KeyedJobID("src", "key", 0xabc)
	got := ""
	for _, b := range id {
		got += fmt.Sprintf("%08b", b)
	}
	if want := bits[:48] + "1000" + "101010111100" + "10" + bits[48:110]; got != want {
		t.Errorf("v8 bits\n got %s\nwant %s", got, want)
	}
	key := NewKey(at, random)
	sum = sha256.Sum256([]byte("src\x00" + key))
	bits, got = "", ""
	for _, b := range sum {
		bits += fmt.Sprintf("%08b", b)
	}
	for _, b := range KeyedJobID("src", key, 0xabc) {
		got += fmt.Sprintf("%08b", b)
	}
	if want := fmt.Sprintf("%048b", at.UnixMilli()) + "0111" + "101010111100" + "10" + bits[:62]; got != want {
		t.Errorf("v7 bits\n got %s\nwant %s", got, want)
	}
}

func TestJobIDClampsBrokenClocks(t *testing.T) {
	for _, now := range []time.Time{{}, time.Unix(-1, 0), time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)} {
		id := NewJobID(now, 5, [8]byte{})
		if _, err := ParseJobID(id.String()); err != nil || id.Shard() != 5 {
			t.Errorf("%v makes %s: %v", now, id, err)
		}
	}
}

func TestParseJobIDRefuses(t *testing.T) {
	good := NewJobID(at, 3, [8]byte(random[:8])).String()
	for _, bad := range []string{
		"", good[:35], good + "0", strings.ToUpper(good), "{" + good[1:35] + "}", strings.ReplaceAll(good, "-", ""),
		good[:14] + "4" + good[15:], good[:19] + "c" + good[20:], good[:8] + "0" + good[9:], "g" + good[1:],
	} {
		if _, err := ParseJobID(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("ParseJobID(%q): %v", bad, err)
		}
	}
}

func TestGoldenMAC(t *testing.T) {
	key := []byte("0123456789abcdef0123456789abcdef")
	value, prev := []byte("value"), Prev([]byte("the record before"))
	var b strings.Builder
	fmt.Fprintf(&b, "prev    %x\n", prev)
	fmt.Fprintf(&b, "outcome %x\n", MAC(key, "spillway.outcomes", value, nil))
	fmt.Fprintf(&b, "control %x\n", MAC(key, "spillway.control", value, prev))
	golden(t, "mac.txt", b.String())
}

func TestVerifyMAC(t *testing.T) {
	key, topic, value, prev := []byte("k"), "control", []byte("value"), Prev(nil)
	mac := MAC(key, topic, value, prev)
	if !VerifyMAC(key, topic, value, prev, mac) {
		t.Fatal("a good MAC is refused")
	}
	for name, ok := range map[string]bool{
		"other key":     VerifyMAC([]byte("x"), topic, value, prev, mac),
		"empty key":     VerifyMAC(nil, topic, value, prev, MAC(nil, topic, value, prev)),
		"other topic":   VerifyMAC(key, "outcomes", value, prev, mac),
		"other value":   VerifyMAC(key, topic, []byte("valuf"), prev, mac),
		"other prev":    VerifyMAC(key, topic, value, Prev([]byte("x")), mac),
		"no prev":       VerifyMAC(key, topic, value, nil, mac),
		"shifted split": VerifyMAC(key, topic, append(value[:5:5], prev[:1]...), prev[1:], mac),
		"short":         VerifyMAC(key, topic, value, prev, mac[:31]),
		"none":          VerifyMAC(key, topic, value, prev, nil),
	} {
		if ok {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestHeaders(t *testing.T) {
	hs := []Header{{"a", []byte("1")}, {"A", []byte("2")}, {"a", []byte("3")}}
	if v, ok := Get(hs, "a"); !ok || string(v) != "3" {
		t.Errorf("Get takes the last: %q %v", v, ok)
	}
	if _, ok := Get(hs, "b"); ok {
		t.Error("Get finds what is not there")
	}
	old := hs[2].Value
	c := Carrier{&hs}
	c.Set("a", "4")
	c.Set("b", "5")
	if got := c.Get("a") + c.Get("A") + c.Get("b") + c.Get("c"); got != "425" {
		t.Errorf("Carrier holds %q", got)
	}
	if string(old) != "3" {
		t.Error("Set wrote into a shared value")
	}
	if got := strings.Join(c.Keys(), ","); got != "a,A,a,b" {
		t.Errorf("Keys: %s", got)
	}
	for _, bad := range [][]Header{nil, {{HeaderVersion, nil}}, {{HeaderVersion, []byte("2")}}, {VersionHeader(), {HeaderVersion, []byte("2")}}} {
		if err := CheckVersion(bad); !errors.Is(err, ErrVersion) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if err := CheckVersion([]Header{VersionHeader()}); err != nil {
		t.Error(err)
	}
}

func transit() *logv1.Transit {
	return &logv1.Transit{
		Epoch: 42, Attempts: 3, DelayHops: 2, Moves: 7,
		Origin:  &logv1.Home{Topic: "jobs.default", Partition: 5, Offset: 1 << 40},
		ReadyAt: timestamppb.New(at), Cause: jobv1.WaitCause_WAIT_CAUSE_SPILL, Writer: "scheduler-0",
	}
}

func TestGoldenTransit(t *testing.T) {
	h := EncodeTransit(transit())
	golden(t, "transit.txt", h.Key+" "+hex.EncodeToString(h.Value)+"\n")
	back, err := DecodeTransit([]Header{h})
	if err != nil || !proto.Equal(back, transit()) {
		t.Errorf("%v, %v", back, err)
	}
}

func TestDecodeTransitRefuses(t *testing.T) {
	if got, err := DecodeTransit(nil); err != nil || !proto.Equal(got, new(logv1.Transit)) {
		t.Errorf("absent: %v, %v", got, err)
	}
	for want, ts := range map[error][]*logv1.Transit{
		ErrMalformed: {{Attempts: -1}, {Moves: -1}, {DelayHops: -1}, {Epoch: -1}, {Origin: &logv1.Home{Partition: -1}},
			{Origin: &logv1.Home{Offset: -1}}, {ReadyAt: &timestamppb.Timestamp{Nanos: -1}}},
		ErrUnknownValue: {{Cause: 99}},
	} {
		for _, bad := range ts {
			if _, err := DecodeTransit([]Header{EncodeTransit(bad)}); !errors.Is(err, want) {
				t.Errorf("%v: %v, want %v", bad, err, want)
			}
		}
	}
	if _, err := DecodeTransit([]Header{{HeaderTransit, []byte{0xff}}}); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

func TestEncodeTransitRepairsText(t *testing.T) {
	in := &logv1.Transit{Writer: "a\xff", Origin: &logv1.Home{Topic: "\xfe"}, Moves: 1}
	out, err := DecodeTransit([]Header{EncodeTransit(in)})
	if err != nil || out.GetMoves() != 1 || out.GetWriter() != "a\uFFFD" {
		t.Errorf("%v, %v", out, err)
	}
	if in.GetWriter() != "a\xff" {
		t.Error("the argument was modified")
	}
}

func FuzzDecodeTransit(f *testing.F) {
	f.Add(EncodeTransit(transit()).Value)
	f.Fuzz(func(t *testing.T, value []byte) {
		got, err := DecodeTransit([]Header{{HeaderTransit, value}})
		if err != nil {
			return
		}
		again, err := DecodeTransit([]Header{EncodeTransit(got)})
		if err != nil || !proto.Equal(got, again) {
			t.Fatalf("%v does not survive: %v, %v", got, again, err)
		}
	})
}

func FuzzParseJobID(f *testing.F) {
	f.Add(NewJobID(at, 3, [8]byte(random[:8])).String())
	f.Fuzz(func(t *testing.T, text string) {
		if id, err := ParseJobID(text); err == nil && id.String() != text {
			t.Fatalf("%q reads as %s", text, id)
		}
	})
}

package publish

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"github.com/spillway/spillway/pkg/kafka"
	"github.com/spillway/spillway/pkg/worker"
	"github.com/spillway/spillway/services/notifier/internal/core"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What may have been written is never refused; what was not is never of unknown fate.
func TestFate(t *testing.T) {
	for _, c := range []struct {
		err  error
		want core.Reason
	}{
		{kafka.ErrFateUnknown, core.FateUnknown},
		{fmt.Errorf("%w: %w", kafka.ErrFateUnknown, kafka.ErrFull), core.FateUnknown},
		{fmt.Errorf("%w: %w", kafka.ErrFateUnknown, context.DeadlineExceeded), core.FateUnknown},
		{errors.New("an error of another kind"), core.FateUnknown},
		{fmt.Errorf("%w: %w", kafka.ErrUnsent, kafka.ErrFull), core.Overloaded},
		{fmt.Errorf("%w: %w", kafka.ErrUnsent, context.Canceled), core.BrokerUnavailable},
		{kafka.ErrUnsent, core.BrokerUnavailable},
		{fmt.Errorf("%w: %w", errEncode, errors.New("x")), core.Invalid},
	} {
		if got := fate(c.err); got.Reason != c.want {
			t.Errorf("%v: %s, want %s", c.err, got.Reason, c.want)
		}
	}
	if fate(nil) != nil {
		t.Error("success is refused")
	}
}

var update = flag.Bool("update", false, "write testdata anew: the format of records changes")

// The bytes of a record are a format: what was written yesterday is read tomorrow.
func TestRecordBytes(t *testing.T) {
	const golden = "testdata/record.txt"
	ttl := 90 * time.Second
	r := &Room{config: Config{Topic: "spillway.notifications"}}
	var out strings.Builder
	for _, d := range []*core.Draft{
		{Source: "crm", Tenant: "t1", Channel: "user:t1:anna", Class: core.Event, Data: []byte("{ \"text\": \"a\\nb\" }\n"), IdempotencyKey: "k1", Key: "conversation-7", TTL: &ttl},
		{Source: "crm", Tenant: "a b", Channel: "tenant:a%20b", Class: core.Event, Data: []byte("null"), JobID: "00000000-0000-7000-8000-000000000001"},
	} {
		if refusal := check(d); refusal != nil {
			t.Fatal(refusal)
		}
		now := time.Unix(1_800_000_000, 123_000_000)
		rec, _, err := r.record(t.Context(), now, identify(now, d, 3), 3, d)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "topic %s partition %d key %s\n", rec.Topic, rec.Partition, rec.Key)
		for _, h := range rec.Headers {
			fmt.Fprintf(&out, "header %s: %s\n", h.Key, h.Value)
		}
		fmt.Fprint(&out, hex.Dump(rec.Value), "\n")
		if int64(len(rec.Value)) > d.Bytes() {
			t.Errorf("the record has %d bytes, %d were reckoned", len(rec.Value), d.Bytes())
		}
	}
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// Whatever a job's payload is, it is decoded or refused; what passes the check is one line of JSON in UTF-8 that means the same as before.
func FuzzPayload(f *testing.F) {
	f.Add([]byte(`{"channel":"user:t1:anna","class":"EVENT","key":"k","data":{"a":[1,2,"x\u2028"]},"ttl":"30s"}`))
	f.Add([]byte("{\"channel\": \"tenant:t1\",\n\"class\": \"EVENT\", \"data\": \"\xff\"}"))
	f.Add([]byte(`{"channel":"topic:t1:a%2Fb","class":"EVENT","data":null,"ttl":"-1s"}`))
	f.Add([]byte(`{"channel":"tenant:t1","class":"EVENT","data":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`))
	f.Add([]byte(`{"data":1,"DATA":2,"channel":1}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := draft(&worker.Job{ID: "00000000-0000-7000-8000-000000000001", Source: "crm", Tenant: "t1", Payload: bytes.Clone(in)})
		if err != nil {
			return
		}
		before := bytes.Clone(d.Data)
		if check(d) != nil {
			return
		}
		switch {
		case d.JobID == "" || d.Source != "crm" || d.Tenant != "t1" || core.Channel(d.Channel).Tenant() != "t1":
			t.Fatalf("draft %+v", d)
		case len(d.Data) == 0 || len(d.Data) > core.MaxData || bytes.ContainsAny(d.Data, "\n\r") || !json.Valid(d.Data) || !utf8.Valid(d.Data):
			t.Fatalf("data %q", d.Data)
		case d.Life() < core.MinTTL || d.Life() > core.MaxTTL:
			t.Fatalf("worth %v", d.Life())
		}
		var a, b any
		if json.Unmarshal(before, &a) == nil && json.Unmarshal(d.Data, &b) == nil && fmt.Sprint(a) != fmt.Sprint(b) {
			t.Fatalf("%q became %q", before, d.Data)
		}
	})
}

// A payload that is larger than any notification is not read.
func TestPayloadTooLarge(t *testing.T) {
	if _, err := draft(&worker.Job{ID: "x", Payload: bytes.Repeat([]byte(" "), maxPayload+1)}); err == nil {
		t.Error("read")
	}
}

package envelope

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "github.com/spillway/spillway/proto/gen/spillway/job/v1"
)

func job() *jobv1.Job {
	payload := []byte(`{"contact":17}`)
	sum := sha256.Sum256(payload)
	return &jobv1.Job{
		Id: KeyedJobID("crm-autotag", NewKey(at, random), 5).String(),
		Spec: &jobv1.JobSpec{
			Source: "crm-autotag", Tenant: "t1", Type: "tag", Priority: jobv1.Priority_PRIORITY_DEFAULT,
			Payload: payload, ContentType: "application/json", NotBefore: timestamppb.New(at.Add(5 * time.Second)),
			ExpiresIn: durationpb.New(time.Hour), IdempotencyKey: NewKey(at, random),
			RunTimeout: durationpb.New(90 * time.Second), MaxAttempts: 4,
			Labels: map[string]string{"a": "1", "b": "2"}, ParentJobId: "p", RedriveOf: "r", Depth: 1,
		},
		AcceptedAt: timestamppb.New(at), ExpiresAt: timestamppb.New(at.Add(time.Hour)),
		Depth: 1, PayloadSha256: sum[:], AcceptedBy: "enqueue-0",
	}
}

func encode(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGoldenJob(t *testing.T) {
	value := encode(t, job())
	golden(t, "job.txt", hex.EncodeToString(value)+"\n")
	f, err := Scan(value)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "fields.txt", fmt.Sprintf("%+v\n", f))
}

func TestScanRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*jobv1.Job)
		want  error
	}{
		"no id":            {func(j *jobv1.Job) { j.Id = "" }, ErrMalformed},
		"upper-case id":    {func(j *jobv1.Job) { j.Id = strings.ToUpper(j.Id) }, ErrMalformed},
		"no spec":          {func(j *jobv1.Job) { j.Spec = nil }, ErrMalformed},
		"no source":        {func(j *jobv1.Job) { j.Spec.Source = "" }, ErrMalformed},
		"no type":          {func(j *jobv1.Job) { j.Spec.Type = "" }, ErrMalformed},
		"no accepted_at":   {func(j *jobv1.Job) { j.AcceptedAt = nil }, ErrMalformed},
		"bad accepted_at":  {func(j *jobv1.Job) { j.AcceptedAt.Nanos = -1 }, ErrMalformed},
		"bad expires_at":   {func(j *jobv1.Job) { j.ExpiresAt.Seconds = 1 << 60 }, ErrMalformed},
		"negative timeout": {func(j *jobv1.Job) { j.Spec.RunTimeout = durationpb.New(-1) }, ErrMalformed},
		"bad timeout":      {func(j *jobv1.Job) { j.Spec.RunTimeout.Nanos = 2e9 }, ErrMalformed},
		"negative depth":   {func(j *jobv1.Job) { j.Depth = -1 }, ErrMalformed},
		"no priority":      {func(j *jobv1.Job) { j.Spec.Priority = 0 }, ErrUnknownValue},
		"unknown priority": {func(j *jobv1.Job) { j.Spec.Priority = 31 }, ErrUnknownValue},
	} {
		j := job()
		c.spoil(j)
		if _, err := Scan(encode(t, j)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	value := encode(t, job())
	for n := range len(value) {
		if _, err := Scan(value[:n]); err == nil {
			// A cut between two fields is a sound message; it must agree with
			// the full decoder, which FuzzScan checks.
			if proto.Unmarshal(value[:n], new(jobv1.Job)) != nil {
				t.Errorf("accepts the first %d bytes", n)
			}
		}
	}
}

// A field that comes twice: the last scalar counts, messages merge.
func TestScanMergesLikeTheFullDecoder(t *testing.T) {
	value := encode(t, job())
	value = append(value, encode(t, &jobv1.Job{
		Spec:       &jobv1.JobSpec{Tenant: "t2", RunTimeout: &durationpb.Duration{Nanos: 5}},
		AcceptedAt: &timestamppb.Timestamp{Nanos: 7},
	})...)
	agree(t, value)
	f, err := Scan(value)
	if err != nil || f.Tenant != "t2" || f.Source != "crm-autotag" || f.RunTimeout != 90*time.Second+5 || f.AcceptedAt.Nanosecond() != 7 {
		t.Errorf("%+v, %v", f, err)
	}
}

// agree holds Scan to the full decoder.
func agree(t *testing.T, value []byte) {
	t.Helper()
	f, err := Scan(value)
	full := new(jobv1.Job)
	fullErr := proto.Unmarshal(value, full)
	if err != nil {
		if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnknownValue) {
			t.Fatalf("untyped error: %v", err)
		}
		if fullErr == nil && usable(full) {
			t.Fatalf("refused (%v) what the full decoder takes: %v", err, full)
		}
		return
	}
	if fullErr != nil {
		t.Fatalf("accepted what the full decoder refuses: %v", fullErr)
	}
	when := func(ts *timestamppb.Timestamp) time.Time {
		if ts == nil {
			return time.Time{}
		}
		return ts.AsTime()
	}
	spec := full.GetSpec()
	if f.ID.String() != full.GetId() || f.Source != spec.GetSource() || f.Tenant != spec.GetTenant() || f.Type != spec.GetType() ||
		f.Priority != int32(spec.GetPriority()) || f.PayloadBytes != len(spec.GetPayload()) ||
		!bytes.Equal(f.PayloadSHA256, full.GetPayloadSha256()) ||
		!f.AcceptedAt.Equal(when(full.GetAcceptedAt())) || !f.ExpiresAt.Equal(when(full.GetExpiresAt())) ||
		!f.NotBefore.Equal(when(spec.GetNotBefore())) || f.RunTimeout != spec.GetRunTimeout().AsDuration() ||
		f.MaxAttempts != spec.GetMaxAttempts() || f.Depth != full.GetDepth() ||
		f.Keyed != (spec.GetIdempotencyKey() != "") || f.RedriveOf != spec.GetRedriveOf() {
		t.Fatalf("Scan %+v\nfull %v", f, full)
	}
}

// usable is Scan's own condition, written over the full message.
func usable(j *jobv1.Job) bool {
	s := j.GetSpec()
	_, idErr := ParseJobID(j.GetId())
	_, known := jobv1.Priority_name[int32(s.GetPriority())]
	timeOK := func(ts *timestamppb.Timestamp) bool { return ts == nil || ts.IsValid() }
	durationOK := func(d *durationpb.Duration) bool { return d == nil || d.IsValid() }
	return idErr == nil && known && s.GetPriority() != 0 && s.GetSource() != "" && s.GetType() != "" &&
		j.GetAcceptedAt() != nil && timeOK(j.GetAcceptedAt()) && timeOK(j.GetExpiresAt()) && timeOK(s.GetNotBefore()) &&
		durationOK(s.GetRunTimeout()) && durationOK(s.GetExpiresIn()) &&
		s.GetRunTimeout().GetSeconds() >= 0 && s.GetRunTimeout().GetNanos() >= 0 && s.GetMaxAttempts() >= 0 && j.GetDepth() >= 0
}

func FuzzScan(f *testing.F) {
	f.Add(encode(f, job()))
	f.Add(encode(f, &jobv1.Job{}))
	f.Add([]byte{0x0b, 0x0b, 0x0c, 0x0c})
	f.Fuzz(func(t *testing.T, value []byte) { agree(t, value) })
}

func BenchmarkScan(b *testing.B) {
	value := encode(b, job())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Scan(value); err != nil {
			b.Fatal(err)
		}
	}
}

package api

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/spillway/spillway/pkg/rpc"
	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
	"github.com/spillway/spillway/services/automation/internal/core"
)

// TestEveryReasonHasItsCode: no refusal of core's leaves as UNKNOWN.
func TestEveryReasonHasItsCode(t *testing.T) {
	for _, reason := range core.Reasons() {
		err := failure(&core.Refusal{Reason: reason, Message: "m"})
		if status.Code(err) != codeOf[reason] || codeOf[reason] == codes.OK || rpc.ReasonOf(err) != string(reason) {
			t.Errorf("%s: %v", reason, err)
		}
	}
	if len(codeOf) != len(core.Reasons()) {
		t.Error("codes for reasons that core does not have")
	}
	if got := status.Code(failure(context.DeadlineExceeded)); got != codes.DeadlineExceeded {
		t.Errorf("deadline: %v", got)
	}
}

// TestSourceSurvivesTranslation: every field of a source that a caller can set comes back as it went in.
func TestSourceSurvivesTranslation(t *testing.T) {
	m := &automationv1.Source{}
	fill(m.ProtoReflect(), 1)
	m.Etag = "1" // automation's form of the revision, which fill set to 1
	if got := ToSource(FromSource(m)); !proto.Equal(got, m) {
		t.Errorf("got  %v\nwant %v", got, m)
	}
}

// fill sets every field, so that a field that is added later and forgotten in convert.go fails the test.
func fill(m protoreflect.Message, n int64) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case fd.IsMap():
			v := m.NewField(fd).Map().NewValue()
			fill(v.Message(), n)
			m.Mutable(fd).Map().Set(protoreflect.ValueOfString("k").MapKey(), v)
		case fd.IsList():
			m.Mutable(fd).List().Append(protoreflect.ValueOfString("x"))
		case fd.Message() != nil:
			fill(m.Mutable(fd).Message(), n)
		case fd.Enum() != nil:
			m.Set(fd, protoreflect.ValueOfEnum(fd.Enum().Values().Get(1).Number()))
		case fd.Kind() == protoreflect.StringKind:
			m.Set(fd, protoreflect.ValueOfString("x"))
		case fd.Kind() == protoreflect.Int32Kind:
			m.Set(fd, protoreflect.ValueOfInt32(int32(n)))
		case fd.Kind() == protoreflect.Int64Kind:
			m.Set(fd, protoreflect.ValueOfInt64(n))
		case fd.Kind() == protoreflect.DoubleKind:
			m.Set(fd, protoreflect.ValueOfFloat64(float64(n)))
		}
	}
}

func TestTokensAreOpaqueAndChecked(t *testing.T) {
	for _, parts := range [][]string{{"a"}, {"2", "", "t"}} {
		got, ok := openToken(token("w", parts...), "w")
		if !ok || len(got) != len(parts) {
			t.Errorf("%v: got %v", parts, got)
		}
		if _, ok := openToken(token("w", parts...), "s"); ok {
			t.Error("a token of another list")
		}
	}
	if _, ok := openToken("!", "s"); ok {
		t.Error("garbage")
	}
}

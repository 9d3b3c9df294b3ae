package api

import (
	"testing"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"

	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
)

// TestEveryTextForPeopleIsRuled: every reason and description that a request brings is held to its rule on the wire, also those that core does not see.
func TestEveryTextForPeopleIsRuled(t *testing.T) {
	scope := &automationv1.Scope{Scope: &automationv1.Scope_Source{Source: "a"}}
	for text, ok := range map[string]bool{
		"": true, "runaway import, see #12": true, "Überlauf – 停止": true, "a\u200db": true, "a\nb": false, "\x1b[31mred": false, "a\n": false, "\x7f": false,
		"\u009b31m": false, "\u2028": false, "\u202egpj.exe": false, "\u2066x": false,
	} {
		source := &automationv1.Source{Name: "a", Types: []string{"t"}}
		requests := []proto.Message{
			&automationv1.RegisterSourceRequest{Source: &automationv1.Source{Name: "a", Types: []string{"t"}, Description: text}},
			&automationv1.RegisterSourceRequest{Source: source, Reason: text},
			&automationv1.UpdateSourceRequest{Source: source, Reason: text},
			&automationv1.DeleteSourceRequest{Name: "a", Reason: text},
		}
		if text != "" {
			requests = append(requests, &automationv1.HoldRequest{Spec: &automationv1.SwitchSpec{Scope: scope, Reason: text}},
				&automationv1.ResumeRequest{Scope: scope, Reason: text})
		}
		for _, m := range requests {
			if err := protovalidate.Validate(m); (err == nil) != ok {
				t.Errorf("%q in %s: %v", text, m.ProtoReflect().Descriptor().Name(), err)
			}
		}
	}
}

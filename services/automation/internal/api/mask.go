package api

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
)

// settable are the fields of a source that an update may name. The name is not among them: it is the source.
var settable = []protoreflect.Name{
	"owner", "description", "types", "default_priority", "max_priority", "quota", "tenant_quota", "weight", "retry", "dedupe_window",
	"overflow", "runaway", "principals", "run_timeout", "expiry",
}

// take copies the field at path, such as quota.rate, from one source into another; absent in from clears it. It answers what is wrong
// with the path, or "".
func take(into, from *automationv1.Source, path string) string {
	parts := strings.Split(path, ".")
	if !slices.Contains(settable, protoreflect.Name(parts[0])) {
		return "cannot be changed"
	}
	to, src := into.ProtoReflect(), from.ProtoReflect()
	for i, part := range parts {
		field := to.Descriptor().Fields().ByName(protoreflect.Name(part))
		switch {
		case field == nil:
			return "is no field"
		case i == len(parts)-1 && src.Has(field):
			to.Set(field, src.Get(field))
			return ""
		case i == len(parts)-1:
			to.Clear(field)
			return ""
		case field.Message() == nil || field.IsList() || field.IsMap() || field.Message().FullName().Parent() == "google.protobuf":
			return "leads into a single value"
		}
		to, src = to.Mutable(field).Message(), src.Get(field).Message()
	}
	return "is empty"
}

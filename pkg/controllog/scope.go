package controllog

import (
	"cmp"
	"strings"

	automationv1 "github.com/spillway/spillway/proto/gen/spillway/automation/v1"
)

// scopeKind orders scopes in lists: sources, then tenants, then flows.
type scopeKind uint8

const (
	scopeSource scopeKind = iota + 1
	scopeTenant
	scopeFlow
)

// scope is a Scope as a map key. A flow of the empty tenant is not the source.
type scope struct {
	kind           scopeKind
	source, tenant string
}

func scopeOf(s *automationv1.Scope) (scope, bool) {
	switch s := s.GetScope().(type) {
	case *automationv1.Scope_Source:
		return scope{scopeSource, s.Source, ""}, validName(s.Source)
	case *automationv1.Scope_Tenant:
		return scope{scopeTenant, "", s.Tenant}, s.Tenant != "" && validTenant(s.Tenant)
	case *automationv1.Scope_Flow:
		source, tenant := s.Flow.GetSource(), s.Flow.GetTenant()
		return scope{scopeFlow, source, tenant}, validName(source) && validTenant(tenant)
	}
	return scope{}, false
}

func (s scope) compare(o scope) int {
	return cmp.Or(cmp.Compare(s.kind, o.kind), strings.Compare(s.source, o.source), strings.Compare(s.tenant, o.tenant))
}

// maxName and maxTenant are the contract's bounds of names and tenants, in bytes.
const (
	maxName   = 64
	maxTenant = 128
)

// validName reports whether s is a name of a source or type: [a-z0-9._-]{1,64}.
func validName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

// validTenant reports whether s is at most 128 bytes of printable ASCII.
func validTenant(s string) bool {
	if len(s) > maxTenant {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

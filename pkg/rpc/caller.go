package rpc

import (
	"context"
	"path"
	"slices"
	"time"
)

// Role is what a credential may do. Methods name the one role that they need.
type Role string

// The roles of the contract.
const (
	RoleEnqueue Role = "enqueue"
	RoleWorker  Role = "worker"
	RolePublish Role = "publish"
	RoleRead    Role = "read"
	RoleOperate Role = "operate"
	RoleAdmin   Role = "admin"
)

var allRoles = []Role{RoleEnqueue, RoleWorker, RolePublish, RoleRead, RoleOperate, RoleAdmin}

// Caller is who a verified token speaks for.
type Caller struct {
	// Subject is the token's sub: what a source's principals list.
	Subject string
	Roles   []string
	// Sources and Types are patterns, in which * stands for any run of
	// characters. nil means all; an empty list means none.
	Sources []string
	Types   []string
	// Expires is the token's exp. A stream is cut at most a minute after it.
	Expires time.Time
}

// Has tells whether the caller holds a role. Roles do not imply each other.
func (c Caller) Has(role Role) bool { return slices.Contains(c.Roles, string(role)) }

// MayType tells whether the caller's token covers a type.
func (c Caller) MayType(typ string) bool { return covers(c.Types, typ) }

func covers(patterns []string, name string) bool {
	if patterns == nil {
		return true
	}
	for _, pattern := range patterns {
		// Verify admitted only patterns of the names' own characters and *,
		// so Match cannot fail and no name holds a separator.
		if ok, _ := path.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

type callerKey struct{}

// CallerFrom is the verified caller of an RPC; ok is false in a method that is
// open to all.
func CallerFrom(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(*Caller)
	if !ok {
		return Caller{}, false
	}
	return *c, true
}

// WithCaller is what the server does to a call's context. Services that call
// their own handlers (and their tests) use it to say on whose behalf.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, &c)
}

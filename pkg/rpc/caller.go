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

// Subscriber is who a verified subscriber token lets read notifications. It is
// worth nothing at a gRPC port, because it has no roles, as a Caller's token is
// worth nothing at a websocket, because it has.
type Subscriber struct {
	// Subject is the user, and Tenant the user's tenant: sub and tid, each 1 to
	// 128 bytes of UTF-8.
	Subject string
	Tenant  string
	// Channels are the patterns of ch as they stand in the token, 0 to 64. What
	// they mean, and that none reaches beyond the tenant, is judged where
	// channels are known: by the notifier.
	Channels []string
	// Expires is exp. A session outlives it by a minute at most.
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

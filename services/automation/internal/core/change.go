package core

import "time"

// Request is what every change of the registry has.
type Request struct {
	// ID makes the change once however often it is asked for.
	ID string
	// Actor and Reason are for the audit.
	Actor, Reason string
	// ValidateOnly judges and changes nothing.
	ValidateOnly bool
}

// AnyRevision as a change's expectation means: whatever is there.
const AnyRevision = -1

// Change is a command for the control log. Exactly one of its acts is set.
type Change struct {
	RequestID, Actor, Reason string
	At                       time.Time
	// Expected is the revision of the source or scope that the decision was made on, 0: it must not exist, AnyRevision: no matter.
	Expected int64

	Put    *Source  // register or replace
	Delete string   // remove the source of that name
	Throw  *Switch  // put a switch on its scope
	Clear  *Switch  // end the switch on its scope; Ramp counts
	Note   *Expired // for the audit only
}

// Expired notes that a switch's time is over.
type Expired struct {
	Scope    Scope
	Sequence int64
}

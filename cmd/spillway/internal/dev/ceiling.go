package dev

import "strings"

// Ceiling is the resident memory, in bytes, above which a dev starts a child of
// this name again; 0 for a name that is none of its children's.
func Ceiling(process string) int64 {
	for _, c := range []struct {
		kind  string
		bytes int64
	}{
		{enqueueKind, enqueueCeiling}, {schedulerKind, schedulerCeiling}, {notifierKind, notifierCeiling}, {automationKind, automationCeiling},
		{"broker", brokerCeiling},
	} {
		if strings.HasPrefix(process, c.kind) {
			return c.bytes
		}
	}
	return 0
}

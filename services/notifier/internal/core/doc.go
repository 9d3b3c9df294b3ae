// Package core decides what the notifier may accept and who may receive it, and keeps what clients can come back for. It is pure: callers pass
// the time in, and nothing here waits.
//
//	channel.go       what a notification is addressed to
package core

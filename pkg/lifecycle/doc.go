// Package lifecycle is how things of Spillway start and stop: a Group owns
// goroutines by name and ends them together.
//
// Guarantee: a panic in one becomes an error that names its owner. Non-goal:
// Wait has no deadline of its own; what a goroutine waits for has one.
package lifecycle

import (
	"fmt"
	"runtime/debug"
)

// PanicError is a panic that was contained.
type PanicError struct {
	Value any
	Stack []byte
}

// Error is the panic's value and the stack that it came from.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack) }

// contained calls f and turns its panic into an error.
func contained(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &PanicError{Value: r, Stack: debug.Stack()}
		}
	}()
	return f()
}

// Package work runs the handlers of generated jobs through the worker SDK: in
// this process, or in child processes that report each start before acting on it.
package work

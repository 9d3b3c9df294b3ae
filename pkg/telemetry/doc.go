// Package telemetry says what Spillway reports about itself and how its traces
// are shaped: the names of spans, attributes and instruments, the spans of a
// job's way, and the log handler that ties log lines to traces.
//
// It needs OpenTelemetry's API only, so that the SDKs which users import do
// not bring exporters along. The providers are made by pkg/telemetry/export,
// which belongs to main.
//
// # The shape of a job's trace
//
//	Enqueue (SERVER, a new root; a link to the caller's)
//	└─ send jobs.default (PRODUCER): the creation context, in the record's headers
//	   ├─ queue wait (INTERNAL, back-dated; one attribute a cause)
//	   └─ process tag (CONSUMER), in the worker
//
// The first line is for callers from outside. Where all callers are ours
// (Config.JoinCallers) the call is its caller's child, and the whole is one trace.
//
// That holds for a first attempt within ten minutes of acceptance (Joined). Any
// other attempt is a root of its own; every attempt links to the creation
// context, a retry also to the attempt before it.
package telemetry

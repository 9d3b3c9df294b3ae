package telemetry

import "go.opentelemetry.io/otel/attribute"

// Scope is the instrumentation scope of Spillway's own spans and instruments.
const Scope = "github.com/spillway/spillway"

// Span names. The conventions of messaging systems are still moving
// (semconv 1.43.0, Development), so what we follow of them stands here only.
//
// SpanQueueWait is the time from acceptance to grant, back-dated.
const SpanQueueWait = "queue wait"

// SpanSend names the span of writing to a topic, such as "send jobs.high" or
// "send spill". topic comes without the configured prefix.
func SpanSend(topic string) string { return "send " + topic }

// SpanProcess names the span of running a job of a type.
func SpanProcess(typ string) string { return "process " + typ }

// Attribute keys of our own. Those that name a job are on every span of it, and
// from its start, because they decide whether it is sampled.
const (
	KeyJobID    = attribute.Key("spillway.job.id")
	KeySource   = attribute.Key("spillway.source")
	KeyTenant   = attribute.Key("spillway.tenant")
	KeyType     = attribute.Key("spillway.type")
	KeyPriority = attribute.Key("spillway.priority")
	KeyAttempt  = attribute.Key("spillway.attempt")
	KeyReason   = attribute.Key("spillway.reason")
	KeyVerdict  = attribute.Key("spillway.verdict")
	// KeyWait prefixes one attribute for each cause of a wait, in seconds:
	// spillway.wait.quota_rate. They sum to the wait.
	KeyWait = attribute.Key("spillway.wait")
)

// Attribute keys of OpenTelemetry's messaging conventions that we use.
const (
	KeySystem        = attribute.Key("messaging.system")
	KeyOperation     = attribute.Key("messaging.operation.name")
	KeyOperationType = attribute.Key("messaging.operation.type")
	KeyDestination   = attribute.Key("messaging.destination.name")
	KeyPartition     = attribute.Key("messaging.destination.partition.id")
	KeyMessageID     = attribute.Key("messaging.message.id")
	KeyErrorType     = attribute.Key("error.type")
)

// Names of OpenTelemetry's conventions for calls (semconv 1.43.0). The span of
// a call is named by its method without the leading slash.
const (
	KeyRPCSystem = attribute.Key("rpc.system.name")
	KeyRPCMethod = attribute.Key("rpc.method")
	KeyRPCStatus = attribute.Key("rpc.response.status_code")

	// MetricServerCalls and MetricClientCalls are histograms, in seconds.
	MetricServerCalls = "rpc.server.call.duration"
	MetricClientCalls = "rpc.client.call.duration"
)

// Our own instruments. Their label sets are fixed and bounded: only registered sources are labels.
const (
	// MetricAccepted counts jobs that were made durable: by source, priority and verdict.
	MetricAccepted = "spillway.job.accepted"
	// MetricRefused counts jobs that were refused or are of unknown fate: by source and reason.
	MetricRefused = "spillway.job.refused"
	// MetricQueueWait is a histogram, in seconds, of the time from acceptance to grant: by source and priority. It is the service level
	// indicator, and its count is the number of grants.
	MetricQueueWait = "spillway.job.queue.wait"
)

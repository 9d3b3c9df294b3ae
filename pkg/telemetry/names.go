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

// SpanDeliver is the giving of a notification to the sockets of a replica that hear it, from the time it was read to the last write.
const SpanDeliver = "deliver"

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
	// KeySessions is how many sockets took a notification when it came, on SpanDeliver.
	KeySessions = attribute.Key("spillway.sessions")
	// KeyCode is the number that a session was ended with; 0: its socket broke.
	KeyCode = attribute.Key("spillway.code")
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
	// MetricPublished counts notifications that were made durable: by source.
	MetricPublished = "spillway.notification.accepted"
	// MetricUnpublished counts notifications that were refused or are of unknown fate: by source and reason.
	MetricUnpublished = "spillway.notification.refused"
	// MetricQueueWait is a histogram, in seconds, of the time from acceptance to grant: by source and priority. It is the service level
	// indicator, and its count is the number of grants.
	MetricQueueWait = "spillway.job.queue.wait"

	// MetricSessions is how many sessions a replica of the notifier has.
	MetricSessions = "spillway.notifier.sessions"
	// MetricDelivered counts notifications that sockets took.
	MetricDelivered = "spillway.notifier.delivered"
	// MetricSlow counts how often a session fell behind because its socket was full.
	MetricSlow = "spillway.notifier.slow"
	// MetricGaps counts gaps that clients were told of: by reason.
	MetricGaps = "spillway.notifier.gaps"
	// MetricEnded counts sessions that the notifier ended: by code. MetricTurnedAway counts those that it refused before they began, likewise.
	MetricEnded      = "spillway.notifier.ended"
	MetricTurnedAway = "spillway.notifier.turned_away"
	// MetricSkipped counts notifications that nobody was given: by reason, expired or unreadable.
	MetricSkipped = "spillway.notifier.skipped"
	// MetricUnknown counts what clients said that this release does not know.
	MetricUnknown = "spillway.notifier.unknown"
	// MetricAge is a histogram, in seconds, of the time from a notification's acceptance until a replica has read it.
	MetricAge = "spillway.notifier.age"
)

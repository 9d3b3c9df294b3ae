package telemetry

import "go.opentelemetry.io/otel/attribute"

// Scope is the instrumentation scope of Spillway's own spans and instruments.
const Scope = "github.com/spillway/spillway"

// Span names. The conventions of messaging systems are still moving
// (semconv 1.43.0, Development), so what we follow of them stands here only.
const (
	// SpanQueueWait is the time from acceptance to grant, back-dated.
	SpanQueueWait = "queue wait"
	// SpanSchedule is an unusual decision about a job: it was held, spilled,
	// moved, demoted or purged.
	SpanSchedule = "schedule"
)

// SpanSend names the span of writing to a topic, such as "send jobs.high" or
// "send spill". topic comes without the configured prefix.
func SpanSend(topic string) string { return "send " + topic }

// SpanCreate names the span of one message in a batch.
func SpanCreate(topic string) string { return "create " + topic }

// SpanProcess names the span of running a job of a type.
func SpanProcess(typ string) string { return "process " + typ }

// Attribute keys of our own. They are on every span of a job, and, as log keys
// of the same names with _ for the last dot's left side, on every log line.
const (
	KeyJobID    = attribute.Key("spillway.job.id")
	KeySource   = attribute.Key("spillway.source")
	KeyTenant   = attribute.Key("spillway.tenant")
	KeyType     = attribute.Key("spillway.type")
	KeyPriority = attribute.Key("spillway.priority")
	KeyAttempt  = attribute.Key("spillway.attempt")
	KeyOutcome  = attribute.Key("spillway.outcome")
	KeyReason   = attribute.Key("spillway.reason")
	KeyVerdict  = attribute.Key("spillway.verdict")
	KeyReplica  = attribute.Key("spillway.replica")
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
	KeyTemplate      = attribute.Key("messaging.destination.template")
	KeyPartition     = attribute.Key("messaging.destination.partition.id")
	KeyBatchCount    = attribute.Key("messaging.batch.message_count")
	KeyMessageID     = attribute.Key("messaging.message.id")
	KeyOffset        = attribute.Key("messaging.kafka.offset")
	KeyErrorType     = attribute.Key("error.type")
)

package rpc

// The reasons of ErrorInfo. They are part of the contract: one may be added,
// none changes its meaning or its code.
const (
	// NOT_FOUND
	ReasonUnknownSource = "UNKNOWN_SOURCE"
	ReasonUnknownJob    = "UNKNOWN_JOB"
	// INVALID_ARGUMENT
	ReasonInvalid         = "INVALID"
	ReasonUnknownType     = "UNKNOWN_TYPE"
	ReasonPayloadTooLarge = "PAYLOAD_TOO_LARGE"
	// FAILED_PRECONDITION
	ReasonSourceBlocked = "SOURCE_BLOCKED"
	ReasonHoldFirst     = "HOLD_FIRST"
	ReasonStalePreview  = "STALE_PREVIEW"
	ReasonHasBacklog    = "HAS_BACKLOG"
	// RESOURCE_EXHAUSTED
	ReasonQuotaExceeded  = "QUOTA_EXCEEDED"
	ReasonBacklogFull    = "BACKLOG_FULL"
	ReasonOverloaded     = "OVERLOADED"
	ReasonLanesExhausted = "LANES_EXHAUSTED"
	// ALREADY_EXISTS
	ReasonIdempotencyConflict = "IDEMPOTENCY_CONFLICT"
	// UNAUTHENTICATED
	ReasonNoCredentials = "NO_CREDENTIALS"
	// PERMISSION_DENIED
	ReasonNotAllowed = "NOT_ALLOWED"
	// ABORTED
	ReasonFateUnknown   = "FATE_UNKNOWN"
	ReasonKeyExpired    = "KEY_EXPIRED"
	ReasonStaleRevision = "STALE_REVISION"
	// UNAVAILABLE
	ReasonBrokerUnavailable = "BROKER_UNAVAILABLE"
	ReasonNotConfirmed      = "NOT_CONFIRMED"
	// in band, of an attempt
	ReasonRunTimeout   = "RUN_TIMEOUT"
	ReasonStaleLease   = "STALE_LEASE"
	ReasonHandlerPanic = "HANDLER_PANIC"
	ReasonNoHandler    = "NO_HANDLER"
)

// Package trace follows one notification through the product's real processes by
// what they export: from its caller's span through enqueue, Kafka, a scheduler, a
// worker and the notifier to the websocket.
//
//	caller ── enqueue ── Kafka ── scheduler ── worker ── notifier ── Kafka ── notifier ══ websocket
//	   │         │                               │          │                   │
//	   └─────────┴────────── OTLP/gRPC ──────────┴──────────┴───────────────────┘──▶ collector in the test's process
//
// Each test prints the trace that it saw. The TestApache… forms do the same on
// Apache Kafka.
package trace

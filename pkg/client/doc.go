// Package client is the SDK of those who enqueue jobs and publish notifications.
//
//	c, err := client.Dial("dns:///enqueue:7400")
//	r, err := c.Enqueue(ctx, client.Job{Source: "crm-autotag", Tenant: "t1", Type: "tag", Payload: b})
//
// # Guarantees
//
//   - A result without an error means that the job is durable: it will be started, unless an operator purges it or its own expiry passes.
//   - However often a call is tried, it makes one job: every job has an idempotency key before its first try.
//   - An [Error] with Refused true means that the job was certainly not accepted. Every other error means that it may have been: enqueue again
//     with the same Job.Key, or accept that it may run. A refusal that answers a retry says nothing about the first try, so it is reported as
//     FATE_UNKNOWN.
//   - No call outlives its context; without a deadline in it, a call takes at most the time given by [WithTimeout].
//   - Retries are at most a tenth of the first tries, and when the service is overloaded or away part of the calls is refused here, unsent
//     ([Client.Enqueue]), so that a fleet of clients does not hold an overloaded service down.
//
// # Coalescing
//
// A call that finds nobody else under way for its source is sent at once. Calls that come while two of the source are under way share the next
// EnqueueBatch, which costs a tenth of what they would cost alone; sources never wait for each other. A call whose context carries a sampled
// span always travels alone, so that its trace reaches the job. Calls that share a batch do not bring their outgoing gRPC metadata along.
//
// # In a handler
//
// The context of a handler of pkg/worker names the job that runs. A job that is enqueued with it inherits the source, where none is given, and
// is never more urgent than its parent; the chain of causes is written down, so that a loop can be found and stopped.
//
// # Notifications
//
//	n, err := client.DialNotifier("dns:///notifier:7420")
//	p, err := n.Publish(ctx, client.Notification{Source: "crm-autotag", Tenant: "t1", Channel: "user:t1:anna", Data: []byte(`{"text":"done"}`)})
//
// A [Notifier] gives the guarantees above for notifications: durable when there is no error, never waiting for a websocket; one id for all tries
// of a call, so that clients can drop a second copy; the same [Error]. A job of type notify is the other way: it is retried by its source's policy
// when the notifier is away. Websockets are read with pkg/subscriber.
package client

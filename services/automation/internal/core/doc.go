// Package core holds automation's rules: what a source must look like, what registering and updating one means, how long a switch lasts,
// and when a switch is proven to be in force.
//
// # Model
//
// A [Source] is complete once it went through Defaulted; Validate then names every field that is wrong, at once. [Register] and [Update]
// say what the control log should hold next; the log decides whether it does.
//
// [Prove] looks at the replicas' last beats and says whether a change is in force everywhere:
//
//	read back ──▶ every live scheduler and enqueue replica acknowledged ───────────────▶ proven
//	     │            └── after 500 ms: a scheduler that did not is named silent ─────▶ proven (it can no longer grant)
//	     └── not read back ──▶ unconfirmed
//
// # Guarantees
//
//   - No quota that is negative, not a number or infinite gets through Validate (TestQuotaArithmetic, FuzzValidate).
//   - A change is never called proven while a scheduler might still grant on what was before (TestProve).
//
// # Non-goals
//
// Nothing here reads a clock, waits or knows how things are stored or sent.
package core

// Package product runs the product as users do: its binary, built once, as real
// processes on loopback, which tests stop, kill, freeze and thaw by pid.
//
//	TestMain ─▶ Main ─▶ Binary (built at first use)
//	                      ├─▶ StartDev ─▶ Dev: broker and services, supervised   ──▶ Kill, Terminate, Freeze, Thaw by name
//	                      ├─▶ Dev.Serve ─▶ Replica: one more service, unsupervised ─▶ the same, and Start again
//	                      ├─▶ Dev.Listen ─▶ Listener: a subscriber at a notifier's websocket
//	                      ├─▶ Dev.Load ─▶ Load: `spillway load` under way         ──▶ Report
//	                      └─▶ Run: a command to its end
//
// It acts on loopback only, ends what it started when the test ends (also, on
// Linux, when the test binary is killed), and every wait has a deadline.
package product

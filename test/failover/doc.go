// Package failover takes the brokers away under load, by SIGKILL and by SIGSTOP,
// and measures how long it is until the product works again, beside how long Kafka
// itself needs: a plain client that produces all the time is the reference.
//
//	plain client ──acks=all──▶ a topic of its own ─┐
//	generator ──▶ enqueue ──▶ job topics ──────────┼──▶ broker(s)  ◀── kill -9, freeze
//	   ▲                         │                 │
//	   │ account: sent, answered │ scheduler(s) ───┘
//	   │                         ▼
//	   └────────────────────── workers: started, ended, context ended early
//
// Services are processes of the product's binary, started by hand as an operator
// starts them (keys, install, serve); generator and workers use the SDK and run in
// the test's own process. Every wait has a deadline, everything listens on loopback,
// and only processes that a test started are killed.
//
//	go test ./test/failover                                                          the embedded broker
//	SPILLWAY_TEST_KAFKA=apache go test -timeout 30m -run TestApache -v ./test/failover [-args -seed 7 -defaults]
//
// Times that a run prints are those of the machine it ran on, with brokers,
// services and load on the same cores.
package failover

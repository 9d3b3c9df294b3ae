// Package kafkatest starts a Kafka-protocol broker inside a test: in memory,
// without a socket or a file, and on the clock of a testing/synctest bubble
// when it is started in one. Only tests import it.
//
//	broker := kafkatest.Start(t)
//	broker.Install(t, kafka.Layout{…})
//	client := broker.Client(t, "scheduler")
//
// Everything that Start begins has ended when the test has: in a bubble no
// goroutine of it is left behind.
package kafkatest

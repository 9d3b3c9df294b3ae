// Package broker holds what Spillway relies on of a broker against a broker that
// runs as a process of its own.
//
// Conformance is a list of facts, each of which some rule of the product stands
// on; any broker can be put under it. Churn is the same consume path that the
// scheduler uses, with members that join, stop and are killed while records are
// written and settled out of order: no record may be lost, and few may be
// settled twice.
//
// The tests of this package run both on the embedded broker, and those named
// TestApache… the same on Apache Kafka with one broker and with three; package
// apache tells how to run them.
package broker

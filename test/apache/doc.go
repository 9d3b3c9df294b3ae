// Package apache runs Apache Kafka for tests: one broker or three, in KRaft
// mode, on free ports of the loopback interface, as processes that end with the
// process that started them.
//
// Start is for tests. The environment decides whether they run:
//
//	SPILLWAY_TEST_KAFKA unset    the test is skipped, and says how to run it
//	SPILLWAY_TEST_KAFKA=apache   brokers are started; when that fails the test fails
//
// Tests that call it are named TestApache…, so that one can run them alone:
//
//	SPILLWAY_TEST_KAFKA=apache go test -p 1 -run TestApache ./test/...
//
// One broker takes about 4 s to start and 300 MB of memory.
//
// Java 17 or newer is needed, and Maven once, to fetch the 45 jars (45 MB) of
// pom.xml into the user's cache directory. Command kafka, beside this package,
// starts the same brokers for people.
package apache

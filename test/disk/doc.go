// Package disk drives very many jobs through the product's real processes and watches what they leave on the disk: the log is trimmed
// while they run, and stays small however many there were.
//
//	go test ./test/disk                                          # 300,000 jobs on the embedded broker, a minute
//	go test ./test/disk -run TestDisk -timeout 2h -v -args -jobs 10000000
//	SPILLWAY_TEST_KAFKA=apache go test ./test/disk -run TestApache -v
package disk

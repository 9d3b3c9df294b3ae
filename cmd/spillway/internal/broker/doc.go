// Package broker is the embedded log: franz-go's kfake behind guard rails, on
// a Unix socket, with its data in a directory.
//
// It is for local use: one process, one copy, never fsynced. It survives
// kill -9 with nothing acknowledged lost, but not a power failure. It is not a
// production broker.
//
// # Guard rails
//
//	hazard of kfake                         what holds it
//	an unknown request key kills it         guard.go closes the connection
//	a 4 GiB request is allocated unchecked  guard.go: 8 MiB
//	any port is open to everybody           lock.go: socket in a 0700 directory
//	two processes write the same files      lock.go: flock
//	start reads the whole store to memory   store.go: a cap, checked against GOMEMLIMIT
//	an emptied partition restarts at 0      trim.go: the last record stays;
//	                                        check.go: commits above the end refuse to start
//	retention may empty a partition         its ticker is set to never; trim.go instead
//	compaction loses keys when killed       no topic of ours compacts
//	joins restart a rebalance for ever      limits.go: rebalance timeouts of at most 3 s
package broker

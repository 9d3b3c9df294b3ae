package socket

import "syscall"

// tcpNotSentLowat is TCP_NOTSENT_LOWAT, which package syscall does not have.
const tcpNotSentLowat = 25

// setUnsent makes a socket full when that many bytes wait to be sent, not counting those that are on their way. Without it the kernel lets a buffer grow that nobody sees.
func setUnsent(raw syscall.RawConn, n int) {
	_ = raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpNotSentLowat, n) })
}

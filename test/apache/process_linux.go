package apache

import "syscall"

// attributes let the kernel kill a broker when this process dies, however it
// dies: not even a test that is killed leaves brokers behind.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

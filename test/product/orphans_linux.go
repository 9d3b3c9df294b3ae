package product

import (
	"os/exec"
	"syscall"
)

// dieWithUs has the kernel end a child whose test binary was killed, for
// instance by the test's timeout: nobody else would. One with a lifeline is killed:
// it may be frozen, and then it does not see the lifeline's end.
func dieWithUs(cmd *exec.Cmd, lifeline bool) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	if lifeline {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
}

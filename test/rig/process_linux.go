package rig

import (
	"os/exec"
	"syscall"
)

// dieWithParent keeps a frozen process from outliving a test binary that ran
// into its timeout.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

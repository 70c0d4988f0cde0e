package server

import "syscall"

// dieWithParent keeps a server from outliving an owner that was killed.
func dieWithParent(a *syscall.SysProcAttr) { a.Pdeathsig = syscall.SIGKILL }

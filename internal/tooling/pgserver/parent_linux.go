package pgserver

import "syscall"

// dieWithParent has the kernel shut the server down when the thread that
// started it ends; startProcess keeps that thread for as long as the server
// runs. SIGQUIT and not SIGKILL: the server's own children end with it and its
// shared memory is freed.
//
// prctl(2), PR_SET_PDEATHSIG
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }

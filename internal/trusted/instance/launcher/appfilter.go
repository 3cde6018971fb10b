package launcher

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The app's own system call filter, on top of the launch profile's: the profile
// has to let the launcher make one user namespace, and the app shall make none.
// In a further one it would have every capability there, and with it parts of
// the kernel within reach that are no app's.

// Offsets in struct seccomp_data, whose numbers are the machine's: the lower
// half of an argument comes first.
const (
	dataNumber = 0
	dataArch   = 4
	dataArg0   = 16
)

// x32Bit marks the system calls of an ABI that nothing needs.
const x32Bit = 0x4000_0000

// appFilter is the filter as the kernel runs it. The profile is for x86_64
// alone, and so is this.
func appFilter() []unix.SockFilter {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		atMost = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
		anyBit = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K
	)
	return []unix.SockFilter{
		0: {Code: load, K: dataArch},
		1: {Code: equal, K: unix.AUDIT_ARCH_X86_64, Jt: 1},
		2: {Code: answer, K: unix.SECCOMP_RET_KILL_PROCESS},

		3: {Code: load, K: dataNumber},
		4: {Code: atMost, K: x32Bit, Jt: 8},          // to 13
		5: {Code: equal, K: unix.SYS_CLONE3, Jt: 7},  // to 13: its flags are out of a filter's sight
		6: {Code: equal, K: unix.SYS_SETNS, Jt: 5},   // to 12
		7: {Code: equal, K: unix.SYS_CLONE, Jt: 2},   // to 10
		8: {Code: equal, K: unix.SYS_UNSHARE, Jt: 1}, // to 10
		9: {Code: answer, K: unix.SECCOMP_RET_ALLOW},

		10: {Code: load, K: dataArg0},
		11: {Code: anyBit, K: unix.CLONE_NEWUSER, Jf: 2}, // to 14
		12: {Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		13: {Code: answer, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		14: {Code: answer, K: unix.SECCOMP_RET_ALLOW},
	}
}

// installAppFilter puts the filter onto the calling thread, for ever: the thread
// must be locked, must have no_new_privs, and executes the app next.
func installAppFilter() error {
	filter := appFilter()
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("filter the app's system calls: %w", errno)
	}
	return nil
}

package launcher

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// That there is a filter says nothing: one that allows everything is a filter
// too. So the launcher tries what the profile's filter must refuse and what it
// must let through. Every call has arguments that no kernel accepts, so it
// changes nothing either way, and its answer tells who gave it: EPERM is the
// filter's (or ENOSYS, where nobody has the call), any other error the
// kernel's.

// invalid is the argument of every probe: no descriptor, no address, no process
// and no set of flags.
const invalid = ^uintptr(0)

// forbiddenCalls are refused by the profile: every call of this kind of machine
// that it leaves out, but those that no kernel has any more, and those of which
// the kernel itself says EPERM to a launcher without their capability, or which
// take no arguments.
var forbiddenCalls = map[string]uintptr{
	"add_key":           unix.SYS_ADD_KEY,
	"adjtimex":          unix.SYS_ADJTIMEX,
	"bpf":               unix.SYS_BPF,
	"clock_adjtime":     unix.SYS_CLOCK_ADJTIME,
	"clock_settime":     unix.SYS_CLOCK_SETTIME,
	"fanotify_mark":     unix.SYS_FANOTIFY_MARK,
	"get_mempolicy":     unix.SYS_GET_MEMPOLICY,
	"io_uring_enter":    unix.SYS_IO_URING_ENTER,
	"io_uring_register": unix.SYS_IO_URING_REGISTER,
	"io_uring_setup":    unix.SYS_IO_URING_SETUP,
	"ioperm":            unix.SYS_IOPERM,
	"iopl":              unix.SYS_IOPL,
	"kcmp":              unix.SYS_KCMP,
	"keyctl":            unix.SYS_KEYCTL,
	"mbind":             unix.SYS_MBIND,
	"migrate_pages":     unix.SYS_MIGRATE_PAGES,
	"modify_ldt":        unix.SYS_MODIFY_LDT,
	"move_pages":        unix.SYS_MOVE_PAGES,
	"name_to_handle_at": unix.SYS_NAME_TO_HANDLE_AT,
	"open_by_handle_at": unix.SYS_OPEN_BY_HANDLE_AT,
	"perf_event_open":   unix.SYS_PERF_EVENT_OPEN,
	"pidfd_getfd":       unix.SYS_PIDFD_GETFD,
	"process_madvise":   unix.SYS_PROCESS_MADVISE,
	"process_vm_readv":  unix.SYS_PROCESS_VM_READV,
	"process_vm_writev": unix.SYS_PROCESS_VM_WRITEV,
	"ptrace":            unix.SYS_PTRACE,
	"quotactl":          unix.SYS_QUOTACTL,
	"quotactl_fd":       unix.SYS_QUOTACTL_FD,
	"request_key":       unix.SYS_REQUEST_KEY,
	"set_mempolicy":     unix.SYS_SET_MEMPOLICY,
	"setdomainname":     unix.SYS_SETDOMAINNAME,
	"sethostname":       unix.SYS_SETHOSTNAME,
	"setns":             unix.SYS_SETNS,
	"settimeofday":      unix.SYS_SETTIMEOFDAY,
	"swapoff":           unix.SYS_SWAPOFF,
	"swapon":            unix.SYS_SWAPON,
	"sysfs":             unix.SYS_SYSFS,
	"userfaultfd":       unix.SYS_USERFAULTFD,
	"ustat":             unix.SYS_USTAT,
}

// allowedCalls are let through: of those that the launcher's own work rests on,
// the ones that refuse invalid arguments.
var allowedCalls = map[string]uintptr{
	"capset":       unix.SYS_CAPSET,
	"chroot":       unix.SYS_CHROOT,
	"close":        unix.SYS_CLOSE,
	"close_range":  unix.SYS_CLOSE_RANGE,
	"connect":      unix.SYS_CONNECT,
	"execve":       unix.SYS_EXECVE,
	"fchmod":       unix.SYS_FCHMOD,
	"fchown":       unix.SYS_FCHOWN,
	"fsconfig":     unix.SYS_FSCONFIG,
	"fsmount":      unix.SYS_FSMOUNT,
	"fsopen":       unix.SYS_FSOPEN,
	"getrandom":    unix.SYS_GETRANDOM,
	"ioprio_set":   unix.SYS_IOPRIO_SET,
	"mkdirat":      unix.SYS_MKDIRAT,
	"mount":        unix.SYS_MOUNT,
	"move_mount":   unix.SYS_MOVE_MOUNT,
	"open_tree":    unix.SYS_OPEN_TREE,
	"openat":       unix.SYS_OPENAT,
	"pivot_root":   unix.SYS_PIVOT_ROOT,
	"prctl":        unix.SYS_PRCTL,
	"prlimit64":    unix.SYS_PRLIMIT64,
	"read":         unix.SYS_READ,
	"rt_sigaction": unix.SYS_RT_SIGACTION,
	"seccomp":      unix.SYS_SECCOMP,
	"setgroups":    unix.SYS_SETGROUPS,
	"setxattr":     unix.SYS_SETXATTR,
	"umount2":      unix.SYS_UMOUNT2,
	"unlinkat":     unix.SYS_UNLINKAT,
	"wait4":        unix.SYS_WAIT4,
	"write":        unix.SYS_WRITE,
}

// probe is one call whose first arguments decide.
type probe struct {
	name   string
	call   uintptr
	args   [2]uintptr
	answer unix.Errno
}

// The namespaces that clone can make.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER |
	unix.CLONE_NEWPID | unix.CLONE_NEWNET

// byArgument are calls that the filter judges by their arguments. To make a
// process with a folder shared into a new mount or user namespace contradicts
// itself; to enter one takes a process without threads, which this isn't.
func byArgument() []probe {
	const filters, kernels = unix.EPERM, unix.EINVAL
	probes := []probe{
		{"clone into a user namespace", unix.SYS_CLONE, [2]uintptr{unix.CLONE_NEWUSER | unix.CLONE_FS, 0}, kernels},
		{"clone into a mount namespace", unix.SYS_CLONE, [2]uintptr{unix.CLONE_NEWNS | unix.CLONE_FS, 0}, kernels},
		{"clone into all namespaces", unix.SYS_CLONE, [2]uintptr{namespaces | unix.CLONE_FS, 0}, filters},
		{"unshare of nothing known", unix.SYS_UNSHARE, [2]uintptr{1, 0}, kernels},
		{"unshare of the user namespace", unix.SYS_UNSHARE, [2]uintptr{unix.CLONE_NEWUSER, 0}, filters},
		{"clone3", unix.SYS_CLONE3, [2]uintptr{0, 0}, unix.ENOSYS},
		{"personality of 32 bits", unix.SYS_PERSONALITY, [2]uintptr{8, 0}, filters},
		{"personality without random addresses", unix.SYS_PERSONALITY, [2]uintptr{0x40000, 0}, filters},
	}

	// The user namespace is allowed alone.
	for _, other := range []uintptr{unix.CLONE_NEWNS, unix.CLONE_NEWCGROUP, unix.CLONE_NEWUTS, unix.CLONE_NEWIPC, unix.CLONE_NEWPID, unix.CLONE_NEWNET} {
		probes = append(probes, probe{
			name:   "clone into a user and another namespace",
			call:   unix.SYS_CLONE,
			args:   [2]uintptr{unix.CLONE_NEWUSER | unix.CLONE_FS | other, 0},
			answer: filters,
		})
	}

	for family := range uintptr(unix.AF_MAX) {
		answer := filters
		switch family {
		case unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK:
			answer = kernels
		}
		probes = append(probes, probe{
			name:   fmt.Sprintf("socket of family %d", family),
			call:   unix.SYS_SOCKET,
			args:   [2]uintptr{family, invalid},
			answer: answer,
		})
	}
	return probes
}

// checkFilter refuses a filter that isn't the launch profile's.
func checkFilter() error {
	for name, call := range forbiddenCalls {
		if errno := tryInvalid(call); errno != unix.EPERM && errno != unix.ENOSYS {
			return otherFilter("lets %s through", name)
		}
	}

	for name, call := range allowedCalls {
		if errno := tryInvalid(call); errno == 0 || errno == unix.EPERM || errno == unix.ENOSYS {
			return otherFilter("doesn't let %s through", name)
		}
	}

	for _, p := range byArgument() {
		_, _, errno := unix.RawSyscall6(p.call, p.args[0], p.args[1], 0, 0, 0, 0)
		if errno != p.answer {
			return otherFilter("answers %s with %v", p.name, errno)
		}
	}
	return nil
}

func tryInvalid(call uintptr) unix.Errno {
	_, _, errno := unix.RawSyscall6(call, invalid, invalid, invalid, invalid, invalid, invalid)
	return errno
}

func otherFilter(format string, args ...any) error {
	return otherLaunch(ruleLaunchFilter, "its system call filter "+format, args...).Want("the launch profile's")
}

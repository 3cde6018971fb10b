package inherit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The functions here each own one attribute of the calling thread or of its
// process. An attribute that this kernel doesn't know is as good as set.

// ownUser makes the process root's in every sense, without further groups.
func ownUser() error {
	var none [1]uint32
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, uintptr(unsafe.Pointer(&none)), 0); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, 0, 0, 0); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// needed are the capabilities that the daemons use and that instances are
// started with.
var needed = []struct {
	number int
	name   string
}{
	{unix.CAP_CHOWN, "CAP_CHOWN"},
	{unix.CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
	{unix.CAP_FOWNER, "CAP_FOWNER"},
	{unix.CAP_KILL, "CAP_KILL"},
	{unix.CAP_SETGID, "CAP_SETGID"},
	{unix.CAP_SETUID, "CAP_SETUID"},
	{unix.CAP_SETPCAP, "CAP_SETPCAP"},
	{unix.CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"},
	{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{unix.CAP_SYS_CHROOT, "CAP_SYS_CHROOT"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE"},
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
	{unix.CAP_SYS_NICE, "CAP_SYS_NICE"},
	{unix.CAP_MKNOD, "CAP_MKNOD"},
	{unix.CAP_SETFCAP, "CAP_SETFCAP"},
}

// ownCapabilities takes every capability that root may have here, hands none on
// beside root's own way, and refuses a root that lacks one of those needed.
func ownCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return err
	}

	for i := range sets {
		sets[i].Effective = sets[i].Permitted
		sets[i].Inheritable = 0
	}
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return err
	}

	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}

	var missing []string
	for _, c := range needed {
		bounded, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c.number), 0, 0, 0)
		if err != nil {
			return err
		}
		if bounded == 0 || sets[c.number/32].Permitted&(1<<(c.number%32)) == 0 {
			missing = append(missing, c.name)
		}
	}

	if len(missing) > 0 {
		return fmt.Errorf("it lacks %s", strings.Join(missing, ", "))
	}
	return nil
}

// ownSecureBits are none: root has its capabilities by being root.
func ownSecureBits() error {
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil || bits == 0 {
		return err
	}
	return unix.Prctl(unix.PR_SET_SECUREBITS, 0, 0, 0, 0)
}

// noFilter refuses a filter of system calls, which nothing takes away again and
// which every instance would have too.
func noFilter() error {
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	if err != nil || mode == unix.SECCOMP_MODE_DISABLED {
		return nil
	}
	return errors.New("one was set for it (seccomp)")
}

// mayExecute refuses that no memory may become executable: runtimes that compile
// while they run couldn't.
func mayExecute() error {
	const getMDWE, refuseExecGain, noInherit = 66, 1, 2
	bits, err := unix.PrctlRetInt(getMDWE, 0, 0, 0, 0)
	if err != nil || bits&refuseExecGain == 0 || bits&noInherit != 0 {
		return nil
	}
	return errors.New("that was denied to it and all that it starts (PR_SET_MDWE)")
}

// machineMounts refuses a mount namespace of the caller's on the very file system
// that process 1 has: what is mounted there for instances nobody else would find.
// In a container, whose process 1 has another root or can't be seen, there is
// nothing to compare.
func machineMounts() error {
	first, err := os.Readlink("/proc/1/ns/mnt")
	if err != nil {
		return nil
	}

	mine, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil || mine == first {
		return nil
	}

	var root, firstRoot unix.Stat_t
	if unix.Stat("/", &root) != nil || unix.Stat("/proc/1/root/", &firstRoot) != nil || root.Dev != firstRoot.Dev || root.Ino != firstRoot.Ino {
		return nil
	}
	return errors.New("it was started in a mount namespace of its caller's, which ends with it")
}

// ownSchedule is the ordinary policy with nice 0, for all that is started too.
func ownSchedule() error {
	return unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0)
}

// ownProcessors are all that the control group has.
func ownProcessors() error {
	var all unix.CPUSet
	for i := range all {
		all[i] = ^all[i]
	}
	return unix.SchedSetaffinity(0, &all)
}

// ownIOPriority is none of its own: it follows from nice.
func ownIOPriority() error {
	const whoProcess, classNone = 1, 0
	_, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, 0, classNone)
	return known(errno)
}

// ownMemoryPolicy is the machine's: memory of whichever node is near.
func ownMemoryPolicy() error {
	const byDefault = 0
	_, _, errno := unix.RawSyscall(unix.SYS_SET_MEMPOLICY, byDefault, 0, 0)
	return known(errno)
}

// known passes over what the kernel was built without.
func known(errno unix.Errno) error {
	if errno == 0 || errno == unix.ENOSYS {
		return nil
	}
	return errno
}

// ownOOMScore is 0: neither the first to go nor, above all others, the last.
func ownOOMScore() error {
	const file = "/proc/self/oom_score_adj"
	was, err := os.ReadFile(file)
	if err != nil || string(bytes.TrimSpace(was)) == "0" {
		return nil
	}

	if err := os.WriteFile(file, []byte("0"), 0); err != nil {
		return fmt.Errorf("it is %s: %w", bytes.TrimSpace(was), err)
	}
	return nil
}

// ownPersonality undoes what setarch does: no random addresses, another machine.
func ownPersonality() error {
	_, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, 0, 0, 0)
	return known(errno)
}

// ownMemory undoes what was asked for the memory of all that is started: no large
// pages, merging of equal pages (KSM), a way to write back that can't wait; and has a
// dump, if root allows one, hold what it holds by default.
func ownMemory() error {
	const setMerge, getMerge, setFlusher, getFlusher = 67, 68, 57, 58

	for _, f := range []struct {
		name     string
		get, set int
	}{
		{"large pages (PR_SET_THP_DISABLE)", unix.PR_GET_THP_DISABLE, unix.PR_SET_THP_DISABLE},
		{"merging of equal pages (PR_SET_MEMORY_MERGE)", getMerge, setMerge},
		{"writing back (PR_SET_IO_FLUSHER)", getFlusher, setFlusher},
	} {
		now, err := unix.PrctlRetInt(f.get, 0, 0, 0, 0)
		if err != nil || now == 0 {
			continue // not known, or as it should be
		}
		if err := unix.Prctl(f.set, 0, 0, 0, 0); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}

	const machineCheckKill, byDefault, dumpedByDefault = 33, 0, "0x33"
	_ = unix.Prctl(machineCheckKill, byDefault, 0, 0, 0)
	if err := os.WriteFile("/proc/self/coredump_filter", []byte(dumpedByDefault), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// timerSlack is the kernel's own default, in nanoseconds.
const timerSlack = 50_000

// ownTimers ends alarms, which go on over exec, and ties to the caller's life.
func ownTimers() error {
	for _, which := range []unix.ItimerWhich{unix.ItimerReal, unix.ItimerVirtual, unix.ItimerProf} {
		if _, err := unix.Setitimer(which, unix.Itimerval{}); err != nil {
			return err
		}
	}

	for _, set := range []struct {
		option int
		value  uintptr
	}{
		{unix.PR_SET_TIMERSLACK, timerSlack},
		{unix.PR_SET_TSC, unix.PR_TSC_ENABLE},
		{unix.PR_SET_PDEATHSIG, 0},
		{unix.PR_SET_CHILD_SUBREAPER, 0},
	} {
		if err := unix.Prctl(set.option, set.value, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("prctl %s: %w", strconv.Itoa(set.option), err)
		}
	}
	return nil
}

// ownKeyring is a new one, so that what a person put into theirs stays theirs.
func ownKeyring() error {
	_, _, errno := unix.RawSyscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	return known(errno)
}

// kernelAction is the kernel's struct sigaction.
type kernelAction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// ownSignals has every signal do what it does by default, and blocks none. Handlers of
// the Go runtime go with the exec.
func ownSignals() error {
	const signals, ignored = 64, 1
	for n := uintptr(1); n <= signals; n++ {
		var a kernelAction
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, n, 0, uintptr(unsafe.Pointer(&a)), 8, 0, 0); errno != 0 {
			return errno
		}
		if a.handler != ignored {
			continue
		}
		a = kernelAction{}
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, n, uintptr(unsafe.Pointer(&a)), 0, 8, 0, 0); errno != 0 {
			return errno
		}
	}

	var none unix.Sigset_t
	return unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil)
}

// fileMask lets every user read what isn't written with a narrower mode: the
// state folder's files say theirs themselves.
const fileMask = 0o022

// ownFiles sets the mask of new files, and leaves the caller's folder.
func ownFiles() error {
	unix.Umask(fileMask)
	return unix.Chdir("/")
}

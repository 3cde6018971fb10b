package launcher

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
)

// A process inherits far more than its arguments: limits, priorities, ignored
// signals, even whether its addresses are random. All of that comes down to the
// launcher from whoever started the node. The app gets the launcher's own
// numbers instead; docs/design/011 goes through them.

const (
	appUmask = 0o022
	// oomScore lets the kernel take the app when memory runs out, so that the
	// launcher lives to tell.
	oomScore = "500"
	// timerSlack is the kernel's own default, in nanoseconds.
	timerSlack = 50_000
)

// limit is one resource limit of a process.
type limit struct {
	name       string // as the OCI runtime specification has it
	resource   int
	soft, hard uint64
}

const noLimit = unix.RLIM_INFINITY

// appLimits are the app's. What has no limit here has the instance's control
// group's. Nobody in an instance can raise a limit that the host has set lower
// for all that it starts; then that one stays.
var appLimits = []limit{
	{"RLIMIT_AS", unix.RLIMIT_AS, noLimit, noLimit},
	{"RLIMIT_CORE", unix.RLIMIT_CORE, 1, 1}, // see noCores
	{"RLIMIT_CPU", unix.RLIMIT_CPU, noLimit, noLimit},
	{"RLIMIT_DATA", unix.RLIMIT_DATA, noLimit, noLimit},
	{"RLIMIT_FSIZE", unix.RLIMIT_FSIZE, noLimit, noLimit},
	{"RLIMIT_LOCKS", unix.RLIMIT_LOCKS, noLimit, noLimit},
	{"RLIMIT_MEMLOCK", unix.RLIMIT_MEMLOCK, 8 << 20, 8 << 20},
	{"RLIMIT_MSGQUEUE", unix.RLIMIT_MSGQUEUE, 819200, 819200},
	{"RLIMIT_NICE", unix.RLIMIT_NICE, 0, 0},
	{"RLIMIT_NOFILE", unix.RLIMIT_NOFILE, 1024, 524288},
	{"RLIMIT_NPROC", unix.RLIMIT_NPROC, noLimit, noLimit},
	{"RLIMIT_RSS", unix.RLIMIT_RSS, noLimit, noLimit},
	{"RLIMIT_RTPRIO", unix.RLIMIT_RTPRIO, 0, 0},
	{"RLIMIT_RTTIME", unix.RLIMIT_RTTIME, noLimit, noLimit},
	{"RLIMIT_SIGPENDING", unix.RLIMIT_SIGPENDING, 16384, 16384},
	{"RLIMIT_STACK", unix.RLIMIT_STACK, 8 << 20, noLimit},
}

// hostAttributes gives the calling thread what takes a capability over the host.
// The app's process inherits it.
func hostAttributes() error {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(oomScore), 0); err != nil {
		return notOwn("the score for when memory runs out", err)
	}

	// A policy or a priority that somebody raised or lowered goes.
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return notOwn("the scheduling policy", err)
	}

	// The instance's control group says on which processors it may run.
	var all unix.CPUSet
	for i := range all {
		all[i] = ^all[i]
	}
	if err := unix.SchedSetaffinity(0, &all); err != nil {
		return notOwn("the processors", err)
	}

	const whoProcess, classNone = 1, 0
	if _, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, whoProcess, 0, classNone); errno != 0 {
		return notOwn("the priority of input and output", errno)
	}
	return nil
}

// ownAttributes gives the calling thread, which is locked and executes the app
// next, the other attributes of every app's process.
func ownAttributes() error {
	unix.Umask(appUmask)
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, timerSlack, 0, 0, 0); err != nil {
		return notOwn("the timers' slack", err)
	}

	if err := ownMemory(); err != nil {
		return err
	}

	for _, l := range appLimits {
		if err := l.set(); err != nil {
			return notOwn(l.name, err)
		}
	}
	return ownSignals()
}

func (l limit) set() error {
	var was unix.Rlimit
	if err := unix.Prlimit(0, l.resource, nil, &was); err != nil {
		return err
	}
	hard := min(l.hard, was.Max)
	return unix.Prlimit(0, l.resource, &unix.Rlimit{Cur: min(l.soft, hard), Max: hard}, nil)
}

// ownMemory is about how the app's memory is laid out and kept.
func ownMemory() error {
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, 0, 0, 0); errno != 0 {
		return notOwn("the execution domain", errno)
	}

	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 0, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return notOwn("the use of large pages", err)
	}

	// Equal pages of two instances that the kernel makes one tell each of them
	// what the other has. Only a privilege that the launcher lacks could undo it.
	const getMemoryMerge = 68
	if merged, err := unix.PrctlRetInt(getMemoryMerge, 0, 0, 0, 0); err == nil && merged != 0 {
		return problem.New(problem.Denied, ruleMemoryMerge, "the host merges equal pages of the instance's memory with others' (KSM)").
			Want("a host that doesn't").
			Fix("start cupeld without memory merging (systemd: MemoryKSM=no)")
	}
	return nil
}

// kernelAction is the kernel's struct sigaction.
type kernelAction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const (
	signals64     = 64
	ignoreSignal  = 1 // SIG_IGN
	defaultSignal = 0 // SIG_DFL
)

// ownSignals undoes what execve doesn't: signals that are ignored or blocked,
// as SIGHUP is below nohup. The Go runtime's own handlers go by themselves.
func ownSignals() error {
	for n := uintptr(1); n <= signals64; n++ {
		var a kernelAction
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, n, 0, uintptr(unsafe.Pointer(&a)), 8, 0, 0); errno != 0 {
			return notOwn(fmt.Sprintf("the action of signal %d", n), errno)
		}

		if a.handler != ignoreSignal {
			continue
		}
		a = kernelAction{handler: defaultSignal}
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, n, uintptr(unsafe.Pointer(&a)), 0, 8, 0, 0); errno != 0 {
			return notOwn(fmt.Sprintf("the action of signal %d", n), errno)
		}
	}

	var none unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil); err != nil {
		return notOwn("the blocked signals", err)
	}
	return nil
}

func notOwn(what string, err error) error {
	return problem.New(problem.Denied, ruleAppAttributes, "set %s of the app's process: %w", what, err).
		Want("a launch by the newest launch profile").
		Fix("start the instance by the launch profile")
}

// ownOutput lets the app's user open what its standard output and error are, as
// /dev/stdout and /proc/self/fd/1 do: a pipe is opened by its owner alone. The
// null device stays everybody's, and what the host lets nobody own stays.
func ownOutput(owner appUser) error {
	for fd := range 3 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return fmt.Errorf("look at descriptor %d: %w", fd, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			continue
		}

		err := unix.Fchown(fd, owner.UID, int(st.Gid))
		if err != nil && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("give descriptor %d to the app's user: %w", fd, err)
		}
	}
	return nil
}

// openNull returns the app's standard input.
func openNull() (*os.File, error) {
	f, err := os.Open("/dev/null")
	if err != nil {
		return nil, fmt.Errorf("open the app's input: %w", err)
	}

	info, err := f.Stat()
	if st, ok := info.Sys().(*syscall.Stat_t); err != nil || !ok || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
		_ = f.Close()
		return nil, problem.New(problem.Denied, ruleNullDevice, "/dev/null is something else")
	}
	return f, nil
}

// resizeShm gives shared memory half the memory limit, as it has half the
// memory of a machine: 64 MB, which container runtimes give, end a database
// that was promised more with SIGBUS.
func resizeShm(limit uint64) error {
	const flags = unix.MS_REMOUNT | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err := unix.Mount("", "/dev/shm", "", flags, fmt.Sprintf("size=%d", limit/2))
	if err != nil {
		return fmt.Errorf("resize /dev/shm: %w", err)
	}
	return nil
}

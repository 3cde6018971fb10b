package launcher

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// evaluate runs a filter as the kernel does, for the few instructions it has.
func evaluate(t *testing.T, filter []unix.SockFilter, data map[uint32]uint32) uint32 {
	t.Helper()
	var a uint32
	for pc := 0; pc < len(filter); pc++ {
		in := filter[pc]
		jump := func(taken bool) {
			if taken {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = data[in.K]
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(a == in.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(a >= in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(a&in.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			t.Fatalf("instruction %d: code %#x", pc, in.Code)
		}
	}
	t.Fatal("the filter has no end")
	return 0
}

func TestAppFilter(t *testing.T) {
	const (
		allow  = unix.SECCOMP_RET_ALLOW
		denied = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		absent = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		kill   = unix.SECCOMP_RET_KILL_PROCESS
		x86    = 0x40000003
	)
	for _, c := range []struct {
		name           string
		arch, nr, arg0 uint32
		want           uint32
	}{
		{"fork", unix.AUDIT_ARCH_X86_64, unix.SYS_CLONE, uint32(unix.SIGCHLD), allow},
		{"thread", unix.AUDIT_ARCH_X86_64, unix.SYS_CLONE, unix.CLONE_VM | unix.CLONE_THREAD | unix.CLONE_SIGHAND, allow},
		{"clone", unix.AUDIT_ARCH_X86_64, unix.SYS_CLONE, unix.CLONE_NEWUSER | uint32(unix.SIGCHLD), denied},
		{"clone of two", unix.AUDIT_ARCH_X86_64, unix.SYS_CLONE, unix.CLONE_NEWUSER | unix.CLONE_NEWNS, denied},
		{"unshare", unix.AUDIT_ARCH_X86_64, unix.SYS_UNSHARE, unix.CLONE_NEWUSER, denied},
		{"unshare of all", unix.AUDIT_ARCH_X86_64, unix.SYS_UNSHARE, 0xffff_ffff, denied},
		{"unshare of files", unix.AUDIT_ARCH_X86_64, unix.SYS_UNSHARE, unix.CLONE_FILES, allow},
		{"clone3", unix.AUDIT_ARCH_X86_64, unix.SYS_CLONE3, 0, absent},
		{"setns", unix.AUDIT_ARCH_X86_64, unix.SYS_SETNS, 0, denied},
		{"read", unix.AUDIT_ARCH_X86_64, unix.SYS_READ, unix.CLONE_NEWUSER, allow},
		{"execve", unix.AUDIT_ARCH_X86_64, unix.SYS_EXECVE, 0xffff_ffff, allow},
		{"x32 clone", unix.AUDIT_ARCH_X86_64, x32Bit | unix.SYS_CLONE, unix.CLONE_NEWUSER, absent},
		{"x32 read", unix.AUDIT_ARCH_X86_64, x32Bit, 0, absent},
		{"number -1", unix.AUDIT_ARCH_X86_64, 0xffff_ffff, 0, absent},
		{"32 bit", x86, 120, unix.CLONE_NEWUSER, kill},
	} {
		got := evaluate(t, appFilter(), map[uint32]uint32{dataNumber: c.nr, dataArch: c.arch, dataArg0: c.arg0})
		if got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

// TestAppFilterInTheKernel installs it for real, in a process of its own.
func TestAppFilterInTheKernel(t *testing.T) {
	if os.Getenv("CUPEL_TEST_FILTER") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestAppFilterInTheKernel$", "-test.v")
		cmd.Env = append(os.Environ(), "CUPEL_TEST_FILTER=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	runtime.LockOSThread() // never unlocked: the thread keeps its filter
	must(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	must(t, installAppFilter())
	if err := unix.Unshare(unix.CLONE_NEWUSER); err != unix.EPERM { // EINVAL without the filter: it has threads
		t.Errorf("unshare: %v", err)
	}
	// Without the filter these flags contradict each other.
	_, _, errno := unix.RawSyscall(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_FS, 0, 0)
	if errno != unix.EPERM {
		t.Errorf("clone: %v", errno)
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); errno != unix.ENOSYS {
		t.Errorf("clone3: %v", errno)
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		t.Errorf("unshare of folders: %v", err)
	}
	if out, err := exec.Command("/bin/echo", "child").Output(); err != nil || string(out) != "child\n" {
		t.Errorf("fork: %q, %v", out, err)
	}
}

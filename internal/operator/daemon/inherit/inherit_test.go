package inherit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/need"
)

// TestMain lets this binary play a daemon: "begin" makes its attributes its own and
// becomes "look", which prints what it has.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "begin" {
		if err := Exec("/proc/self/exe", []string{"cupeld", "look"}, os.Environ(), 9); err != nil {
			p := problem.From(err)
			fmt.Printf("%s: %s\nmend: %s\n", p.Rule, p.Actual, p.Mend)
			os.Exit(1)
		}
	}
	if len(os.Args) > 1 && os.Args[1] == "look" {
		look()
		return
	}
	os.Exit(m.Run())
}

// look prints each attribute as its own line, the same for all threads.
func look() {
	file := func(name string) string {
		b, err := os.ReadFile("/proc/thread-self/" + name)
		if err != nil {
			return err.Error()
		}
		return string(b)
	}
	for line := range strings.Lines(file("status")) {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "Umask", "Uid", "Gid", "Groups", "SigBlk", "CapInh", "CapAmb", "Seccomp", "Cpus_allowed_list", "THP_enabled":
			fmt.Println(name, strings.Join(strings.Fields(value), " "))
		case "SigIgn":
			fmt.Println(name, strings.TrimSpace(value))
		}
	}
	dir, _ := os.Getwd()
	fmt.Println("folder", dir)
	fmt.Println("oom_score_adj", strings.TrimSpace(file("oom_score_adj")))
	filter, _ := os.ReadFile("/proc/self/coredump_filter") // not of every kernel
	fmt.Println("coredump_filter", strings.TrimSpace(string(filter)))
	fmt.Println("personality", strings.TrimSpace(file("personality")))
	attr, err := unix.SchedGetAttr(0, 0)
	fmt.Println("policy", attr.Policy, "nice", attr.Nice, "flags", attr.Flags, err)
	priority, _, _ := unix.RawSyscall(unix.SYS_IOPRIO_GET, 1, 0, 0)
	fmt.Println("ioprio class", priority>>13)
	slack, _ := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	fmt.Println("timer slack", slack)
	merged, _ := unix.PrctlRetInt(68, 0, 0, 0, 0)
	fmt.Println("merged", merged)
	bits, _ := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	fmt.Println("secure bits", bits)
	var subreaper int32
	_ = unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&subreaper)), 0, 0, 0)
	fmt.Println("subreaper", subreaper)
	timer, _ := unix.Getitimer(unix.ItimerReal)
	fmt.Println("alarm", timer.Value.Sec)
	keyring, err := unix.KeyctlInt(unix.KEYCTL_GET_KEYRING_ID, unix.KEY_SPEC_SESSION_KEYRING, 0, 0, 0)
	description, _ := unix.KeyctlString(unix.KEYCTL_DESCRIBE, keyring)
	fmt.Println("keyring", description[strings.LastIndex(description, ";")+1:], err)
	for _, l := range limits {
		var have unix.Rlimit
		_ = unix.Getrlimit(l.resource, &have)
		fmt.Println(l.unit[:strings.Index(l.unit, "=")], l.amount(have.Cur), l.amount(have.Max))
	}
	open, _ := os.ReadDir("/proc/self/fd")
	for _, e := range open {
		to, _ := os.Readlink("/proc/self/fd/" + e.Name())
		if strings.Contains(to, "inherited") {
			fmt.Println("open", e.Name(), filepath.Base(to))
		}
	}
	env := os.Environ()
	slices.Sort(env)
	fmt.Println("environment", env)
}

// begin runs a shell's words before the daemon, and f in the thread that starts the shell.
func begin(t *testing.T, words string, f func()) (string, error) {
	t.Helper()
	need.Root(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "inherited")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-c", words+`; exec 7<"$2" 9<"$2"; exec "$1" begin`, "bash", self, file)
	cmd.Env = []string{"PATH=bin:/home/x/bin:/usr/bin:/bin", "LD_BIND_NOW=1", "GODEBUG=x=1", "TMPDIR=/x", "https_proxy=http://x", "LANG=de_DE", "CUPEL_STATE=/x"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		f()
		done <- cmd.Run()
	}()
	err = <-done
	return out.String(), err
}

// TestNothingIsInherited: whoever starts a daemon, from a shell of whatever kind, it is
// the same.
func TestNothingIsInherited(t *testing.T) {
	plain, err := begin(t, ":", func() {})
	if err != nil {
		t.Fatalf("%v: %s", err, plain)
	}
	for _, want := range []string{
		"Umask 0022\n", "Groups \n", "SigBlk 0000000000000000\n", "SigIgn 0000000000000000\n", "folder /\n", "personality 00000000\n",
		"policy 0 nice 0 flags 0", "timer slack 50000\n", "oom_score_adj 0\n", "open 9 inherited\n", "keyring _ses ",
		"LimitCORE 1 1\n", "LimitFSIZE unlimited unlimited\n",
		"environment [CUPEL_STATE=/x LANG=C.UTF-8 PATH=/home/x/bin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/sbin]\n",
	} {
		if !strings.Contains(plain, want) {
			t.Errorf("lacks %q:\n%s", want, plain)
		}
	}
	if strings.Contains(plain, "open 7") {
		t.Errorf("a descriptor of the caller's stays open:\n%s", plain)
	}

	strange, err := begin(t, `cd /tmp; umask 077; trap "" HUP PIPE TERM USR1; ulimit -Ss 1024; ulimit -Sn 100; ulimit -Sf 4; ulimit -Sc unlimited`, func() {
		hide := func(err error) {
			if err != nil {
				t.Error(err)
			}
		}
		hide(unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH, Nice: 7, Flags: 1}, 0))
		var one unix.CPUSet
		one.Set(0)
		hide(unix.SchedSetaffinity(0, &one))
		var blocked unix.Sigset_t
		blocked.Val[0] = 1<<(unix.SIGUSR2-1) | 1<<(unix.SIGCHLD-1)
		hide(unix.PthreadSigmask(unix.SIG_SETMASK, &blocked, nil))
		hide(unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0))
		_, _, errno := unix.RawSyscall(unix.SYS_IOPRIO_SET, 1, 0, 3<<13)
		hide(known(errno))
		// Only this thread's: no new groups by the C library's way.
		_, _, errno = unix.RawSyscall(unix.SYS_SETGROUPS, 1, uintptr(unsafe.Pointer(&[1]uint32{4})), 0)
		hide(known(errno))
		hide(unix.Prctl(unix.PR_SET_SECUREBITS, 4, 0, 0, 0)) // SECBIT_NO_SETUID_FIXUP
	})
	if err != nil {
		t.Fatalf("%v: %s", err, strange)
	}
	if diff := cmp.Diff(plain, strange); diff != "" {
		t.Errorf("what the caller has shows (-plain +strange):\n%s", diff)
	}
}

// TestWhatCannotBeSetIsNamed: what the kernel doesn't give back is refused, with its
// name and what to do.
func TestWhatCannotBeSetIsNamed(t *testing.T) {
	drop := func(capabilities ...int) func() {
		return func() {
			for _, c := range capabilities {
				if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil {
					t.Error(err)
				}
			}
		}
	}
	for _, l := range limits {
		if want := map[int]string{unix.RLIMIT_STACK: "8192 or more", unix.RLIMIT_FSIZE: "unlimited", unix.RLIMIT_NPROC: "4096 or more"}[l.resource]; want != "" && l.enough() != want {
			t.Errorf("%s: enough is %q", l.name, l.enough())
		}
	}
	for _, tt := range []struct {
		name, words string
		thread      func()
		want        []string
	}{
		{"files", "ulimit -n 64", drop(unix.CAP_SYS_RESOURCE), []string{"open_files: cupeld may have no more than 64", "mend: raise it", "ulimit -n 4096", "LimitNOFILE=65536"}},
		{"file size", "ulimit -f 100", drop(unix.CAP_SYS_RESOURCE), []string{"inherited: ", "no more than 100 for ulimit -f (file size)", "ulimit -f unlimited"}},
		{"stack, which a shell counts in KiB", "ulimit -s 1024", drop(unix.CAP_SYS_RESOURCE), []string{"cupeld may have no more than 1024 for ulimit -s (stack)", "ulimit -s 8192;", "LimitSTACK=8M:infinity"}},
		{"processes", "ulimit -u 3000", drop(unix.CAP_SYS_RESOURCE), []string{"no more than 3000 for", "ulimit -u 4096;"}},
		{"locked memory, which nothing needs", "ulimit -l 0", drop(unix.CAP_SYS_RESOURCE), nil},
		{"no cores at all", "ulimit -c 0", drop(unix.CAP_SYS_RESOURCE), []string{"inherited: ", "ulimit -c (core files)", "ulimit -c 1"}},
		{"score", "echo 300 > /proc/self/oom_score_adj; read -r s < /proc/self/oom_score_adj; [ $s = 300 ]", drop(unix.CAP_SYS_RESOURCE), nil},
		{"mounts", `exec unshare --pid --fork --mount-proc bash -c 'unshare --mount "$0" begin; exit $?' "$1"`, func() {}, []string{"can't change the mount namespace that it inherited", "nsenter --mount=/proc/1/ns/mnt cupel up", "PrivateTmp="}},
		{"a filter", ":", func() {
			allow := unix.SockFilter{Code: unix.BPF_RET, K: 0x7fff0000}
			program := unix.SockFprog{Len: 1, Filter: &allow}
			if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
				t.Error(err)
			}
		}, []string{"can't change the filter of system calls", "SystemCallFilter="}},
		{"a capability", ":", drop(unix.CAP_NET_ADMIN), []string{"it lacks CAP_NET_ADMIN", "CapabilityBoundingSet="}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := begin(t, tt.words, tt.thread)
			if tt.want == nil { // it may be lowered to what a privileged process set
				if err != nil || !strings.Contains(out, "oom_score_adj 0\n") {
					t.Errorf("%v: %s", err, out)
				}
				return
			}
			if _, ok := errors.AsType[*exec.ExitError](err); !ok {
				t.Fatalf("%v: %s", err, out)
			}
			for _, w := range tt.want {
				if !strings.Contains(out, w) {
					t.Errorf("lacks %q:\n%s", w, out)
				}
			}
			t.Log(out)
		})
	}
}

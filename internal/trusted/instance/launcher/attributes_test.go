package launcher

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/testing/need"
)

// attributes returns what the app's process says about itself: name to value.
func (s *sandbox) attributes() map[string]string {
	s.t.Helper()
	s.cas.reply.Argv = []string{"/bin/sh", "-c", `umask; cat /proc/self/oom_score_adj; ` +
		`exec cat /proc/self/status /proc/self/limits /proc/self/stat /proc/self/personality /proc/self/timerslack_ns`}
	s.run(0)
	lines := strings.Split(strings.TrimSpace(s.out.String()), "\n")
	if len(lines) < 20 {
		s.t.Fatalf("the app said %q", lines)
	}
	out := map[string]string{"umask": lines[0], "oom_score_adj": lines[1]}
	for _, line := range lines[2:] {
		if name, value, ok := strings.Cut(line, ":"); ok {
			out[name] = strings.TrimSpace(value)
		} else if strings.HasPrefix(line, "Max ") {
			out[strings.TrimSpace(line[:26])] = strings.Join(strings.Fields(line[26:]), " ")
		}
	}
	out["personality"], out["timerslack"] = lines[len(lines)-2], lines[len(lines)-1]
	stat := strings.Fields(lines[len(lines)-3])
	pid, session, terminal, nice, policy := stat[0], stat[5], stat[6], stat[18], stat[40]
	out["leads its session"] = fmt.Sprint(pid == session)
	out["terminal"], out["nice"], out["policy"] = terminal, nice, policy
	return out
}

// TestAttributesAreTheLaunchers: whatever the one who starts the node had set
// for themselves, the app's process is the same.
func TestAttributesAreTheLaunchers(t *testing.T) {
	t.Parallel()
	need.Programs(t, "nice", "taskset", "setarch", "chrt", "ionice")
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	got := map[string]map[string]string{}
	for name, under := range map[string][]string{
		"plain": nil,
		"odd": {"/bin/sh", "-c", `umask 077; trap '' HUP USR1; ulimit -Sn 256; ulimit -Ss 1024; ulimit -Sc 0; ulimit -Sv 90000000; ulimit -Sl 64
			exec nice -n 7 ionice -c 3 chrt -b 0 taskset -c 0 setarch -R "$@"`, "sh"},
	} {
		s := newSandbox(t)
		s.under = under
		got[name] = s.attributes()
	}
	names := []string{
		"umask", "oom_score_adj", "Groups", "Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
		"SigBlk", "SigIgn", "SigCgt", "Cpus_allowed_list", "Max address space", "Max core file size", "Max cpu time", "Max data size",
		"Max file size", "Max file locks", "Max locked memory", "Max msgqueue size", "Max nice priority", "Max open files",
		"Max processes", "Max resident set", "Max realtime priority", "Max realtime timeout", "Max pending signals", "Max stack size",
		"personality", "timerslack", "leads its session", "terminal", "nice", "policy",
	}
	for _, name := range names {
		if plain, odd := got["plain"][name], got["odd"][name]; plain != odd || plain == "" && name != "Groups" {
			t.Errorf("%s: %q, and %q below an odd shell", name, plain, odd)
		}
	}
	const none = "0000000000000000"
	want := map[string]string{
		"umask": "0022", "oom_score_adj": "500", "Groups": "1600 1700", "Uid": "1500\t1500\t1500\t1500", "NoNewPrivs": "1", "Seccomp": "2",
		"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none, "SigBlk": none, "SigIgn": none, "SigCgt": none,
		"Max core file size": "1 1 bytes", "Max nice priority": "0 0", "Max locked memory": "8388608 8388608 bytes",
		"personality": "00000000", "timerslack": "50000", "leads its session": "true", "terminal": "0", "nice": "0", "policy": "0",
	}
	for name, value := range want {
		if got["odd"][name] != value {
			t.Errorf("%s: %q, want %q", name, got["odd"][name], value)
		}
	}
	if !strings.HasPrefix(got["odd"]["Max open files"], "1024 ") || !strings.HasPrefix(got["odd"]["Max stack size"], "8388608 ") {
		t.Errorf("open files %q, stack %q", got["odd"]["Max open files"], got["odd"]["Max stack size"])
	}
	if all.Count() > 1 && got["odd"]["Cpus_allowed_list"] == "0" {
		t.Error("the app stays on the processor of whoever started it")
	}
}

// TestOutputIsTheAppsOwn: programs that log into /dev/stdout can open it, and
// what they write arrives.
func TestOutputIsTheAppsOwn(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.command(`echo one >/dev/stdout; echo two >/proc/self/fd/1; echo three >>/dev/stderr; echo x >/dev/null; read line; echo "read $?"; ls -l /proc/self/fd/0 | grep -c /dev/null`)
	s.run(0)
	s.wantOut("one", "two", "read 1", "1")
	if !strings.Contains(s.errs.String(), "three") {
		t.Errorf("standard error: %q", &s.errs)
	}
}

// TestSharedMemory: half the limit, as a machine's own has, and the options
// that the profile gives it.
func TestSharedMemory(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.command(`df -k /dev/shm | tail -1 | awk '{print "size", $2}'; grep ' /dev/shm ' /proc/self/mountinfo | grep -c 'nosuid,nodev,noexec'; stat -c 'mode %a' /dev/shm
		dd if=/dev/zero of=/dev/shm/x bs=1M count=100 2>/dev/null && echo fits`)
	s.run(0)
	s.wantOut(fmt.Sprintf("size %d", s.memory/2/1024), "1", "mode 1777", "fits")
}

// TestLimitsAreAll: every limit of the kernel is one of the app's own.
func TestLimitsAreAll(t *testing.T) {
	var names []string
	for i, l := range appLimits {
		names = append(names, l.name)
		if i > 0 && names[i-1] >= l.name {
			t.Errorf("%s after %s", l.name, names[i-1])
		}
	}
	b, err := os.ReadFile("/proc/self/limits")
	must(t, err)
	if kernel := strings.Count(string(b), "\n") - 1; kernel != len(names) {
		t.Errorf("the kernel has %d limits, the app %d of its own", kernel, len(names))
	}
}

// TestHostHasLess: a limit that the host has set lower is no reason not to run.
func TestHostHasLess(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.under = []string{"/bin/sh", "-c", `ulimit -n 700; exec "$@"`, "sh"}
	s.command("ulimit -n; ulimit -Hn")
	s.run(0)
	if s.out.String() != "700\n700\n" {
		t.Errorf("open files: %q", &s.out)
	}
}

// TestDescriptors: the app has the standard three and no other.
func TestDescriptors(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.cas.reply.Argv = []string{"/bin/ls", "/proc/self/fd"}
	s.run(0)
	if s.out.String() != "0\n1\n2\n3\n" { // the last one is the folder that it lists
		t.Errorf("descriptors %q", &s.out)
	}
}

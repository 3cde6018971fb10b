package launcher

import (
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/need"
	"cupel.dev/cupel/internal/trusted/launch"
)

// profileSpec is the newest launch profile, as far as tests read it.
type profileSpec struct {
	Process struct {
		Capabilities struct {
			Bounding []string `json:"bounding"`
		} `json:"capabilities"`
	} `json:"process"`
	Linux struct {
		Seccomp struct {
			Syscalls []struct {
				Names  []string          `json:"names"`
				Action string            `json:"action"`
				Args   []json.RawMessage `json:"args"`
			} `json:"syscalls"`
		} `json:"seccomp"`
	} `json:"linux"`
}

func newestProfile(t *testing.T) profileSpec {
	t.Helper()
	b, err := launch.Spec(launch.Newest, launch.ImageConfig{})
	must(t, err)
	var p profileSpec
	must(t, json.Unmarshal(b, &p))
	return p
}

// TestProbesFollowTheProfile: what the launcher expects is what the profile says.
func TestProbesFollowTheProfile(t *testing.T) {
	p := newestProfile(t)
	var allowed, judged []string
	for _, r := range p.Linux.Seccomp.Syscalls {
		if r.Action == "SCMP_ACT_ALLOW" && len(r.Args) == 0 {
			allowed = append(allowed, r.Names...)
		} else {
			judged = append(judged, r.Names...)
		}
	}
	for name := range forbiddenCalls {
		if slices.Contains(allowed, name) || slices.Contains(judged, name) {
			t.Errorf("the profile allows %s", name)
		}
	}
	for name := range allowedCalls {
		if !slices.Contains(allowed, name) {
			t.Errorf("the profile doesn't allow %s", name)
		}
	}
	for _, name := range judged {
		if !slices.Contains([]string{"clone", "unshare", "clone3", "personality", "socket"}, name) {
			t.Errorf("nothing is tried of %s", name)
		}
	}
	var set uint64
	for _, c := range p.Process.Capabilities.Bounding {
		n, ok := capabilityNumbers[c]
		if !ok {
			t.Fatalf("capability %s", c)
		}
		set |= 1 << n
	}
	if set != profileCapabilities {
		t.Errorf("the launcher expects capabilities %x, the profile has %x", profileCapabilities, set)
	}
}

var capabilityNumbers = map[string]int{
	"CAP_CHOWN": unix.CAP_CHOWN, "CAP_DAC_OVERRIDE": unix.CAP_DAC_OVERRIDE, "CAP_FOWNER": unix.CAP_FOWNER, "CAP_KILL": unix.CAP_KILL,
	"CAP_SETFCAP": unix.CAP_SETFCAP, "CAP_SETGID": unix.CAP_SETGID, "CAP_SETPCAP": unix.CAP_SETPCAP, "CAP_SETUID": unix.CAP_SETUID,
	"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_SYS_NICE": unix.CAP_SYS_NICE,
}

// TestProbesTell: without a filter, but with the launcher's capabilities, the
// kernel answers each probe otherwise than the profile's filter.
func TestProbesTell(t *testing.T) {
	need.Root(t)
	need.Programs(t, "setpriv")
	if os.Getenv("CUPEL_TEST_PROBES") == "" {
		caps := "-all"
		for name := range capabilityNumbers {
			caps += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
		}
		cmd := exec.Command("setpriv", "--bounding-set", caps, os.Args[0], "-test.run=^TestProbesTell$", "-test.v")
		cmd.Env = append(os.Environ(), "CUPEL_TEST_PROBES=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "PASS") {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	absent := 0
	for name, call := range forbiddenCalls {
		switch errno := tryInvalid(call); errno {
		case unix.EPERM:
			t.Errorf("%s: the kernel itself refuses it", name)
		case unix.ENOSYS:
			absent++ // not in this kernel
		}
	}
	if absent > len(forbiddenCalls)/4 {
		t.Errorf("%d of %d calls are not in this kernel", absent, len(forbiddenCalls))
	}
	for name, call := range allowedCalls {
		if errno := tryInvalid(call); errno == 0 || errno == unix.EPERM || errno == unix.ENOSYS {
			t.Errorf("%s: %v", name, errno)
		}
	}
	for _, p := range byArgument() {
		_, _, errno := unix.RawSyscall6(p.call, p.args[0], p.args[1], 0, 0, 0, 0)
		if kernels := p.answer == unix.EINVAL; (errno == p.answer) != kernels {
			t.Errorf("%s: %v", p.name, errno)
		}
	}
}

// TestLaunchedOtherwise: an operator who starts the launcher with other rights
// than the profile's, whatever its measurement says, gets no instance.
func TestLaunchedOtherwise(t *testing.T) {
	t.Parallel()
	process := func(s map[string]any) map[string]any { return s["process"].(map[string]any) }
	seccomp := func(s map[string]any) map[string]any { return s["linux"].(map[string]any)["seccomp"].(map[string]any) }
	addCap := func(name string, sets ...string) func(map[string]any) {
		return func(s map[string]any) {
			caps := process(s)["capabilities"].(map[string]any)
			for _, set := range sets {
				list, _ := caps[set].([]any)
				caps[set] = append(slices.Clone(list), name)
			}
		}
	}
	rule := func(r map[string]any) func(map[string]any) {
		return func(s map[string]any) { seccomp(s)["syscalls"] = append(seccomp(s)["syscalls"].([]any), r) }
	}
	allow := func(name string) func(map[string]any) {
		return rule(map[string]any{"names": []any{name}, "action": "SCMP_ACT_ALLOW"})
	}
	without := func(name string) func(map[string]any) {
		return func(s map[string]any) {
			for _, r := range seccomp(s)["syscalls"].([]any) {
				r := r.(map[string]any)
				r["names"] = slices.DeleteFunc(slices.Clone(r["names"].([]any)), func(n any) bool { return n == name })
			}
			list := seccomp(s)["syscalls"].([]any)
			seccomp(s)["syscalls"] = slices.DeleteFunc(list, func(r any) bool { return len(r.(map[string]any)["names"].([]any)) == 0 })
		}
	}
	for name, c := range map[string]struct {
		rule problem.Rule
		edit func(spec map[string]any)
	}{
		"no filter": {"launch_privileges", func(s map[string]any) { delete(s["linux"].(map[string]any), "seccomp") }},
		"filter of everything": {"launch_filter", func(s map[string]any) {
			seccomp(s)["defaultAction"] = "SCMP_ACT_ALLOW"
			seccomp(s)["syscalls"] = []any{}
		}},
		"filter that logs": {"launch_filter", func(s map[string]any) { seccomp(s)["defaultAction"] = "SCMP_ACT_LOG" }},
		"one call more":    {"launch_filter", allow("ptrace")},
		"io_uring":         {"launch_filter", allow("io_uring_setup")},
		"any socket":       {"launch_filter", allow("socket")},
		"any personality":  {"launch_filter", allow("personality")},
		"any clone":        {"launch_filter", allow("clone")},
		"any unshare":      {"launch_filter", allow("unshare")},
		"no mounts":        {"launch_filter", without("umount2")},
		"groups only pretend": {"launch_filter", func(s map[string]any) {
			without("setgroups")(s)
			rule(map[string]any{"names": []any{"setgroups"}, "action": "SCMP_ACT_ERRNO", "errnoRet": 0})(s)
		}},
		"users only pretend": {"launch_filter", func(s map[string]any) {
			without("setresuid")(s)
			rule(map[string]any{"names": []any{"setresuid"}, "action": "SCMP_ACT_ERRNO", "errnoRet": 0})(s)
		}},
		"capability":             {"launch_capabilities", addCap("CAP_SYS_PTRACE", "bounding", "effective", "permitted")},
		"bounding capability":    {"launch_capabilities", addCap("CAP_NET_ADMIN", "bounding")},
		"inheritable capability": {"launch_capabilities", addCap("CAP_KILL", "inheritable")},
		"ambient capability":     {"launch_capabilities", addCap("CAP_KILL", "inheritable", "ambient")},
		"new privileges":         {"launch_privileges", func(s map[string]any) { process(s)["noNewPrivileges"] = false }},
		"group":                  {"launch_user", func(s map[string]any) { process(s)["user"] = map[string]any{"uid": 0, "gid": 4} }},
		"further group": {"launch_user", func(s map[string]any) {
			process(s)["user"] = map[string]any{"uid": 0, "gid": 0, "additionalGids": []any{4}}
		}},
		"the first profile's filter": {"launch_filter", func(s map[string]any) {
			b, err := launch.Spec(launch.V1, launch.ImageConfig{})
			must(t, err)
			var v1 map[string]any
			must(t, json.Unmarshal(b, &v1))
			s["linux"].(map[string]any)["seccomp"] = v1["linux"].(map[string]any)["seccomp"]
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.edit = c.edit
			s.refused(exitRefused, c.rule)
			if name != "users only pretend" && s.cas.releases != 0 { // that one is seen when it is done
				t.Error("it asked the CAS")
			}
			if !strings.Contains(s.errs.String(), "launch profile") {
				t.Errorf("no word of the launch profile: %s", &s.errs)
			}
		})
	}
}

package las

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
)

// HoldProcess checks that a running first process is what the spec in its
// bundle says. The spec alone proves nothing: whatever stands between it and the
// process may have read another one, and put the text back.
//
// It compares what the process can't see of itself, or would see in the same way
// if it were false: its arguments, environment and folder, its root, namespaces
// and mounts, and, as the kernel tells others, its rights. It may be called again
// for as long as the process lives: a launcher only adds mounts, in one place.
func HoldProcess(pid int, spec []byte) error {
	var want processSpec
	if err := json.Unmarshal(spec, &want); err != nil {
		return differs("its spec: %w", err)
	}

	p, err := openProcess(pid)
	if err != nil {
		return differs("%w", err)
	}
	defer p.close()

	for _, check := range []func(processSpec) error{p.holdCommand, p.holdRights, p.holdNamespaces, p.holdPlaces} {
		if err := check(want); err != nil {
			if _, ok := errors.AsType[*problem.Error](err); ok {
				return err
			}
			return differs("%w", err)
		}
	}
	return nil
}

// differs is the refusal of a process that differs from its spec.
func differs(format string, args ...any) *problem.Error {
	return problem.New(problem.Denied, RuleProcess, "the process isn't what its runtime spec says: "+format, args...).
		Want("a process that was started by the spec that is measured").
		Fix("look at what starts containers on this machine: a wrapper or a hook of runc, an edited spec")
}

// processSpec is what an OCI runtime spec says about the process (config.md and
// config-linux.md), as far as it can be looked up.
type processSpec struct {
	Process struct {
		Args []string `json:"args"`
		Env  []string `json:"env"`
		Cwd  string   `json:"cwd"`
		User struct {
			UID    uint32   `json:"uid"`
			GID    uint32   `json:"gid"`
			Others []uint32 `json:"additionalGids"`
		} `json:"user"`
		Capabilities struct {
			Bounding    []string `json:"bounding"`
			Inheritable []string `json:"inheritable"`
			Ambient     []string `json:"ambient"`
		} `json:"capabilities"`
		NoNewPrivileges bool `json:"noNewPrivileges"`
	} `json:"process"`
	Root struct {
		ReadOnly bool `json:"readonly"`
	} `json:"root"`
	Mounts []struct {
		Destination string   `json:"destination"`
		Type        string   `json:"type"`
		Options     []string `json:"options"`
	} `json:"mounts"`
	Linux struct {
		Namespaces []struct {
			Type string `json:"type"`
			Path string `json:"path"`
		} `json:"namespaces"`
		MaskedPaths   []string        `json:"maskedPaths"`
		ReadOnlyPaths []string        `json:"readonlyPaths"`
		Seccomp       json.RawMessage `json:"seccomp"`
	} `json:"linux"`
}

// process is one process's folder in /proc. It stays that one's: when the
// process is gone, so are its files, whoever has its number then.
type process struct{ fd int }

// openProcess opens the folder of a process that runs.
func openProcess(pid int) (process, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/%d", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return process{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return process{fd}, nil
}

func (p process) close() { _ = unix.Close(p.fd) }

func (p process) path(name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", p.fd, name) }

func (p process) read(name string) (string, error) {
	b, err := os.ReadFile(p.path(name))
	if err != nil {
		return "", fmt.Errorf("read the process's %s: %w", name, err)
	}
	return string(b), nil
}

// strings reads a file of strings that end with a zero byte each.
func (p process) strings(name string) ([]string, error) {
	text, err := p.read(name)
	if err != nil || text == "" {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(text, "\x00"), "\x00"), nil
}

// holdCommand compares arguments and environment. It names variables and never
// shows a value.
func (p process) holdCommand(want processSpec) error {
	args, err := p.strings("cmdline")
	if err != nil {
		return err
	}
	if !slices.Equal(args, want.Process.Args) {
		return fmt.Errorf("it has %d arguments that differ from the spec's %d", len(args), len(want.Process.Args))
	}
	env, err := p.strings("environ")
	if err != nil {
		return err
	}

	// Container runtimes add this one on their own; a launcher passes it over.
	const home = "HOME="
	if !slices.ContainsFunc(want.Process.Env, func(e string) bool { return strings.HasPrefix(e, home) }) {
		if i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, home) }); i >= 0 {
			env = slices.Delete(env, i, i+1)
		}
	}

	for i := range max(len(env), len(want.Process.Env)) {
		switch {
		case i >= len(env):
			return fmt.Errorf("it lacks the environment variable %q", shown(want.Process.Env[i]))
		case i >= len(want.Process.Env):
			return fmt.Errorf("it has the environment variable %q, which the spec lacks", shown(env[i]))
		case env[i] != want.Process.Env[i]:
			return fmt.Errorf("its environment variable %q is another than the spec's %q", shown(env[i]), shown(want.Process.Env[i]))
		}
	}
	return nil
}

// shown is what a message may show of an entry: what stands before "=", as far as there is
// room for it.
func shown(entry string) string {
	name, _, _ := strings.Cut(entry, "=")
	if len(name) > 80 {
		return name[:80] + "…"
	}
	return name
}

// holdRights compares what the kernel says about users, capabilities and filter
// (proc_pid_status(5)).
func (p process) holdRights(want processSpec) error {
	text, err := p.read("status")
	if err != nil {
		return err
	}

	status := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(line, ":")
		status[name] = strings.Join(strings.Fields(value), " ")
	}

	w := want.Process
	fourTimes := func(id uint32) string { return strings.TrimSuffix(strings.Repeat(fmt.Sprint(id)+" ", 4), " ") }
	groups := ""
	for _, g := range w.User.Others {
		groups += fmt.Sprintf("%d ", g)
	}

	expected := map[string]string{
		"Uid":        fourTimes(w.User.UID),
		"Gid":        fourTimes(w.User.GID),
		"Groups":     strings.TrimSpace(groups),
		"CapBnd":     capabilityMask(w.Capabilities.Bounding),
		"CapInh":     capabilityMask(w.Capabilities.Inheritable),
		"CapAmb":     capabilityMask(w.Capabilities.Ambient),
		"NoNewPrivs": map[bool]string{false: "0", true: "1"}[w.NoNewPrivileges],
	}
	if w.User.UID == 0 { // the kernel gives root all that isn't bounded away
		expected["CapPrm"] = expected["CapBnd"]
		expected["CapEff"] = expected["CapBnd"]
	}
	if len(want.Linux.Seccomp) > 0 {
		expected["Seccomp"] = "2" // SECCOMP_MODE_FILTER
	}

	for name, value := range expected {
		if status[name] != value && (name != "Groups" || status[name] != fmt.Sprint(w.User.GID)) {
			return fmt.Errorf("its %s is %q, the spec's %q", name, status[name], value)
		}
	}

	// Numbers from the outermost PID namespace to its own.
	if numbers := strings.Fields(status["NSpid"]); len(numbers) == 0 || numbers[len(numbers)-1] != "1" {
		return fmt.Errorf("it isn't the first process of its PID namespace")
	}
	return nil
}

// capabilityMask is a set in the kernel's notation. A name that isn't known makes
// a mask that no process has.
func capabilityMask(names []string) string {
	var set uint64
	for _, name := range names {
		n := slices.Index(capabilityNames, name)
		if n < 0 {
			return "unknown: " + strconv.Quote(name)
		}
		set |= 1 << n
	}
	return fmt.Sprintf("%016x", set)
}

// capabilityNames are the kernel's, by their numbers.
var capabilityNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN",
	"CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// namespaceFiles are the kinds of namespaces: the spec's word, the kernel's file.
var namespaceFiles = map[string]string{
	"pid": "pid", "ipc": "ipc", "uts": "uts", "mount": "mnt", "network": "net", "user": "user", "cgroup": "cgroup", "time": "time",
}

// holdNamespaces compares which namespaces are the process's own: new where the
// spec says so, the named one where it names one, the machine's elsewhere.
func (p process) holdNamespaces(want processSpec) error {
	listed := map[string]string{}
	for _, ns := range want.Linux.Namespaces {
		if namespaceFiles[ns.Type] == "" {
			return fmt.Errorf("its spec has the namespace %q", shown(ns.Type))
		}
		listed[ns.Type] = ns.Path
	}

	for kind, file := range namespaceFiles {
		var its, ours unix.Stat_t
		if err := unix.Stat(p.path("ns/"+file), &its); err != nil {
			return fmt.Errorf("look at its %s namespace: %w", kind, err)
		}
		if err := unix.Stat("/proc/self/ns/"+file, &ours); err != nil {
			return fmt.Errorf("look at the machine's %s namespace: %w", kind, err)
		}

		path, own := listed[kind]
		switch {
		case path != "": // a thread of this process may be in it for a moment
			var named unix.Stat_t
			if err := unix.Stat(path, &named); err != nil || named.Ino != its.Ino || named.Dev != its.Dev {
				return fmt.Errorf("its %s namespace isn't the one that the spec names", kind)
			}
		case own && its.Ino == ours.Ino:
			return fmt.Errorf("it is in the machine's %s namespace", kind)
		case !own && its.Ino != ours.Ino:
			return fmt.Errorf("it has a %s namespace of its own, which the spec lacks", kind)
		}
	}
	return nil
}

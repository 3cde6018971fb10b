package launcher

import (
	"slices"
	"strconv"
	"strings"

	"cupel.dev/cupel/api/problem"
)

// mountPoint is one line of /proc/self/mountinfo, as far as it matters.
type mountPoint struct {
	root    string // which part of the file system is mounted
	path    string
	options []string
	fsType  string
}

// parseMountinfo reads the kernel's list (proc(5)).
func parseMountinfo(text string) ([]mountPoint, error) {
	var out []mountPoint
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		sep := slices.Index(fields, "-")
		if sep < 6 || len(fields) < sep+2 {
			return nil, problem.New(problem.Internal, ruleMountinfo, "the kernel's line %q is not understood", clip(line))
		}

		out = append(out, mountPoint{
			root:    unescape(fields[3]),
			path:    unescape(fields[4]),
			options: strings.Split(fields[5], ","),
			fsType:  fields[sep+1],
		})
	}
	return out, nil
}

// unescape undoes the kernel's \ooo for space, tab, newline and backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// allowedMounts is the launch profile seen from inside: type ("" for any) and
// whether it must be read-only. Everything else is refused, because a mount is
// how a host puts its own file in the place of a measured one.
var allowedMounts = map[string]struct {
	fsType   string
	readOnly bool
}{
	"/":                {"", true},
	"/proc":            {"proc", false},
	"/dev":             {"tmpfs", false},
	"/dev/pts":         {"devpts", false},
	"/dev/shm":         {"tmpfs", false},
	"/dev/mqueue":      {"mqueue", false},
	"/sys":             {"sysfs", true},
	"/etc/resolv.conf": {"", true},
	"/etc/hosts":       {"", true},
	"/run/cupel":       {"", false},
	"/cupel-init":      {"", true},
}

// maskedPaths may be covered or made read-only by the container runtime: a
// superset of what the profile masks, since runtimes mask what the kernel has.
var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/bus", "/proc/fs", "/proc/interrupts", "/proc/irq", "/proc/kcore", "/proc/keys",
	"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/sys", "/proc/sysrq-trigger", "/proc/timer_list",
	"/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
}

// checkMounts refuses every mount that the launch profile doesn't have.
func checkMounts(mounts []mountPoint) error {
	seen := map[string]bool{}
	for _, m := range mounts {
		if seen[m.path] {
			return unexpectedMount(m, "mounted twice")
		}

		seen[m.path] = true
		if slices.Contains(maskedPaths, m.path) {
			// A mask hides: it is empty, null, or the place itself made read-only.
			if err := checkMask(m); err != nil {
				return err
			}
			continue
		}

		allowed, ok := allowedMounts[m.path]
		switch {
		case !ok:
			return unexpectedMount(m, "not in the launch profile")
		case allowed.fsType != "" && (m.fsType != allowed.fsType || m.root != "/"):
			return unexpectedMount(m, "not a whole "+allowed.fsType)
		case allowed.readOnly && !slices.Contains(m.options, "ro"):
			return unexpectedMount(m, "writable")
		}
	}

	for _, p := range []string{"/", "/proc", "/dev"} {
		if !seen[p] {
			return unexpectedMount(mountPoint{path: p}, "missing")
		}
	}
	return nil
}

func checkMask(m mountPoint) error {
	itself, ok := strings.CutPrefix(m.path, "/proc")
	if !ok {
		itself = strings.TrimPrefix(m.path, "/sys")
	}
	switch {
	case m.fsType == "tmpfs" && m.root == "/" && slices.Contains(m.options, "ro"): // an empty directory
	case m.root == "/null" && (m.fsType == "tmpfs" || m.fsType == "devtmpfs"): // the null device
	case (m.fsType == "proc" || m.fsType == "sysfs") && m.root == itself && slices.Contains(m.options, "ro"):
	default:
		return unexpectedMount(m, "not a mask")
	}
	return nil
}

func unexpectedMount(m mountPoint, why string) error {
	return problem.New(problem.Denied, ruleUnexpectedMount, "%q (%s): %s", m.path, m.fsType, why).
		Want("the mounts of the launch profile").
		Fix("start the instance by the launch profile: the host may not put files into it")
}

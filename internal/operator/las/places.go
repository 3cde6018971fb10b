package las

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The launcher's own mounts: what it makes the app's root of. Each is memory,
// and in a place that no image and no spec has.
const (
	stagingDir  = "/dev/.cupel"
	stagingRoot = stagingDir + "/root"
	volumesDir  = stagingDir + "/volume"
)

// mounted is one line of the kernel's list of mounts.
type mounted struct {
	id      uint64
	root    string // which part of the file system
	at      string
	options []string
	shared  bool // mounts that others make appear in it
	fsType  string
}

// parseMounts reads /proc/PID/mountinfo (proc_pid_mountinfo(5)): each line has the mount's
// number, its parent's, the device, the root within the file system, the mount point and
// the options; then optional fields, a dash, and the file system's type.
func parseMounts(text string) ([]mounted, error) {
	var out []mounted
	for line := range strings.Lines(text) {
		head, tail, ok := strings.Cut(line, " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(h) < 6 || len(t) < 2 {
			return nil, errors.New("its mounts can't be read")
		}
		id, err := strconv.ParseUint(h[0], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("its mounts can't be read: %w", err)
		}

		m := mounted{
			id:      id,
			root:    UnescapeMount(h[3]),
			at:      UnescapeMount(h[4]),
			options: strings.Split(h[5], ","),
			fsType:  t[0],
		}
		for _, tag := range h[6:] {
			m.shared = m.shared || !strings.HasPrefix(tag, "unbindable")
		}
		out = append(out, m)
	}
	return out, nil
}

// UnescapeMount undoes the kernel's octal escapes in a list of mounts (getmntent(3)).
func UnescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// holdPlaces compares root, folder and mounts.
func (p process) holdPlaces(want processSpec) error {
	text, err := p.read("mountinfo")
	if err != nil {
		return err
	}
	mounts, err := parseMounts(text)
	if err != nil {
		return err
	}
	if err := holdMounts(mounts, want, p.has); err != nil {
		return err
	}

	i := slices.IndexFunc(mounts, func(m mounted) bool { return m.at == "/" })
	root, err := p.place("root")
	if err != nil {
		return err
	}
	if i < 0 || root.Mnt_id != mounts[i].id || root.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return errors.New("its root isn't the root of its mounts")
	}

	cwd, err := p.place("cwd")
	if err != nil {
		return err
	}

	expected, err := p.inRoot(want.Process.Cwd)
	if err != nil {
		return err
	}
	if cwd.Ino != expected.Ino || cwd.Mnt_id != expected.Mnt_id {
		return errors.New("its working directory isn't the spec's")
	}
	return nil
}

// holdMounts compares the list of mounts with the spec's. exists reports whether
// the process has something at a path: what isn't there needs no mask.
func holdMounts(mounts []mounted, want processSpec, exists func(string) bool) error {
	expected := map[string]func(mounted) error{"/": holdRoot(want.Root.ReadOnly)}
	for _, m := range want.Mounts {
		expected[path.Clean("/"+m.Destination)] = holdMount(m.Type, m.Options)
	}

	masks := map[string]func(mounted) error{}
	for _, at := range want.Linux.MaskedPaths {
		masks[path.Clean("/"+at)] = holdMask
	}
	for _, at := range want.Linux.ReadOnlyPaths {
		masks[path.Clean("/"+at)] = holdReadOnly
	}

	seen := map[string]bool{}
	for _, m := range mounts {
		check, ok := expected[m.at]
		if !ok {
			check, ok = masks[m.at]
		}
		if !ok && launchersOwn(m.at) {
			check, ok = holdMount("tmpfs", []string{"nosuid", "nodev"}), true
		}

		switch {
		case !ok:
			return fmt.Errorf("it has a mount at %q, which the spec lacks", shown(m.at))
		case seen[m.at]:
			return fmt.Errorf("it has two mounts at %q", m.at)
		case m.shared:
			return fmt.Errorf("its mount at %q is shared with others", m.at)
		}

		if err := check(m); err != nil {
			return err
		}
		seen[m.at] = true
	}

	for at := range expected {
		if !seen[at] {
			return fmt.Errorf("it lacks the spec's mount at %q", at)
		}
	}

	for at := range masks {
		if !seen[at] && exists(at) {
			return fmt.Errorf("%q isn't masked, as the spec says", at)
		}
	}
	return nil
}

// launchersOwn reports whether a mount is one that the launcher adds.
func launchersOwn(at string) bool {
	if at == stagingDir || at == stagingRoot {
		return true
	}
	name, ok := strings.CutPrefix(at, volumesDir+"/")
	n, err := strconv.Atoi(name)
	return ok && err == nil && n >= 0 && strconv.Itoa(n) == name
}

// holdRoot accepts a root that is read-only, where the spec says so.
func holdRoot(readOnly bool) func(mounted) error {
	return func(m mounted) error {
		if readOnly && !slices.Contains(m.options, "ro") {
			return errors.New("its root is writable")
		}
		return nil
	}
}

// holdMount accepts a mount of that type, with at least the restrictions that
// its options name.
func holdMount(fsType string, options []string) func(mounted) error {
	return func(m mounted) error {
		bind := fsType == "bind" || slices.Contains(options, "bind") || slices.Contains(options, "rbind")
		if !bind && (m.fsType != fsType || m.root != "/") {
			return fmt.Errorf("its mount at %q is %s, not the spec's %s", m.at, m.fsType, shown(fsType))
		}

		for _, o := range []string{"ro", "nosuid", "nodev", "noexec"} {
			if slices.Contains(options, o) && !slices.Contains(m.options, o) {
				return fmt.Errorf("its mount at %q isn't %s", m.at, o)
			}
		}
		return nil
	}
}

// holdMask accepts an empty folder, or the null device, with which low-level runtimes mask
// a path (OCI runtime specification 1.0, config-linux.md, "Masked Paths").
func holdMask(m mounted) error {
	folder := m.fsType == "tmpfs" && m.root == "/" && slices.Contains(m.options, "ro")
	null := m.root == "/null" && (m.fsType == "tmpfs" || m.fsType == "devtmpfs")
	if !folder && !null {
		return fmt.Errorf("its mount at %q is no mask", m.at)
	}
	return nil
}

// holdReadOnly accepts the place itself, read-only (OCI runtime specification 1.0,
// config-linux.md, "Readonly Paths").
func holdReadOnly(m mounted) error {
	itself, ok := strings.CutPrefix(m.at, "/proc")
	if !ok {
		itself = strings.TrimPrefix(m.at, "/sys")
	}
	if m.root != itself || m.fsType != "proc" && m.fsType != "sysfs" || !slices.Contains(m.options, "ro") {
		return fmt.Errorf("its mount at %q isn't that place, read-only", m.at)
	}
	return nil
}

const placeMask = unix.STATX_INO | unix.STATX_MNT_ID

// place looks at what one of the process's links leads to.
func (p process) place(link string) (unix.Statx_t, error) {
	var st unix.Statx_t
	if err := unix.Statx(p.fd, link, 0, placeMask, &st); err != nil {
		return st, fmt.Errorf("look at the process's %s: %w", link, err)
	}
	return st, nil
}

// inRoot looks at a path as the process does.
func (p process) inRoot(name string) (unix.Statx_t, error) {
	var st unix.Statx_t

	root, err := unix.Openat(p.fd, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return st, fmt.Errorf("open the process's root: %w", err)
	}
	defer unix.Close(root)

	fd, err := unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return st, fmt.Errorf("look into the process's root: %w", err)
	}
	defer unix.Close(fd)

	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, placeMask, &st); err != nil {
		return st, fmt.Errorf("look into the process's root: %w", err)
	}
	return st, nil
}

// has reports whether the process has something at a path; an error counts as
// yes, since then a mask is missed.
func (p process) has(name string) bool {
	_, err := p.inRoot(name)
	return !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR)
}

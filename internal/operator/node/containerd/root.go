package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/ident"
	"cupel.dev/cupel/internal/operator/las"
)

// rootUntouched checks that the process's root is the overlay of the
// container's snapshot, over the snapshot's own layers, and that nobody put
// anything into its upper layer or hid with it what lies below.
func (r *Runtime) rootUntouched(ctx context.Context, id ident.AttemptID, pid int, mountPoints []string) error {
	mounts, err := r.client.SnapshotService(snapshotter).Mounts(ctx, string(id))
	if err != nil {
		return fmt.Errorf("inspect container: its root: %w", err)
	}

	lower, upper := overlayOption(mounts, "lowerdir="), overlayOption(mounts, "upperdir=")
	if upper == "" || lower == "" {
		return errors.New("inspect container: its root is no overlay")
	}

	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return fmt.Errorf("inspect container: %w", err)
	}
	if !rootedOn(string(info), lower, upper) {
		return errors.New("inspect container: its root is another mount than its snapshot's")
	}

	return emptyPlaces(upper, strings.Split(lower, ":"), mountPoints)
}

// overlayOption is the value of an overlay's mount option; empty: it has none.
func overlayOption(mounts []mount.Mount, prefix string) string {
	for _, m := range mounts {
		for _, o := range m.Options {
			if v, ok := strings.CutPrefix(o, prefix); ok && m.Type == "overlay" {
				return v
			}
		}
	}
	return ""
}

// rootedOn reports whether the one mount at "/" is an overlay of these layers.
func rootedOn(mountinfo, lower, upper string) bool {
	roots := 0
	ok := false

	for line := range strings.Lines(mountinfo) {
		head, tail, cut := strings.Cut(line, " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if !cut || len(h) < 5 || len(t) < 3 || h[4] != "/" {
			continue
		}

		roots++
		var lowers, uppers []string
		for o := range strings.SplitSeq(t[2], ",") {
			name, v, _ := strings.Cut(o, "=")
			switch name {
			case "lowerdir":
				lowers = append(lowers, las.UnescapeMount(v))
			case "upperdir":
				uppers = append(uppers, las.UnescapeMount(v))
			case "lowerdir+", "datadir+": // a way to mount that containerd doesn't take
				return false
			}
		}

		ok = t[0] == "overlay" && len(lowers) == 1 && len(uppers) == 1 && sameLayers(lowers[0], lower) && uppers[0] == upper
	}

	return ok && roots == 1
}

// maxLowers is about where containerd begins to name many layers relative to
// their common folder, because mount options have to fit a page.
const maxLowers = 3000

// sameLayers compares the kernel's list of lower layers with the snapshot's.
func sameLayers(got, want string) bool {
	if got == want {
		return true
	}
	g, w := strings.Split(got, ":"), strings.Split(want, ":")
	if len(want) < maxLowers || len(g) != len(w) {
		return false
	}

	for i := range g {
		if filepath.IsAbs(g[i]) || !strings.HasSuffix(w[i], "/"+g[i]) {
			return false
		}
	}
	return true
}

// emptyPlaces accepts an upper layer that holds what the low-level runtime
// makes to mount on, at the spec's mount points and on the way to them:
// directories, and at the mount points empty files. An empty file anywhere else,
// or a directory that is marked to hide the one below, would take something away
// from the image.
func emptyPlaces(upper string, lowers, mountPoints []string) error {
	points := map[string]bool{}
	onTheWay := map[string]bool{"/": true}
	for _, p := range mountPoints {
		p = path.Join("/", p)
		points[p] = true
		for dir := path.Dir(p); dir != "/"; dir = path.Dir(dir) {
			onTheWay[dir] = true
		}
	}

	err := filepath.WalkDir(upper, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := path.Join("/", strings.TrimPrefix(file, upper))

		info, err := d.Info()
		if err != nil {
			return err
		}

		switch {
		case onTheWay[name] && d.IsDir():
			return notHiding(file, name, lowers)
		case points[name] && (d.IsDir() || info.Mode().IsRegular() && info.Size() == 0):
			return nil // whatever it hides is mounted over
		}
		return fmt.Errorf("%s was put into its root", name)
	})
	if err != nil {
		return fmt.Errorf("inspect container: %w", err)
	}
	return nil
}

// notHiding refuses a directory of the upper layer in whose place the kernel
// shows something else than it merged with the layers below (the kernel's overlayfs.rst,
// "whiteouts and opaque directories" and "Renaming directories"). New directories are
// marked as opaque by the kernel itself; below those there is nothing.
func notHiding(file, name string, lowers []string) error {
	if set, err := marked(file, "trusted.overlay.redirect"); err != nil || set {
		return errors.Join(err, hides(name, set))
	}

	opaque, err := marked(file, "trusted.overlay.opaque")
	if err != nil || !opaque {
		return err
	}

	for _, lower := range lowers {
		if _, err := os.Lstat(filepath.Join(lower, name)); err == nil {
			return hides(name, true)
		}
	}
	return nil
}

// hides is the refusal of a directory that hides what the image has in its place.
func hides(name string, set bool) error {
	if !set {
		return nil
	}
	return fmt.Errorf("%s in its root hides the image's", name)
}

// marked reports whether a file has an extended attribute.
func marked(file, attribute string) (bool, error) {
	_, err := unix.Lgetxattr(file, attribute, nil)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		return false, nil
	}
	return false, fmt.Errorf("look at %s: %w", file, err)
}

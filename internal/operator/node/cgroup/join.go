package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Join moves a process, and so all that it starts from then on, into the group at
// path of every tree. The group is made if it isn't there; its limits are those of
// the groups above it, of which there are none at "/".
func (t *Tree) Join(path Path, pid int) error {
	seen := map[string]bool{}
	for _, mount := range t.dirs {
		if seen[mount] {
			continue
		}
		seen[mount] = true

		dir := filepath.Join(mount, string(path))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make a control group: %w", err)
		}
		if err := inheritSet(dir, mount); err != nil {
			return fmt.Errorf("make a control group: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return fmt.Errorf("join a control group: %w", err)
		}
	}
	return nil
}

// inheritSet gives a group of the first version's cpuset, which begins with no
// processor and takes nobody in like that, what the root of its tree has.
func inheritSet(dir, root string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) || err == nil && strings.TrimSpace(string(have)) != "" {
			continue
		}
		if err != nil {
			return err
		}

		all, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, fs.ErrNotExist) { // the second version's root: an empty set is everything
			continue
		}
		if err != nil {
			return err
		}

		if err := os.WriteFile(filepath.Join(dir, name), all, 0o644); err != nil {
			return err
		}
	}
	return nil
}

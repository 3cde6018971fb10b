package procfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Command is a process that somebody entitled started with these words.
type Command struct {
	PID   int
	Start uint64 // see [Stat]
	User  int
	Args  []string // at least one
	// Name is the first word's, if the executable has that name, with a version or not, or
	// is what that word leads to, or the one of this process; else empty: a script, or one
	// that calls itself so.
	Name string
}

// Alive reports whether it is still there, rather than another one with its number.
func (c Command) Alive() bool {
	now, err := Of(c.PID)
	return err == nil && now.Start == c.Start
}

// Commands lists the processes of this process's user, and of the others that are named.
// A process chooses its words itself, so that those of anybody else mean nothing: nor do
// those of an instance, which may have the same user but has namespaces of its own.
func Commands(others ...int) ([]Command, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}

	var out []Command
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if c, ok := CommandOf(pid, others...); ok {
			out = append(out, c)
		}
	}
	return out, nil
}

// CommandOf is one of what [Commands] lists, or not ok.
func CommandOf(pid int, others ...int) (c Command, ok bool) {
	first, err := Of(pid)
	if err != nil {
		return c, false
	}

	c.PID, c.Start = pid, first.Start
	dir := fmt.Sprintf("/proc/%d", pid)
	if c.User, ok = user(dir); !ok || c.User != os.Geteuid() && !slices.Contains(others, c.User) || !sameNamespaces(dir) {
		return c, false
	}

	words, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil || len(words) == 0 {
		return c, false
	}

	c.Args = strings.Split(strings.TrimSuffix(string(words), "\x00"), "\x00")
	c.Name = program(dir, c.Args[0])
	return c, c.Alive() // and all of it is of one process
}

// user is who a process runs as, if that is one in all respects: one who started a
// program with another user's rights isn't.
func user(dir string) (uid int, ok bool) {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return 0, false
	}

	_, after, _ := strings.Cut(string(status), "\nUid:")
	line, _, _ := strings.Cut(after, "\n")
	all := strings.Fields(line) // real, effective, saved, for files
	if len(all) != 4 || len(slices.Compact(all)) != 1 {
		return 0, false
	}

	uid, err = strconv.Atoi(all[0])
	return uid, err == nil
}

// sameNamespaces reports whether a process numbers users and processes as this one.
func sameNamespaces(dir string) bool {
	for _, kind := range []string{"pid", "user"} {
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			return false
		}

		if its, err := os.Readlink(filepath.Join(dir, "ns", kind)); err != nil || its != own {
			return false
		}
	}
	return true
}

// program is the name in a process's first word, if it is true.
func program(dir, word string) string {
	name := filepath.Base(word)
	exe := filepath.Join(dir, "exe")
	target, err := os.Readlink(exe)
	if err == nil && isVersionOf(filepath.Base(strings.TrimSuffix(target, " (deleted)")), name) { // replaced since
		return name
	}

	its, err := os.Stat(exe)
	if err != nil {
		return ""
	}

	same := []string{"/proc/self/exe"}
	switch {
	case filepath.IsAbs(word):
		same = append(same, word)
	case strings.Contains(word, "/"):
		same = append(same, filepath.Join(dir, "cwd", word))
	}

	for _, path := range same {
		if file, err := os.Stat(path); err == nil && os.SameFile(file, its) {
			return name
		}
	}
	return ""
}

// isVersionOf tells whether a file is the program of that name, or a version of it, to
// which a link of that name leads: containerd-1.7.24.
func isVersionOf(file, name string) bool {
	version, ok := strings.CutPrefix(file, name)
	if !ok || version == "" {
		return ok
	}

	number := strings.TrimPrefix(version[1:], "v")
	return strings.ContainsRune("-._@", rune(version[0])) && number != "" && number[0] >= '0' && number[0] <= '9'
}

// Hidden reports whether there is a process of which /proc says nothing to this user, as
// where it is mounted with hidepid: only that it has the number, and is another user's.
func Hidden(pid int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil && pid > 0 && errors.Is(unix.Kill(pid, 0), unix.EPERM)
}

// Named reports whether a process runs as root and calls itself so. It is for messages to
// those who may know no more of it, and for a number that was written down by root.
func Named(pid int, name string) bool {
	dir := fmt.Sprintf("/proc/%d", pid)
	uid, ok := user(dir)
	words, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	first, _, _ := strings.Cut(string(words), "\x00")
	return ok && uid == 0 && err == nil && filepath.Base(first) == name
}

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Notes are what one run of the demo remembers for the next: ports, the token,
// the git server's process.

// notePath is the file of a note.
func (d *demo) notePath(name string) string { return filepath.Join(d.dir, "notes", name) }

// noted tells whether there is a note.
func (d *demo) noted(name string) bool { return exists(d.notePath(name)) }

// note returns a note, empty if there is none.
func (d *demo) note(name string) string {
	data, err := os.ReadFile(d.notePath(name))
	if err != nil {
		return ""
	}
	return string(data)
}

// setNote writes a note.
func (d *demo) setNote(name, value string) error {
	if err := os.MkdirAll(filepath.Dir(d.notePath(name)), 0o700); err != nil {
		return err
	}
	return os.WriteFile(d.notePath(name), []byte(value), 0o600)
}

// serverRuns tells whether the git server that was noted still runs; process
// ids come again, so it looks at what the process is.
func (d *demo) serverRuns() bool {
	pid, err := strconv.Atoi(d.note("git-pid"))
	if err != nil {
		return false
	}

	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return false
	}

	program, _, _ := bytes.Cut(cmdline, []byte{0})
	return string(program) == filepath.Join(d.dir, "bin", "gitserver")
}

// mountsBelow lists mount points below a folder.
func mountsBelow(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}

	var found []string
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			found = append(found, f[4])
		}
	}

	return found, nil
}

//go:build e2e

package faults

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// made lists everything on the machine that instances are made of: folders,
// mounts, control groups, addresses, and what containerd keeps.
func (s *stage) made() []string {
	var found []string
	id := s.ID()
	for _, pattern := range []string{
		filepath.Join(s.State, "node", "*", "*"), filepath.Join(s.State, "cni", "*", "*", "*"),
		"/sys/fs/cgroup/cupel-" + id + "/*/", "/sys/fs/cgroup/*/cupel-" + id + "/*/",
	} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			if !s.kept(path) {
				found = append(found, path)
			}
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], s.State+"/") {
			found = append(found, "mount "+f[4])
		}
	}
	for _, kind := range [][]string{{"containers", "ls", "-q"}, {"tasks", "ls", "-q"}, {"leases", "ls", "-q"}} {
		for line := range strings.Lines(s.ctr(kind...)) {
			found = append(found, kind[0]+" "+strings.TrimSpace(line))
		}
	}
	for line := range strings.Lines(s.ctr("snapshots", "ls")) {
		if strings.Contains(line, "Active") {
			found = append(found, "snapshot "+strings.Fields(line)[0])
		}
	}
	slices.Sort(found)
	return found
}

// processes lists those of an instance that run a program.
func (s *stage) processes(program, instance string) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		group, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if strings.HasPrefix(string(cmdline), program+"\x00") && strings.Contains(string(group), "cupel-"+s.ID()+"/"+instance) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}

func (s *stage) ctr(args ...string) string {
	socket := filepath.Join(s.State, "containerd", "containerd.sock")
	out, err := exec.Command("ctr", append([]string{"-a", socket, "-n", "cupel-" + s.ID()}, args...)...).CombinedOutput()
	if err != nil {
		return "ctr: " + err.Error() + ": " + string(out)
	}
	return string(out)
}

// kept says whether a path is a stored volume, which outlives its app, or the note of
// which apps used one.
func (s *stage) kept(path string) bool {
	volumes := filepath.Join(s.State, "node", "volumes")
	switch filepath.Dir(path) {
	case volumes:
		return true
	case filepath.Join(s.State, "node", "volume-users"):
		_, err := os.Stat(filepath.Join(volumes, filepath.Base(path)))
		return err == nil
	}
	return false
}

//go:build e2e

package harness

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is a process of the installation.
type Process struct {
	PID  int
	Args []string
}

// Processes returns the installation's processes that run the program name
// ("cupeld", "cupel-cas", "containerd", …): those whose arguments or
// environment name the state folder, and their children. Instances' own
// processes are theirs alone and not found by name.
func (w *World) Processes(name string) []Process {
	var found []Process
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}

		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(cmdline) == 0 {
			continue
		}

		args := strings.Split(string(bytes.TrimRight(cmdline, "\x00")), "\x00")
		if filepath.Base(args[0]) != name || name == "cupeld" && !slices.Contains(args, "up") {
			continue
		}

		if w.owns(dir, cmdline) {
			found = append(found, Process{pid, args})
		}
	}

	return found
}

// owns tells whether a process of /proc is of this world: it names the state folder, or runs
// one of the world's programs.
func (w *World) owns(dir string, cmdline []byte) bool {
	environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
	exe, _ := os.Readlink(filepath.Join(dir, "exe"))
	return bytes.Contains(cmdline, []byte(w.State)) || bytes.Contains(environ, []byte(w.State)) || strings.HasPrefix(exe, w.Dir+"/")
}

// AppProcesses lists the processes of Python apps in the installation's instances, as
// this machine knows them.
func (w *World) AppProcesses() []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		cgroup, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		if strings.HasPrefix(string(cmdline), "python3\x00") && strings.Contains(string(cgroup), w.ID()) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}

	slices.Sort(pids)

	return pids
}

// Kill sends a signal to every process of the installation that runs the
// program name, waits until they are gone, and fails the test if there is none.
func (w *World) Kill(name string, sig syscall.Signal) {
	w.T.Helper()
	victims := w.Processes(name)
	if len(victims) == 0 {
		w.T.Fatalf("no process %s to kill", name)
	}

	for _, v := range victims {
		if err := syscall.Kill(v.PID, sig); err != nil && err != syscall.ESRCH {
			w.T.Fatalf("kill %s (%d): %v", name, v.PID, err)
		}
	}

	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		alive := 0
		for _, v := range victims {
			if running(v.PID) {
				alive++
			}
		}

		if alive == 0 {
			return
		}

		if time.Now().After(end) {
			w.T.Fatalf("%d of %d %s live on after signal %d", alive, len(victims), name, sig)
		}
	}
}

// running tells whether a process exists and is no zombie.
func running(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}

	// The name in parentheses may hold anything; the state follows the last.
	rest := stat[bytes.LastIndexByte(stat, ')')+1:]
	return len(rest) > 1 && rest[1] != 'Z' && rest[1] != 'X'
}

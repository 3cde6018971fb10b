package containerd

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cupel.dev/cupel/internal/proc"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// pidFile is what is written down about the running daemon.
type pidFile struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // the kernel's start time of that process
}

// running returns the pid of the daemon that the pid file names, if it is
// still that process and was started with our configuration; otherwise 0.
func (d *Daemon) running() int {
	b, err := os.ReadFile(d.path("containerd.pid"))
	var p pidFile
	if err != nil || json.Unmarshal(b, &p) != nil || p.PID <= 1 {
		return 0
	}
	start, err := startTime(p.PID)
	if err != nil || start != p.Start {
		return 0
	}
	if !d.isOurs(p.PID, "") {
		return 0
	}
	return p.PID
}

// startTime is when a process started, by the kernel's count.
func startTime(pid int) (uint64, error) {
	s, err := proc.Of(pid)
	return s.Start, err
}

// notePID writes down which process the daemon is.
func (d *Daemon) notePID(pid int) error {
	start, err := startTime(pid)
	if err != nil {
		return fmt.Errorf("start containerd: it ended at once; see %s", d.LogFile())
	}
	b, err := json.Marshal(pidFile{pid, start})
	if err == nil {
		err = atomicfile.Replace(d.path("containerd.pid"), b, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write containerd's pid file: %w", err)
	}
	return nil
}

// find returns the pid of the daemon that runs, or 0. Where its file was lost it is
// found by its arguments: a second one would wait for the first one's database.
func (d *Daemon) find() (int, error) {
	if pid := d.running(); pid != 0 {
		return pid, nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, fmt.Errorf("look for containerd: %w", err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !d.isOurs(pid, "containerd") {
			continue
		}
		if _, gone := startTime(pid); gone == nil {
			return pid, d.notePID(pid)
		}
	}
	return 0, nil
}

// isOurs says whether a process was started with our configuration, as that program;
// empty: as any.
func (d *Daemon) isOurs(pid int, program string) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return false
	}
	args := strings.Split(string(b), "\x00")
	return (program == "" || filepath.Base(args[0]) == program) && slices.Contains(args, d.path("config.toml"))
}

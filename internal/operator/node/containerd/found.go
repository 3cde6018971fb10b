package containerd

import (
	"encoding/json"
	"fmt"
	"slices"

	"cupel.dev/cupel/internal/procfs"
	"cupel.dev/cupel/internal/trusted/atomicfile"
)

// pidFile is what is written down about the running daemon.
type pidFile struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // the kernel's start time of that process
}

// runningPID returns the pid of the daemon that the pid file names, if it is
// still that process and was started with our configuration; otherwise 0.
func (d *Daemon) runningPID() int {
	b, err := atomicfile.Read(d.path("containerd.pid"))
	var p pidFile
	if err != nil || json.Unmarshal(b, &p) != nil || p.PID <= 1 {
		return 0
	}

	c, ok := procfs.CommandOf(p.PID)
	if !ok || c.Start != p.Start || !slices.Contains(c.Args, d.path("config.toml")) {
		return 0
	}
	return p.PID
}

// startTime is when a process started, by the kernel's count.
func startTime(pid int) (uint64, error) {
	s, err := procfs.Of(pid)
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
	if pid := d.runningPID(); pid != 0 {
		return pid, nil
	}
	list, err := procfs.Commands()
	if err != nil {
		return 0, fmt.Errorf("look for containerd: %w", err)
	}

	for _, c := range list {
		if c.Name == "containerd" && slices.Contains(c.Args, d.path("config.toml")) {
			return c.PID, d.notePID(c.PID)
		}
	}
	return 0, nil
}

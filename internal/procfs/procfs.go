package procfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Stat is one process or thread, as in proc_pid_stat(5).
type Stat struct {
	Parent int           // process
	State  byte          // R runs or may run, S waits, D waits for a device, T and t are stopped
	Start  uint64        // when it started, by which a number is known to mean the same process
	CPU    time.Duration // of a processor that it has had, in ticks of 10 ms
}

// tick is the unit in which the kernel tells times: USER_HZ is 100 for every program.
const tick = 10 * time.Millisecond

// Of reads what a process does. One that has ended, reaped or not, is [fs.ErrNotExist].
func Of(pid int) (Stat, error) {
	s, err := read(fmt.Sprintf("/proc/%d/stat", pid))
	if err == nil && (s.State == 'Z' || s.State == 'X') {
		err = fs.ErrNotExist
	}
	return s, err
}

func read(path string) (s Stat, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}

	// The second field, the name, may hold anything but ends at the last ")".
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 20 {
		return s, fs.ErrNotExist
	}

	s.State = fields[0][0]
	parent, err0 := strconv.Atoi(fields[1])
	s.Parent = parent

	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	s.CPU = time.Duration(user+system) * tick
	s.Start, err = strconv.ParseUint(fields[19], 10, 64)

	return s, errors.Join(err, err0, err1, err2)
}

// Stopped reports whether a process was stopped by a signal or a debugger: it does
// nothing before it gets SIGCONT.
func Stopped(pid int) bool {
	s, err := Of(pid)
	return err == nil && (s.State == 'T' || s.State == 't')
}

// Suspended reports whether a process was stopped by a signal, and SIGCONT is all that it
// waits for: what a debugger looks at is left to it.
func Suspended(pid int) bool {
	s, err := Of(pid)
	return err == nil && s.State == 'T'
}

// AtWork reports whether a thread of the process runs, waits for a processor or waits
// for a device.
func AtWork(pid int) bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid)) // the pattern is valid
	for _, path := range threads {
		if s, err := read(path); err == nil && (s.State == 'R' || s.State == 'D') {
			return true
		}
	}
	return false
}

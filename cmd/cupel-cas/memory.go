package main

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const (
	// connectionSize is about what an open connection takes: TLS state, buffers
	// and stacks.
	connectionSize = 100 << 10
	// connectionPart is the part of the memory that each listener's connections
	// may take.
	connectionPart = 16

	leastConnections = 256
	mostConnections  = 16384

	// unknownMemory stands in where the system doesn't say how much there is.
	unknownMemory = 1 << 30
)

// connectionsFor is how many connections each listener may have open with so much
// memory, and so many descriptors.
func connectionsFor(memory int64, descriptors uint64) int {
	n := memory / connectionPart / connectionSize
	n = min(n, int64(min(descriptors, 1<<20))/3, mostConnections)
	return int(max(n, leastConnections))
}

// descriptors is how many files this process may have open.
func descriptors() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return l.Cur
}

// memoryLimit is how much memory this process may use: the least of what its
// control groups and the machine have. root is "/", but for tests.
func memoryLimit(root string) int64 {
	limit := int64(unknownMemory)
	if total, ok := machineMemory(filepath.Join(root, "proc/meminfo")); ok {
		limit = total
	}

	for _, file := range groupLimits(root) {
		b, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err == nil && n > 0 { // "max" is no number
			limit = min(limit, n)
		}
	}
	return limit
}

// groupLimits are the files with the limits of this process's control groups, of
// cgroup v2 and v1, from its own up to the root.
func groupLimits(root string) []string {
	b, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}

	var out []string
	for line := range strings.Lines(string(b)) { // ID:CONTROLLERS:PATH
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}

		base, name := "sys/fs/cgroup", "memory.max" // version 2
		switch {
		case parts[1] == "":
		case strings.Contains(","+parts[1]+",", ",memory,"):
			base, name = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}

		for path := filepath.Clean("/" + parts[2]); ; path = filepath.Dir(path) {
			out = append(out, filepath.Join(root, base, path, name))
			if path == "/" {
				break
			}
		}
	}
	return out
}

// machineMemory is how much memory the machine has.
func machineMemory(file string) (int64, bool) {
	f, err := os.Open(file)
	if err != nil {
		return 0, false
	}
	defer func() { _ = f.Close() }()

	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "MemTotal:" {
			continue
		}
		kB, err := strconv.ParseInt(fields[1], 10, 64)
		return kB << 10, err == nil
	}
	return 0, false
}

package balance

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holder says who listens on a TCP port, as far as /proc tells; for messages.
func holder(port uint16) string {
	inodes := map[string]bool{}
	for _, file := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		for inode := range listening(data, port) {
			inodes[inode] = true
		}
	}

	fds, _ := filepath.Glob("/proc/[0-9]*/fd/[0-9]*")
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil {
			continue
		}
		inode, ok := strings.CutPrefix(target, "socket:[")
		if !ok || !inodes[strings.TrimSuffix(inode, "]")] {
			continue
		}

		pid := strings.Split(fd, "/")[2]
		comm, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			continue
		}
		return fmt.Sprintf("%s (process %s)", strings.TrimSpace(string(comm)), pid)
	}
	return "another process"
}

// listening returns the inodes of the sockets that listen on port, out of the
// text of /proc/net/tcp or tcp6 (proc(5)): the fields are slot, local address
// and port in hex, remote, state (0A: listen), queues, timer, retransmissions,
// uid, timeout, inode.
func listening(table []byte, port uint16) map[string]bool {
	inodes := map[string]bool{}
	lines := bufio.NewScanner(bytes.NewReader(table))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[3] != "0A" {
			continue
		}

		_, hexPort, ok := strings.Cut(f[1], ":")
		if !ok {
			continue
		}
		if p, err := strconv.ParseUint(hexPort, 16, 16); err == nil && uint16(p) == port {
			inodes[f[9]] = true
		}
	}

	return inodes
}

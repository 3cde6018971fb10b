//go:build e2e

package harness

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// leftovers is what an installation may leave on a machine, one line each.
type leftovers []string

// look lists what is on the machine and ours by name, and the settings that an
// installation changes.
func (w *World) look() leftovers {
	var l leftovers
	add := func(kind, what string) { l = append(l, kind+" "+what) }

	w.lookProcesses(add)
	w.lookMounts(add)
	id := w.ID()

	if out, err := exec.Command("nft", "list", "tables").Output(); err == nil {
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, id) {
				add("nftables", strings.TrimSpace(line))
			}
		}
	}

	links, _ := net.Interfaces()
	for _, link := range links {
		if strings.Contains(link.Name, id) {
			add("network interface", link.Name)
		}
	}

	for _, pattern := range []string{
		"/run/netns/*" + id + "*",
		"/var/lib/cni/*/*" + id + "*",
		"/run/cupel*/*" + id + "*",
		"/sys/fs/cgroup/*" + id + "*",
		"/sys/fs/cgroup/*/*" + id + "*",
	} {
		found, _ := filepath.Glob(pattern)
		for _, path := range found {
			add("path", path)
		}
	}

	// Kernel settings are shared: while another installation of this machine
	// holds them, they stay.
	if _, err := os.Stat("/run/cupel-sysctl"); err == nil {
		return l
	}

	for _, name := range []string{
		"net/ipv4/ip_forward",
		"net/ipv4/conf/all/forwarding",
		"net/ipv6/conf/all/forwarding",
		"net/bridge/bridge-nf-call-iptables",
	} {
		if data, err := os.ReadFile("/proc/sys/" + name); err == nil {
			add("sysctl", name+"="+strings.TrimSpace(string(data)))
		}
	}

	return l
}

// lookProcesses adds the world's processes but this one and the reaper.
func (w *World) lookProcesses(add func(kind, what string)) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if pid == os.Getpid() || w.reaper != nil && pid == w.reaper.pid() {
			continue
		}

		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || !w.owns(dir, cmdline) || !running(pid) {
			continue
		}

		add("process", fmt.Sprintf("%d %s", pid, bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
	}
}

// lookMounts adds what is mounted below the world's folder.
func (w *World) lookMounts(add func(kind, what string)) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()

	for lines := bufio.NewScanner(f); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], w.Dir+"/") {
			add("mount", fields[4])
		}
	}
}

// minus returns what is in l and not in before. Kernel settings count only if
// they could be seen both times.
func (l leftovers) minus(before leftovers) []string {
	isSetting := func(s string) bool { return strings.HasPrefix(s, "sysctl ") }

	seen := slices.ContainsFunc(before, isSetting)

	return slices.DeleteFunc(slices.Clone(l), func(s string) bool {
		return slices.Contains(before, s) || isSetting(s) && !seen
	})
}

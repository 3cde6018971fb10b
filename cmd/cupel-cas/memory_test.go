package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMemoryLimit(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"nothing known": {nil, unknownMemory},
		"machine":       {map[string]string{"proc/meminfo": "MemTotal:  4194304 kB\nMemFree: 1 kB\n"}, 4 << 30},
		"cgroup v2": {map[string]string{
			"proc/meminfo":                    "MemTotal:  4194304 kB\n",
			"proc/self/cgroup":                "0::/a/b\n",
			"sys/fs/cgroup/a/memory.max":      "536870912\n",
			"sys/fs/cgroup/a/b/memory.max":    "max\n",
			"sys/fs/cgroup/a/b/c/memory.max":  "1\n",
			"sys/fs/cgroup/other/memory.max":  "1\n",
			"sys/fs/cgroup/memory/memory.max": "1\n",
		}, 512 << 20},
		"cgroup v1": {map[string]string{
			"proc/meminfo":     "MemTotal:  4194304 kB\n",
			"proc/self/cgroup": "3:cpu,cpuacct:/x\n2:memory:/a\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   "9223372036854771712\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "1073741824\n",
		}, 1 << 30},
		"garbage": {map[string]string{"proc/meminfo": "MemTotal: many kB\n", "proc/self/cgroup": "0::\n:::\nx\n"}, unknownMemory},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range c.files {
				path := filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := memoryLimit(root); got != c.want {
				t.Errorf("%d, want %d", got, c.want)
			}
		})
	}
}

func TestConnectionsFor(t *testing.T) {
	for _, c := range []struct {
		memory      int64
		descriptors uint64
		want        int
	}{
		{128 << 20, 1 << 20, leastConnections},
		{4 << 30, 1 << 20, 2621},
		{4 << 30, 3000, 1000},
		{1 << 50, 1 << 40, mostConnections},
	} {
		if got := connectionsFor(c.memory, c.descriptors); got != c.want {
			t.Errorf("%d bytes, %d descriptors: %d, want %d", c.memory, c.descriptors, got, c.want)
		}
	}
}

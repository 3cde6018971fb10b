package launcher

import (
	"testing"
	"testing/fstest"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/testing/need"
)

func files(dir string, kv ...string) fstest.MapFS {
	m := fstest.MapFS{}
	for i := 0; i < len(kv); i += 2 {
		m[dir+kv[i]] = &fstest.MapFile{Data: []byte(kv[i+1] + "\n")}
	}
	return m
}

func TestMemoryView(t *testing.T) {
	const (
		v1      = "9:memory:/cupel/i1\n8:cpu,cpuacct:/cupel/i1\n1:name=systemd:/x\n0::/unified\n"
		v2      = "0::/cupel/i1\n"
		noSwaps = "Filename\tType\tSize\tUsed\tPriority\n"
		swaps   = noSwaps + "/dev/sda2 partition 1 0 -2\n"
		max     = "9223372036854771712"
		total   = 8 << 30
	)
	cases := map[string]struct {
		h      hostFiles
		limit  uint64
		noSwap bool
		rule   string
	}{
		"v1 by the profile": {hostFiles{cgroup: v1, swaps: swaps, v1: files("cupel/i1/", "memory.limit_in_bytes", "268435456",
			"memory.memsw.limit_in_bytes", "268435456", "memory.swappiness", "0")}, 256 << 20, true, ""},
		"v1 with swap": {hostFiles{cgroup: v1, swaps: swaps, v1: files("cupel/i1/", "memory.limit_in_bytes", "268435456",
			"memory.memsw.limit_in_bytes", "536870912", "memory.swappiness", "0")}, 256 << 20, false, ""},
		"v1 swappy": {hostFiles{cgroup: v1, swaps: swaps, v1: files("cupel/i1/", "memory.limit_in_bytes", "268435456",
			"memory.memsw.limit_in_bytes", "268435456", "memory.swappiness", "60")}, 256 << 20, false, ""},
		"v1 unlimited": {hostFiles{cgroup: v1, swaps: swaps, v1: files("cupel/i1/", "memory.limit_in_bytes", max,
			"memory.memsw.limit_in_bytes", max, "memory.swappiness", "0")}, total, false, ""},
		"v1 without accounting, no swap": {hostFiles{cgroup: v1, swaps: noSwaps,
			v1: files("cupel/i1/", "memory.limit_in_bytes", "268435456")}, 256 << 20, true, ""},
		"v1 without accounting, swap": {hostFiles{cgroup: v1, swaps: swaps,
			v1: files("cupel/i1/", "memory.limit_in_bytes", "268435456")}, 256 << 20, false, ""},
		"v2 by the profile": {hostFiles{cgroup: v2, swaps: swaps,
			v2: files("cupel/i1/", "memory.max", "268435456", "memory.swap.max", "0")}, 256 << 20, true, ""},
		"v2 namespaced": {hostFiles{cgroup: "0::/\n", swaps: swaps,
			v2: files("", "memory.max", "268435456", "memory.swap.max", "0")}, 256 << 20, true, ""},
		"v2 with swap": {hostFiles{cgroup: v2, swaps: swaps,
			v2: files("cupel/i1/", "memory.max", "268435456", "memory.swap.max", "max")}, 256 << 20, false, ""},
		"v2 unlimited": {hostFiles{cgroup: v2, swaps: noSwaps,
			v2: files("cupel/i1/", "memory.max", "max", "memory.swap.max", "max")}, total, true, ""},
		"v2 root cgroup": {hostFiles{cgroup: "0::/\n", swaps: swaps, v2: fstest.MapFS{}}, total, false, ""},
		"not mountable":  {hostFiles{cgroup: v2, swaps: noSwaps}, total, true, ""},
		"garbage":        {hostFiles{cgroup: "hello\n"}, 0, false, "cgroup"},
		"garbage limit": {hostFiles{cgroup: v1, v1: files("cupel/i1/", "memory.limit_in_bytes", "lots")},
			0, false, "cgroup"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.h.total = total
			v, err := c.h.view()
			wantRule(t, err, problem.Rule(c.rule))
			if v.limit != c.limit || v.noSwap != c.noSwap {
				t.Errorf("%+v, want limit %d, no swap %t", v, c.limit, c.noSwap)
			}
		})
	}
}

func TestCheckSwap(t *testing.T) {
	wantRule(t, checkSwap(memoryView{noSwap: true}, false), "")
	wantRule(t, checkSwap(memoryView{}, true), "")
	wantRule(t, checkSwap(memoryView{}, false), "swap")
}

func FuzzCgroup(f *testing.F) {
	f.Add("9:memory:/a\n0::/\n", "12")
	f.Add("0::/../..", "max")
	f.Fuzz(func(_ *testing.T, cgroup, value string) {
		h := hostFiles{cgroup: cgroup, v1: files("a/", "memory.limit_in_bytes", value), v2: files("a/", "memory.max", value), total: 1}
		_, _ = h.view()
	})
}

// TestReadMemory reads this machine's own.
func TestReadMemory(t *testing.T) {
	need.Root(t)
	proc, err := openProc()
	must(t, err)
	defer proc.close()
	v, err := readMemory(proc)
	if err != nil || v.limit == 0 {
		t.Errorf("%+v %v", v, err)
	}
}

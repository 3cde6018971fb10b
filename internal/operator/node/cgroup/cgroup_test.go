package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree makes files below a new folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

var v1 = map[string]string{
	"memory/cgroup.procs":                     "",
	"cpu,cpuacct/cgroup.procs":                "",
	"pids/cgroup.procs":                       "",
	"devices/cgroup.procs":                    "",
	"unified/cgroup.procs":                    "",
	"memory/c/i-1/memory.usage_in_bytes":      "5000\n",
	"memory/c/i-1/memory.stat":                "cache 10\ninactive_file 7\ntotal_inactive_file 1000\n",
	"memory/c/i-1/memory.oom_control":         "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
	"memory/c/i-broken/memory.usage_in_bytes": "many\n",
}

var v2 = map[string]string{
	"cgroup.controllers":   "memory pids",
	"c/i-1/memory.current": "5000\n",
	"c/i-1/memory.stat":    "anon 10\ninactive_file 1000\n",
	"c/i-1/memory.events":  "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\n",
}

func detect(t *testing.T, files map[string]string) *Tree {
	t.Helper()
	tr, err := Detect(tree(t, files))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestMemory(t *testing.T) {
	for name, files := range map[string]map[string]string{"v1": v1, "v2": v2} {
		tr := detect(t, files)
		if tr.V2() != (name == "v2") {
			t.Errorf("%s: V2 is %v", name, tr.V2())
		}
		got, err := tr.Memory("/c/i-1")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Memory{Used: 4000, OOMKills: 2}, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if _, err := tr.Memory("/c/gone"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a group that is gone: %v", name, err)
		}
	}
	if _, err := detect(t, v1).Memory("/c/i-broken"); err == nil {
		t.Error("accepted a number that is none")
	}
}

func TestBusy(t *testing.T) {
	tr := detect(t, map[string]string{
		"memory/cgroup.procs": "1\n", "pids/cgroup.procs": "1\n", "pids/c/i-1/child/cgroup.procs": "7\n", "pids/c/i-1/cgroup.procs": "",
		"memory/c/i-2/cgroup.procs": "",
	})
	for path, want := range map[Path]bool{"/c/i-1": true, "/c/i-2": false, "/c/gone": false} {
		if got, err := tr.Busy(path); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", path, got, err, want)
		}
	}
}

func TestBusyBelow(t *testing.T) {
	tr := detect(t, map[string]string{
		"memory/cgroup.procs": "1\n", "pids/cgroup.procs": "1\n", "memory/c/cgroup.procs": "7\n",
		"memory/c/i-2/cgroup.procs": "8\n", "pids/c/i-2/cgroup.procs": "8\n", "pids/c/i-1/child/cgroup.procs": "9\n", "pids/c/i-1/cgroup.procs": "", "memory/c/i-3/cgroup.procs": "",
	})
	got, err := tr.BusyBelow("/c")
	if diff := cmp.Diff([]string{"i-1", "i-2"}, got); diff != "" || err != nil {
		t.Errorf("%s, %v", diff, err)
	}
	if got, err := tr.BusyBelow("/gone"); len(got) > 0 || err != nil {
		t.Errorf("a group that is gone: %v, %v", got, err)
	}
}

func TestDetectNothing(t *testing.T) {
	if _, err := Detect(t.TempDir()); err == nil {
		t.Error("found control groups in an empty folder")
	}
}

func TestRemove(t *testing.T) {
	root := tree(t, v1)
	tr, err := Detect(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"memory", "pids", "cpu,cpuacct"} {
		if err := os.MkdirAll(filepath.Join(root, c, "x/child/grandchild"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := tr.Remove("/x"); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "*", "x")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if err := tr.Remove("/x"); err != nil {
		t.Errorf("removed twice: %v", err)
	}
	for _, path := range []Path{"", "/", "..", "/x/.."} {
		if err := tr.Remove(path); err == nil {
			t.Errorf("%q: removed the root", path)
		}
	}
}

const hybrid = "9:name=systemd:/\n8:pids:/c/i-1\n5:devices:/c/i-1\n4:memory:/c/i-1\n2:cpu,cpuacct:/c/i-1\n0::/\n"

func TestIn(t *testing.T) {
	for _, c := range []struct {
		name, procfs string
		path         Path
		files        map[string]string
		want         bool
	}{
		{"v1", hybrid, "/c/i-1", v1, true},
		{"v1, cleaned path", hybrid, "c/i-1/", v1, true},
		{"v1, another instance", hybrid, "/c/i-2", v1, false},
		{"v1, the parent", hybrid, "/c", v1, false},
		{"v1, memory alone", strings.Replace(hybrid, "8:pids:/c/i-1", "8:pids:/", 1), "/c/i-1", v1, false},
		{"v1, a child group", strings.ReplaceAll(hybrid, "i-1", "i-1/x"), "/c/i-1", v1, false},
		{"v2", "0::/c/i-1\n", "/c/i-1", v2, true},
		{"v2, another instance", "0::/c/i-2\n", "/c/i-1", v2, false},
		{"v2, a child group", "0::/c/i-1/x\n", "/c/i-1", v2, false},
		{"v2, v1 lines don't count", hybrid, "/c/i-1", v2, false},
		{"v1, nowhere", "0::/c/i-1\n", "/c/i-1", v1, false},
	} {
		m, err := ParseMembership(strings.NewReader(c.procfs))
		if err != nil {
			t.Fatal(err)
		}
		if got := detect(t, c.files).In(m, c.path); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestParseMembershipRefuses(t *testing.T) {
	for _, bad := range []string{"x", "1:memory", "a:memory:/x", "1:memory:x", "1:memory:/a\n2:memory:/b", "-1::/"} {
		if m, err := ParseMembership(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: accepted as %v", bad, m)
		}
	}
}

func TestMembershipOfThisProcess(t *testing.T) {
	m, err := MembershipOf(os.Getpid())
	if err != nil || len(m) == 0 {
		t.Errorf("%v, %v", m, err)
	}
}

func FuzzParseMembership(f *testing.F) {
	f.Add(hybrid)
	f.Add("0::/c/i-1\n")
	f.Fuzz(func(_ *testing.T, s string) {
		_, _ = ParseMembership(strings.NewReader(s))
	})
}

func TestProcesses(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"v1": {"memory/cgroup.procs": "", "memory/c/i-1/cgroup.procs": "12\n340\n"},
		"v2": {"cgroup.controllers": "memory pids", "c/i-1/cgroup.procs": "12\n340\n"},
	} {
		tr := detect(t, files)
		got, err := tr.Processes("/c/i-1")
		if diff := cmp.Diff([]int{12, 340}, got); err != nil || diff != "" {
			t.Errorf("%s: %v: %s", name, err, diff)
		}
		if _, err := tr.Processes("/c/i-2"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: gone: %v", name, err)
		}
	}
}

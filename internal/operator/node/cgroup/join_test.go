package cgroup_test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/testing/need"
)

// TestJoin moves a process in every tree, whatever it was in.
func TestJoin(t *testing.T) {
	need.Root(t)
	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	path := cgroup.Path(fmt.Sprintf("/cupel-join-%d", os.Getpid()))
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := groups.Remove(path); err != nil {
			t.Error(err)
		}
	}()

	if err := groups.Join(path, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	in, err := cgroup.MembershipOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for controller, group := range in {
		if group != path {
			t.Errorf("%q: %s, want %s", controller, group, path)
		}
	}
	if len(in) == 0 {
		t.Error("it is in no group")
	}
}

//go:build e2e

package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/e2e/harness"
)

// TestFullDisk: the operator's disk fills up. What runs goes on, what can't be
// written is refused with the reason, and things can be removed.
func TestFullDisk(t *testing.T) {
	s := smallDisk(t, harness.Config{Disk: 1 << 30})

	free := s.fill(t)
	want(t, s.owner.Run(s.sessionArgs(s.owner, "full", nil)...), "disk_full", 7)
	want(t, s.owner.Run(s.deployArgs("late")...), "disk_full", 7)
	if r := s.owner.Run("ps"); r.Code != 0 {
		t.Errorf("ps: %s", r)
	}
	s.untouched(t)

	// Removing needs a little room for the record of it, which is kept aside.
	if r := s.owner.Run("rm", "--app", "steady"); r.Code != 0 {
		t.Errorf("rm on a full disk: %s", r)
	}
	free()
	s.clean = nil
	if err := s.casAnswers(); err != nil {
		t.Error(err)
	}
	s.owner.MustRun(s.deployArgs("late")...)
	s.owner.MustRun("rm", "--app", "late")
	s.owner.MustRun("audit", "verify")
}

// smallDisk is a stage whose state folder has a small disk of its own.
func smallDisk(t *testing.T, cfg harness.Config) *stage {
	t.Helper()
	s := newStage(t, cfg)
	s.session("late", nil)
	return s
}

// TestFullDiskAtStart: the disk fills up, in bytes or in files, while cupeld is dead,
// or while everything is down. It comes up all the same: what runs goes on and can be
// removed, and what is new is refused until there is room.
func TestFullDiskAtStart(t *testing.T) {
	s := smallDisk(t, harness.Config{Disk: 1 << 30})
	for _, c := range []struct {
		name string
		end  func()
		fill func(*testing.T) (free func())
		says string
	}{
		{"bytes, cupeld dead", func() { s.Kill("cupeld", syscall.SIGKILL) }, s.fill, "MB are free"},
		{"files, cupeld dead", func() { s.Kill("cupeld", syscall.SIGKILL) }, s.fillFiles, "more files"},
		{"bytes, all down", func() { s.Operator.MustRun("down") }, s.fill, "MB are free"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ran := len(s.owner.Healthy("steady")) == 1
			c.end()
			free := c.fill(t)
			up := s.TryUp()
			if up.Code != 0 || !strings.Contains(up.Stdout, c.says) || !strings.Contains(up.Stdout, "nothing new is deployed") {
				t.Fatalf("up: %s", up)
			}
			t.Log(up.Stdout)
			if r := s.owner.Run("ps"); r.Code != 0 || !strings.Contains(r.Stdout, "steady") {
				t.Errorf("ps: %s", r)
			}
			if c.name != "bytes, all down" && ran {
				s.untouched(t)
			}
			want(t, s.owner.Run(s.deployArgs("late")...), "disk_full", 7, c.says, "cupel rm --state "+s.State+" --app")
			if r := s.owner.Run("rm", "--app", "steady"); r.Code != 0 {
				t.Errorf("rm: %s", r)
			}

			free()
			s.owner.MustRun(s.deployArgs("late")...)
			s.owner.MustRun("rm", "--app", "late")
			s.owner.Deploy("steady", 1, s.port)
			s.steady, s.clean = s.owner.Healthy("steady"), s.made()
		})
	}
	s.owner.MustRun("audit", "verify")
}

// TestDiskThatRootFilled: root fills a disk to the last byte, beyond what other users
// get, while cupeld and an app run. What was kept aside is then room for cupeld alone,
// and the CAS comes up all the same: apps are adopted, removed and stopped in order.
func TestDiskThatRootFilled(t *testing.T) {
	s := smallDisk(t, harness.Config{Disk: 1500 << 20, Ext4: true})
	free := s.fill(t)
	s.Kill("cupeld", syscall.SIGKILL)
	up := s.TryUp()
	if up.Code != 0 || !strings.Contains(up.Stdout, "MB are free") || !strings.Contains(up.Stdout, "nothing new is deployed") {
		t.Fatalf("up: %s", up)
	}
	s.untouched(t)
	want(t, s.owner.Run(s.sessionArgs(s.owner, "full", nil)...), "disk_full", 7)
	want(t, s.owner.Run(s.deployArgs("late")...), "disk_full", 7)
	if r := s.owner.Run("rm", "--app", "steady"); r.Code != 0 {
		t.Errorf("rm: %s", r)
	}

	free()
	s.owner.Deploy("steady", 1, s.port)
	for _, args := range [][]string{{"down"}, {"down", "--force"}} {
		free := s.fill(t)
		s.Kill("cupeld", syscall.SIGKILL)
		if r := s.Operator.Run(args...); r.Code != 0 {
			t.Errorf("%s: %s", strings.Join(args, " "), r)
		}
		free()
		if r := s.TryUp(); r.Code != 0 {
			t.Fatalf("up with room again: %s", r)
		}
		s.Eventually(time.Minute, func() error { return s.owner.ExpectHealthy("steady", 1) })
	}

	// Without what was kept aside nothing works but to stop by force; it says why.
	if err := os.RemoveAll(filepath.Join(s.State, "reserve")); err != nil {
		t.Fatal(err)
	}
	_ = s.fill(t)
	s.Kill("cupeld", syscall.SIGKILL)
	free = s.fill(t) // what the CAS gave back when it ended
	want(t, s.TryUp(), "disk_full", 7)
	if r := s.Operator.Run("down", "--force"); r.Code != 0 {
		t.Errorf("down --force: %s", r)
	}
	free()
	s.Up(nil, nil)
	s.Eventually(time.Minute, func() error { return s.owner.ExpectHealthy("steady", 1) })
	s.owner.MustRun("audit", "verify")
}

// fillFiles leaves no inode on the state folder's disk, until free is called.
func (s *stage) fillFiles(t *testing.T) (free func()) {
	t.Helper()
	disk := filepath.Dir(s.State)
	var fs unix.Statfs_t
	if err := unix.Statfs(disk, &fs); err != nil {
		t.Fatal(err)
	}
	limit := func(inodes uint64) {
		if err := unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT|unix.MS_NODEV, fmt.Sprintf("nr_inodes=%d", inodes)); err != nil {
			t.Fatal(err)
		}
	}
	limit(fs.Files - fs.Ffree)
	return func() { limit(fs.Files) }
}

// fill leaves no byte on the state folder's disk, until free is called.
func (s *stage) fill(t *testing.T) (free func()) {
	t.Helper()
	path := filepath.Join(filepath.Dir(s.State), "filler")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	block := make([]byte, 1<<20)
	for size := len(block); size > 0; {
		if _, err := f.Write(block[:size]); err != nil {
			size /= 2
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &fs); err != nil || fs.Bavail > 0 {
		t.Fatalf("%d blocks are free, %v", fs.Bavail, err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

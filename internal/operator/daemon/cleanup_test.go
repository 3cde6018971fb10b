package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/testing/need"
)

// TestOthersMountsStay: a disk that somebody mounted for the registry or for
// everything is there after down, and empty and there after cleanup.
func TestOthersMountsStay(t *testing.T) {
	need.Root(t)
	for _, where := range []string{"registry", "."} {
		t.Run(where, func(t *testing.T) {
			dir := folder(t)
			at := filepath.Join(dir, where)
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("disk", at, "tmpfs", 0, "mode=755"); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
			data := filepath.Join(dir, "registry", "blobs", "x")
			if err := errors.Join(os.MkdirAll(filepath.Dir(data), 0o755), os.WriteFile(data, nil, 0o644)); err != nil {
				t.Fatal(err)
			}

			if stdout, stderr, code := cupeld(t, ":", "down", "--state", dir); code != 0 {
				t.Errorf("down: exit %d: %s%s", code, stdout, stderr)
			}
			if _, err := os.Stat(data); err != nil {
				t.Errorf("after down: %v", err)
			}
			stdout, stderr, code := cupeld(t, ":", "cleanup", "--yes", "--state", dir)
			if code != 0 || !strings.Contains(stdout, "stay mounted: "+at) || stderr != "" {
				t.Errorf("cleanup: exit %d: %s%s", code, stdout, stderr)
			}
			if left, err := os.ReadDir(at); err != nil || len(left) > 0 {
				t.Errorf("after cleanup: %v, %v", left, err)
			}
			t.Log(stdout)
		})
	}
}

// TestCleanupSaysWhatStays, and how to take it away.
func TestCleanupSaysWhatStays(t *testing.T) {
	need.Root(t)
	dir := folder(t)
	at := filepath.Join(dir, "registry")
	if err := errors.Join(os.MkdirAll(at, 0o755), unix.Mount("disk", at, "tmpfs", 0, "mode=755"), os.WriteFile(filepath.Join(at, "x"), nil, 0o644),
		unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	_, stderr, code := cupeld(t, ":", "cleanup", "--yes", "--state", dir)
	if code != 7 || !strings.Contains(stderr, "registry/x is left of") || !strings.Contains(stderr, "mount -o remount,rw") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	t.Log(stderr)
}

package daemon

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/testing/need"
)

// fullStore is a store on a full disk, as long as any of these files takes up room.
type fullStore struct {
	manager.Store
	takers []string
}

func (s fullStore) Apply(context.Context, manager.Change) ([]manager.Event, error) {
	if slices.ContainsFunc(s.takers, isThere) {
		return nil, problem.New(problem.Unavailable, "disk_full", "full")
	}
	return nil, nil
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestReserveElsewhere: a reserve that is a link stays one, whether it is filled or given
// back, and nothing takes its place where the link leads nowhere.
func TestReserveElsewhere(t *testing.T) {
	link, target := filepath.Join(t.TempDir(), "reserve"), filepath.Join(t.TempDir(), "disk")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	r := &reserve{dir: link}
	for _, there := range []bool{false, true} {
		if there {
			if err := os.Mkdir(target, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.fill(); (err == nil) != there || r.release() != there {
			t.Errorf("there: %v; %v", there, err)
		}
		if to, err := os.Readlink(link); err != nil || to != target {
			t.Errorf("there: %v; the link is gone: %v", there, err)
		}
	}
}

func TestReserve(t *testing.T) {
	r := &reserve{dir: filepath.Join(t.TempDir(), "reserve")}
	if err := os.WriteFile(r.dir, nil, 0o600); err != nil { // as an earlier release made it
		t.Fatal(err)
	}
	for range 2 { // the second finds it there
		if err := r.fill(); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range r.halves() {
		if info, err := os.Stat(path); err != nil || info.Size() != reserveSize {
			t.Fatalf("the reserve: %v, %v", info, err)
		}
	}
	if files, err := os.ReadDir(r.files()); err != nil || len(files) != reserveFiles {
		t.Fatalf("%d files, %v; want %d", len(files), err, reserveFiles)
	}

	s := roomyStore{Store: fullStore{takers: r.halves()}, reserve: r}
	if _, err := s.Apply(t.Context(), manager.Change{Apps: []*manager.App{{}}}); err == nil {
		t.Error("an app was made on a full disk: that takes the reserve from removals")
	}
	if _, err := s.Apply(t.Context(), manager.Change{Apps: []*manager.App{{Removing: true}}}); err != nil {
		t.Errorf("remove on a full disk: %v", err)
	}
	if _, err := s.Apply(t.Context(), manager.Change{DeleteApps: []string{"app"}}); err != nil {
		t.Errorf("forget the app: %v", err)
	}
	if !slices.ContainsFunc(r.halves(), isThere) {
		t.Error("the reserve was not filled again")
	}
}

// smallDisk mounts a file system of its own.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	need.Root(t)
	dir := folder(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// TestReserveLeavesRoom: what was given back is not taken again while as much isn't
// free beside it.
func TestReserveLeavesRoom(t *testing.T) {
	dir := smallDisk(t, "size=40m,mode=755")
	r := &reserve{dir: filepath.Join(dir, "reserve")}
	if err := r.fill(); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < reserveSize {
		t.Errorf("the reserve leaves %d bytes", free)
	}
	if isThere(r.halves()[0]) || !isThere(r.halves()[1]) {
		t.Error("the half for removals is the first to be filled")
	}
}

// TestRoom: bytes and inodes count; the first start needs more than what runs; an
// installation that served before comes up on a full disk, by the reserve.
func TestRoom(t *testing.T) {
	for _, c := range []struct {
		name, options string
		first, later  string // what the refusal says; empty: none
	}{
		{"room", "size=1g,nr_inodes=100000,mode=755", "", ""},
		{"some bytes", "size=256m,nr_inodes=100000,mode=755", "256 MB are free", ""},
		{"few bytes", "size=63m,nr_inodes=100000,mode=755", "63 MB are free", "63 MB are free"},
		{"some inodes", "size=1g,nr_inodes=10000,mode=755", "more files", ""},
		{"few inodes", "size=1g,nr_inodes=300,mode=755", "more files", "more files"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := smallDisk(t, c.options)
			l, err := newLayout(dir)
			if err != nil {
				t.Fatal(err)
			}
			least, err := l.roomOf("")
			if err != nil {
				t.Fatal(err)
			}
			refused(t, "at first", least.first().check(), c.first)
			refused(t, "later", least.check(), c.later)

			p := &parts{layout: l, log: slog.New(slog.DiscardHandler), room: least, reserve: &reserve{dir: l.path("reserve")}}
			refused(t, "first start", p.checkRoom(t.Context()), c.first)
			if err := os.MkdirAll(p.reserve.files(), 0o700); err != nil {
				t.Fatal(err)
			}
			for _, path := range append(p.reserve.halves(), l.path("manager.db")) {
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.checkRoom(t.Context()); err != nil {
				t.Errorf("where it served before: %v", err)
			}
			if low := p.low != nil; low != (c.later != "") || isThere(p.reserve.halves()[0]) == low || !isThere(p.reserve.halves()[1]) {
				t.Errorf("low %v; of the reserve the first half is there: %t, the second: %t", p.low, isThere(p.reserve.halves()[0]), isThere(p.reserve.halves()[1]))
			}
		})
	}
}

func refused(t *testing.T, when string, err error, says string) {
	t.Helper()
	if says == "" {
		if err != nil {
			t.Errorf("%s: %v", when, err)
		}
		return
	}
	p := problem.From(err)
	if p == nil || p.Rule != "disk_full" || !strings.Contains(p.Actual, says) || p.Expected == "" || p.Mend == "" {
		t.Errorf("%s: %v; want disk_full that says %q and a mend", when, err, says)
		return
	}
	t.Log(p)
}

func TestMinFree(t *testing.T) {
	l, _ := newLayout("/var/lib/cupel")
	for _, s := range []string{"lots", "1M", "-1"} {
		if _, err := l.roomOf(s); err == nil || problem.From(err).Rule != "min_free" || problem.From(err).Mend == "" {
			t.Errorf("%s: %v", s, err)
		}
	}
	if r, err := l.roomOf("2G"); err != nil || r.bytes != 2<<30 {
		t.Errorf("%+v, %v", r, err)
	}
}

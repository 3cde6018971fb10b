package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/diskerror"
	"cupel.dev/cupel/internal/wording"
)

// Cleanup is Down, and then removes the folder with everything in it. What others
// mounted there is emptied and stays mounted; these mount points are returned.
func Cleanup(ctx context.Context, o Options, log *slog.Logger) (mounted []string, err error) {
	if os.Geteuid() == 0 {
		l, err := newLayout(o.State)
		if err != nil {
			return nil, err
		}
		if away, ok := errors.AsType[*awayError](l.unseen()); ok { // before anything is touched
			return nil, away.problem()
		}
		if _, err := l.uninstallService(ctx); err != nil { // before it starts again what is stopped here
			return nil, err
		}
	}

	l, lock, err := takeOver(ctx, o, workCleanup, log)
	if err != nil {
		return nil, err
	}

	if lock == nil { // no folder, but perhaps something of it elsewhere
		_, err := l.endGone(ctx, o.Force)
		return nil, err
	}
	defer lock.release()

	if err := l.sweep(ctx); err != nil {
		return nil, err
	}

	ended := l.tellRoom(o.tell)
	defer ended()
	return l.removeAll(log)
}

// removeAll removes the folder. The file systems of others in it can't go, nor the
// folders in which they are.
func (l layout) removeAll(log *slog.Logger) ([]string, error) {
	_, others, err := l.mounts()
	if err != nil {
		return nil, err
	}

	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return nil, fmt.Errorf("remove the state folder: %w", err)
	}

	var errs []error
	for _, e := range entries {
		if e.Name() != filepath.Base(l.lockFile()) {
			errs = append(errs, os.RemoveAll(l.path(e.Name())))
		}
	}

	// The lock last: whoever comes in between makes a folder of their own.
	if err := errors.Join(errs...); err == nil {
		err = errors.Join(ignoreMissing(os.Remove(l.lockFile())), ignoreMissing(os.Remove(l.dir)))
		again := exists(l.lockFile()) || exists(l.turnFile())
		if err == nil || errors.Is(err, syscall.ENOTEMPTY) && again {
			return nil, nil
		}
		errs = append(errs, err)
	} else {
		errs = append(errs, ignoreMissing(os.Remove(l.lockFile())))
	}

	err = errors.Join(errs...)
	left := l.left(others)
	if len(left) == 0 && len(others) > 0 {
		return others, nil
	}

	log.Error("state folder not removed", "error", err)
	p := problem.New(problem.Unavailable, problem.RuleCleanup, "%s is left of %s: %w", short(left), l.dir, err)
	switch {
	case diskerror.ReadOnly(err), diskerror.Fails(err):
		return nil, diskerror.Explain(p, l.dir, "the state folder")
	case errors.Is(err, syscall.EPERM):
		return nil, p.Fix("make it removable (chattr -R -i -a %s), then run this again", wording.ShellWord(l.dir))
	}
	return nil, p.Fix("end what uses it ('fuser -vm %s' shows it), then run this again", wording.ShellWord(l.dir))
}

// left is what there is still in the folder, but for mount points and the folders
// that lead to them.
func (l layout) left(mounted []string) []string {
	var out []string
	_ = filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		leads := slices.ContainsFunc(mounted, func(m string) bool { return m == path || strings.HasPrefix(m, path+"/") })
		if !leads && !errors.Is(err, fs.ErrNotExist) {
			out = append(out, path)
		}
		if d != nil && d.IsDir() && !leads {
			return filepath.SkipDir
		}
		return nil
	})
	return out
}

// short is a list for a sentence: its first three, and how many more there are.
func short(paths []string) string {
	if len(paths) <= 3 {
		return strings.Join(paths, ", ")
	}
	return strings.Join(paths[:3], ", ") + " and " + problem.Count(len(paths)-3, "other")
}

// tellEvery is how often long work says that it goes on.
const tellEvery = 2 * time.Second

// tellRoom says every now and then how much of the disk is free again, until it is
// told that the work has ended.
func (l layout) tellRoom(tell func(string)) (ended func()) {
	var before unix.Statfs_t
	if tell == nil || unix.Statfs(l.dir, &before) != nil {
		return func() {}
	}

	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(tellEvery):
			}

			var now unix.Statfs_t
			if unix.Statfs(l.dir, &now) == nil && now.Bavail > before.Bavail {
				tell(fmt.Sprintf("removing %s: %d MB are free again", l.dir, (now.Bavail-before.Bavail)*uint64(now.Bsize)>>20))
			} else {
				tell("removing " + l.dir)
			}
		}
	}()

	return func() { close(done) }
}

// marks are what a folder holds that a cupeld has used.
var marks = []string{"cas.uid", "simtee", "containerd", portsFile, "registry", "runtimes"}

// begun is what may be in a folder in which a start was refused. None of it tells that
// anything ever ran there.
var begun = []string{"cupeld.lock", "turn.lock", "log", "reserve", "node", "cas", "cni", "runc", "manager.json", "simulation-root.pem", "grace", "path", "damaged"}

// used says whether a cupeld has used the folder.
func (l layout) used() bool {
	return slices.ContainsFunc(marks, func(name string) bool {
		_, err := os.Stat(l.path(name))
		return err == nil
	})
}

// ours refuses to delete a folder that no cupeld used and that holds something else than a
// refused start leaves.
func (l layout) ours() error {
	if l.used() {
		return nil
	}
	entries, err := os.ReadDir(l.dir)
	if err != nil {
		return fmt.Errorf("state folder: %w", err)
	}

	for _, e := range entries {
		if !slices.Contains(begun, e.Name()) || e.Name() == "log" && !l.ourLogs() {
			return problem.New(problem.Denied, problem.RuleStateFolder, "%s is no state folder of Cupel: no cupeld made %s", l.dir, e.Name()).
				Fix("name the right one with --state")
		}
	}
	return nil
}

// ourLogs says whether the folder's logs are those of our daemons.
func (l layout) ourLogs() bool {
	logs, err := os.ReadDir(l.path("log"))
	return err == nil && !slices.ContainsFunc(logs, func(e fs.DirEntry) bool {
		return !strings.HasPrefix(e.Name(), "cupeld.") && !strings.HasPrefix(e.Name(), "cas.")
	})
}

// madeHere are the kinds of file system that we and our runtime mount. Disks and
// binds of folders are others', who want to find them where they were.
var madeHere = []string{"overlay", "tmpfs", "nsfs", "proc", "sysfs", "mqueue", "devpts", "cgroup", "cgroup2"}

// mounts are what is mounted below the folder (proc_pid_mountinfo(5)), by us and by others.
// A mount point right in it is never ours.
func (l layout) mounts() (ours, others []string, err error) {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(l.dir))
	if err != nil {
		return nil, nil, fmt.Errorf("find mounts: %w", err)
	}

	for _, m := range mounts {
		below, inside := strings.CutPrefix(m.Mountpoint, l.dir+"/")
		switch {
		case !inside, !strings.Contains(below, "/"), !slices.Contains(madeHere, m.FSType):
			others = append(others, m.Mountpoint)
		default:
			ours = append(ours, m.Mountpoint)
		}
	}
	return ours, others, nil
}

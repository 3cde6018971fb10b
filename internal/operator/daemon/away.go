package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/wording"
)

// A folder may be taken from its name while things of it run: it was unmounted, moved,
// removed, or something was mounted over it. With its cupeld, whoever came would start
// everything a second time there, or end apps that this cupeld starts again. Without one, a
// start on what is there now would end the apps, of which it knows nothing, and a down would
// have them store nothing.

// awayError says that the folder is gone of which something runs.
type awayError struct {
	dir     string   // where it was
	now     string   // where it is, if that is known
	cupeld  int      // its process; 0: it has ended
	apps    []string // the instances that run, as far as that was looked at
	daemons []process
}

func (e *awayError) Error() string {
	runs := fmt.Sprintf("the cupeld that was started there (process %d) still runs", e.cupeld)
	if e.cupeld == 0 {
		runs = "what was started there still runs: " + short(e.left())
	}

	what := fmt.Sprintf("%s is gone, and %s", e.dir, runs)
	if !layoutAt(e.dir).gone() {
		what += "; what is there now is another folder"
	}
	return what
}

// left is what runs beside a cupeld, in words.
func (e *awayError) left() []string {
	var words []string
	for _, id := range e.apps {
		words = append(words, "instance "+id)
	}
	return append(words, inWords(e.daemons)...)
}

// problem refuses to do anything to what runs of the folder: apps would store their volumes
// into another one.
func (e *awayError) problem() *problem.Error {
	p := problem.New(problem.Conflict, ruleElsewhere, "%w", e).Want("the folder where it was, or nothing that runs")
	force := "cupel down --state " + wording.ShellWord(e.dir) + " --force ends what runs as it is: what apps wrote into volumes since they stored them last is lost"
	if e.now != "" {
		return p.Fix("its folder is %s now: have it there again (a mount, a link, a move), then run this again; or %s", e.now, force)
	}
	return p.Fix("have it there again, if there still is one (a mount, a link, a move, an umount of what hides it), then run this again; or %s", force)
}

// displaced finds what runs by the folder's name and isn't of the folder that is there; nil:
// nothing does. Where containerd's database doesn't tell whose it is, what is in the folder
// does: instances run only where an installation served, daemons only where a start has begun.
func (l layout) displaced() *awayError {
	e := &awayError{dir: l.dir, apps: l.instances(), daemons: l.lasting()}
	if len(e.apps) == 0 && len(e.daemons) == 0 {
		return nil
	}
	if _, err := os.ReadDir(l.dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil // it isn't known what is there
	}

	var database os.FileInfo
	database, e.now = containerdDatabase(e.daemons)
	ours, known := l.hasDatabase(database)
	if !known {
		ours = l.served() || exists(l.path("manager.db")) || len(e.apps) == 0 && l.used()
	}

	if ours {
		return nil
	}

	if with, ok := errors.AsType[*awayError](l.unseen()); ok {
		e.cupeld, e.now = with.cupeld, with.now
	}
	return e
}

// instances are those that run by the folder's name.
func (l layout) instances() []string {
	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err != nil {
		return nil
	}
	running, _ := groups.BusyBelow(l.cgroup()) // what can't be read is nobody's
	return running
}

// databaseBelow is where a containerd has its database, which is open as long as it runs.
const databaseBelow = "/root/io.containerd.metadata.v1.bolt/meta.db"

// containerdDatabase is the database that the containerd of these processes has open; nil:
// none. With it comes the state folder in which that is, if it is known.
func containerdDatabase(list []process) (database os.FileInfo, dir string) {
	i := slices.IndexFunc(list, func(p process) bool { return p.name == "containerd" })
	if i < 0 {
		return nil, ""
	}

	for file, info := range openFiles(list[i].pid) {
		path, err := os.Readlink(file)
		if err != nil || !strings.HasSuffix(strings.TrimSuffix(path, " (deleted)"), databaseBelow) {
			continue
		}

		if there, err := os.Stat(path); err == nil && os.SameFile(there, info) {
			dir, _ = strings.CutSuffix(path, "/containerd"+databaseBelow)
		}
		return info, dir
	}
	return nil, ""
}

// hasDatabase reports whether that is the database of the containerd in this folder, as far
// as it is known.
func (l layout) hasDatabase(database os.FileInfo) (has, known bool) {
	ours, err := os.Stat(l.path("containerd", databaseBelow))
	if database == nil || err != nil {
		return false, false
	}
	return os.SameFile(ours, database), true
}

// endAway ends by force a cupeld whose folder isn't at its name, and its daemons; nothing
// is stored, as that would be into another folder. What is left of its apps, a sweep ends.
func (l layout) endAway(ctx context.Context, cupeld int) error {
	gone := watchEnd(cupeld)
	defer gone.forget()

	if err := l.killDaemons(cupeld); err != nil {
		return err
	}
	gone.wait(ctx)
	return nil
}

// killDaemons ends our helpers and that process by SIGKILL.
func (l layout) killDaemons(cupeld ...int) error {
	for _, p := range l.processes() {
		cupeld = append(cupeld, p.pid)
	}

	for _, pid := range cupeld {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
	}

	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err != nil {
		return err
	}
	return groups.Kill(l.daemonGroup()) // the CAS too, whose user only its folder tells
}

package daemon

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/node/cgroup"
	"cupel.dev/cupel/internal/trusted/atomicfile"
	"cupel.dev/cupel/internal/wording"
)

// One folder may have several names: a bind mount, a disk that is mounted elsewhere now, a
// folder that was moved. What runs carries names that are made of the one that it was
// started by, so whoever comes by another name would find nothing of it, and start the
// same things beside it. So the folder knows by which name it ran last.

// pathFile holds that name; an earlier release wrote none.
const pathFile = "path"

// keepPath writes down the folder's name, for who comes by another one.
func (l layout) keepPath() error { return writeOnce(l.path(pathFile), []byte(l.dir+"\n"), 0o644) }

// parsePath reads what keepPath wrote.
func parsePath(b []byte) (dir string, ok bool) {
	dir, ok = strings.CutSuffix(string(b), "\n")
	return dir, ok && filepath.IsAbs(dir) && filepath.Clean(dir) == dir && !strings.ContainsAny(dir, "\x00\n")
}

// before is the folder by the name of its last start, if that was another one. A copy of a
// folder that is still there is none of these: it is a folder of its own, unless what runs
// by that name has files of this one open.
func (l layout) before() (layout, bool) {
	b, err := atomicfile.Read(l.path(pathFile))
	if err != nil {
		return layout{}, false
	}

	dir, ok := parsePath(b)
	if !ok || dir == l.dir {
		return layout{}, false
	}

	other := layoutAt(dir)
	if other.leadsTo(l) || !other.used() {
		return other, true
	}

	database, _ := containerdDatabase(other.lasting())
	runsHere, _ := l.hasDatabase(database)
	return other, runsHere
}

// leadsTo reports whether this name is one of that folder, too.
func (l layout) leadsTo(folder layout) bool {
	by, err := os.Stat(l.dir)
	there, err2 := os.Stat(folder.dir)
	return err == nil && err2 == nil && os.SameFile(by, there)
}

// elsewhere refuses a folder of which things run by another name. What a name that nothing
// runs by any more left on the machine, as a bridge, is removed. Who calls it holds the lock.
func (l layout) elsewhere(ctx context.Context) error {
	other, ok := l.before()
	if !ok {
		return nil
	}

	if !other.busy() {
		return other.sweep(ctx)
	}

	p := problem.New(problem.Conflict, ruleElsewhere, "%s is the folder that was started as %s, and what was started there still runs", l.dir, other.dir).
		Want("the name by which it runs")
	state := wording.ShellWord(other.dir)
	if !other.leadsTo(l) {
		return p.Fix("have it there again (a mount, a link, a move), then run this with --state %s; "+
			"or end what runs as it is, by 'cupel down --state %s --force', and run this again: what apps wrote into volumes since they stored them last is lost", state, state)
	}

	return p.Fix("run it with --state %s; or run 'cupel down --state %s' first, then this again", state, state)
}

// busy reports whether something runs that carries this name.
func (l layout) busy() bool {
	if len(l.lasting()) > 0 {
		return true
	}

	groups, err := cgroup.Detect("/sys/fs/cgroup")
	if err != nil {
		return false
	}

	busy, err := groups.Busy(l.cgroup())
	return busy && err == nil
}

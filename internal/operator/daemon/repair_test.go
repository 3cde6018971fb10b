package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
)

// damages are what a power cut, a failing disk or a slip of the hand makes of a file.
var damages = map[string]func(path string) error{
	"empty":   func(path string) error { return os.WriteFile(path, nil, 0o600) },
	"half":    func(path string) error { return os.WriteFile(path, []byte(`{"half": `), 0o600) },
	"zeroes":  func(path string) error { return os.WriteFile(path, make([]byte, 4096), 0o600) },
	"null":    func(path string) error { return os.WriteFile(path, []byte("null"), 0o600) },
	"a word":  func(path string) error { return os.WriteFile(path, []byte(`"x"`), 0o600) },
	"garbage": func(path string) error { return os.WriteFile(path, bytes.Repeat([]byte("\xff no "), 999), 0o600) },
	"a folder": func(path string) error {
		return errors.Join(os.MkdirAll(path, 0o700), os.WriteFile(filepath.Join(path, "x"), nil, 0o600))
	},
	"a pipe":             func(path string) error { return unix.Mkfifo(path, 0o600) },
	"a link in a circle": func(path string) error { return os.Symlink(path, path) },
}

// TestRepair: what can be made again is put aside, whatever became of it, and told once.
func TestRepair(t *testing.T) {
	l := layout{id: "0badcafe"}
	for _, d := range l.derived() {
		for name, damage := range damages {
			isIrregular := name == "a folder" || name == "a pipe" || name == "a link in a circle"
			if (d.kind == isFile || d.kind == isLog) && !isIrregular && d.valid == nil || string(d.kind) == name {
				continue // who reads it judges it
			}
			l.dir = t.TempDir()
			var said bytes.Buffer
			p := &parts{layout: l, log: slog.New(slog.NewTextHandler(&said, nil)), incidents: &manager.Incidents{}}
			if err := errors.Join(os.MkdirAll(filepath.Dir(l.path(d.name)), 0o700), damage(l.path(d.name))); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := p.repair(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if told := said.String(); strings.Count(told, d.name+" in the state folder was damaged (") != 1 || !strings.Contains(told, "put aside as damaged/") {
				t.Errorf("%s, %s: told %s", d.name, name, told)
			}
			stays := exists(l.path(d.name))
			if d.name == portsFile { // anew, since it says that this installation served
				last := loadPorts(l.path(portsFile))
				stays = !stays || !last.flagsKept() || len(last.last) > 1 || d.damage(l.path(portsFile)) != nil
			}
			if stays || !exists(l.path("damaged", filepath.Base(d.name))) {
				t.Errorf("%s, %s: it was not put aside", d.name, name)
			}
		}
	}
}

// TestMendNamesThePath: a mend names things of the folder as a person types them into a
// shell, also where a name looks as a verb of a format, or as two words.
func TestMendNamesThePath(t *testing.T) {
	for name, word := range map[string]string{"100%state": "100%state", "x y": `x\ y`, "a$b": `a\$b`} {
		l := layout{dir: filepath.Join(t.TempDir(), name)}
		if err := errors.Join(os.Mkdir(l.dir, 0o755), os.WriteFile(l.path("simtee"), nil, 0o600), l.keepFlags(Options{Given: map[string]string{deployKeysFlag: l.path("keys")}})); err != nil {
			t.Fatal(err)
		}
		quoted := func(name string) string {
			return strings.Replace(l.path(name), "/"+filepath.Base(l.dir)+"/", "/"+word+"/", 1)
		}

		p := problem.From(l.wrongKind())
		want := fmt.Sprintf("cupel down --force, mv %s %s, remove %s too, cupel up", quoted("simtee"), quoted("simtee.damaged"), quoted("simulation-root.pem"))
		if !strings.Contains(p.Mend, want) {
			t.Errorf("%v, want %s", p, want)
		}
		t.Log(p)

		p = problem.From(l.keysMissing(Options{}))
		if want := "give --deploy-keys " + quoted("keys") + " again"; !strings.Contains(p.Mend, want) {
			t.Errorf("%v, want %s", p, want)
		}
		p = (&lockedError{dir: l.dir, what: workTurn}).problem()
		if want := "fuser -v " + quoted("turn.lock") + ")"; !strings.Contains(p.Mend, want) {
			t.Errorf("%v, want %s", p, want)
		}
	}
}

// TestWrongKinds puts something of the wrong kind in the place of each thing in a real
// state folder. Up comes up and says what it put aside, or refuses by a rule that names the
// very path, and comes up after the mends of these refusals.
func TestWrongKinds(t *testing.T) {
	o := upOptions(t)
	o.DeployKeys = everybody // what up.json said of it is lost
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	start := func() (s Serving, err error) {
		err = Up(t.Context(), o, slog.New(slog.DiscardHandler), func(now Serving) error {
			s = now
			return enough
		})
		if errors.Is(err, enough) {
			err = nil
		}
		return s, err
	}
	stop := func() {
		t.Helper()
		forced := o
		forced.Force = true
		if err := stopAll(t.Context(), forced, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := start(); err != nil {
		t.Fatal(err)
	}
	stop()

	// All of one round at once: first what is in folders, then the folders.
	rounds := [2][]derivation{}
	for _, d := range l.derived() {
		inner := slices.ContainsFunc(l.derived(), func(o derivation) bool { return strings.HasPrefix(d.name, o.name+"/") })
		if inner {
			rounds[0] = append(rounds[0], d)
		} else {
			rounds[1] = append(rounds[1], d)
		}
	}
	rounds[0] = slices.DeleteFunc(rounds[0], func(d derivation) bool { return strings.HasPrefix(d.name, "cni/leases/") })
	for _, list := range rounds {
		for i, d := range list {
			if d.kind.linked() && i%3 == 1 { // a link to nowhere is no damage of these: see TestLinks
				i++
			}
			wrong(t, l.path(d.name), d.kind, i)
		}
		for _, name := range []string{"reserve", damagedFolder} {
			wrong(t, l.path(name), isFolder, 2)
		}
		s, err := start()
		if err != nil {
			t.Fatal(problem.From(err))
		}
		told := strings.Join(s.Damaged, "\n")
		for _, d := range list {
			if !strings.Contains(told, d.name+" in the state folder was damaged (it is a") {
				t.Errorf("%s is not told:\n%s", d.name, told)
			}
		}
		t.Log(told)
		stop()
	}

	for i, k := range l.irreplaceable() {
		path := l.path(k.name)
		good := path + ".good"
		if err := os.Rename(path, good); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		wrong(t, path, k.kind, i)
		_, err := start()
		p := problem.From(err)
		t.Log(p)
		nowhere := path + ": it is a link to /nonexistent/folder/x, and nothing is there"
		if p.Rule != problem.RuleStateDamaged || !strings.Contains(p.Actual, path+" is damaged: it is a") && p.Actual != nowhere {
			t.Errorf("%s: up: %v", k.name, err)
		}
		if p.Actual == nowhere && k.kind.linked() && !strings.HasPrefix(p.Mend, "mount what it leads to (/nonexistent/folder/x), then run this again; if that is gone for good, put it back") {
			t.Errorf("%s: up: %v", k.name, err)
		}
		err = os.Rename(path, path+".damaged")
		if !strings.Contains(p.Mend, fmt.Sprintf("cupel down --force, mv %[1]s %[1]s.damaged", path)) {
			err = errors.Join(err, os.Rename(good, path)) // from the backup
		}
		if k.name == "simtee" {
			err = errors.Join(err, os.Remove(l.path("simulation-root.pem")))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := start(); err != nil {
		t.Errorf("up after the mends: %v", problem.From(err))
	}
	stop()
}

// wrong puts something of another kind at a path, whatever is there.
func wrong(t *testing.T, path string, right kind, turn int) {
	t.Helper()
	kinds := []string{"a pipe", "a link to nowhere", "empty"}
	if right == isFile || right == isLog {
		kinds[2] = "a folder"
	}
	damage := damages[kinds[turn%3]]
	if damage == nil {
		damage = func(path string) error { return os.Symlink("/nonexistent/folder/x", path) }
	}
	if err := errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Dir(path), 0o755), damage(path)); err != nil {
		t.Fatal(err)
	}
}

// TestLinks: a log may be a link to a file elsewhere, or to nothing that is kept, and a
// folder one to another disk. Where that isn't mounted, nothing is put aside or made anew:
// there are no logs, and any other folder is refused by the link's end.
func TestLinks(t *testing.T) {
	o := upOptions(t)
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "cas.log")
	if err := errors.Join(os.MkdirAll(l.path("log"), 0o755), os.WriteFile(elsewhere, nil, 0o600),
		os.Symlink(elsewhere, l.path("log", "cas.log")), os.Symlink("/dev/null", l.path("log", "cupeld.log")),
		os.Symlink(elsewhere+".2", l.path("log", "cas.log.1"))); err != nil {
		t.Fatal(err)
	}
	if said := l.mend(l.logs()); said != nil {
		t.Errorf("logs elsewhere are put aside: %q", said)
	}
	if err := errors.Join(os.Remove(l.path("log", "cupeld.log")), os.Symlink("/dev/zero", l.path("log", "cupeld.log"))); err != nil {
		t.Fatal(err)
	}
	if said := l.mend(l.logs()); len(said) != 1 || !strings.Contains(said[0], "(it is a device, not a file to write to)") {
		t.Errorf("a log that is a device: %q", said)
	}

	const away = "/nonexistent/disk"
	for name, link := range map[string]string{"runtimes": away, "registry": away, "reserve": "../gone/disk"} {
		away := link
		if !filepath.IsAbs(link) {
			away = filepath.Join(l.dir, link)
		}
		if err := os.Symlink(link, l.path(name)); err != nil {
			t.Fatal(err)
		}
		_, stderr, code := cupeld(t, ":", upFlags(o)...)
		t.Log(stderr)
		if code != problem.Invalid.ExitCode() || !strings.Contains(stderr, "state_damaged: "+l.path(name)+": it is a link to "+away+", and nothing is there") ||
			!strings.Contains(stderr, "mount what it leads to ("+away+"), then run this again; if that is gone for good, ") {
			t.Errorf("%s: exit %d: %s", name, code, stderr)
		}
		if to, err := os.Readlink(l.path(name)); err != nil || to != link {
			t.Errorf("%s: the link is gone: %v", name, err)
		}
		if err := os.Remove(l.path(name)); err != nil {
			t.Fatal(err)
		}
	}

	if err := errors.Join(os.RemoveAll(l.path("log")), os.Symlink(away, l.path("log"))); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := cupeld(t, ":", upFlags(o)...)
	t.Log(stdout)
	if want := "cupeld's log can't be written, and all goes on without it: " + l.path("log") + ": it is a link to " + away + ", and nothing is there. mount what it leads to (" + away + "), or remove the link"; code != 0 || !strings.Contains(stdout, want) {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if to, err := os.Readlink(l.path("log")); err != nil || to != away {
		t.Errorf("log: the link is gone: %v", err)
	}
	if _, stderr, code := cupeld(t, ":", "down", "--state", o.State); code != 0 {
		t.Errorf("down: exit %d: %s", code, stderr)
	}
}

// TestLogsThatCannotBeWritten: a log is no reason not to serve, and that there is none
// is said.
func TestLogsThatCannotBeWritten(t *testing.T) {
	o := upOptions(t)
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(l.path("log"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cupeld.log", "cupeld.stderr", "cas.log"} {
		if err := os.WriteFile(l.path("log", name), []byte("before\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		immutable(t, l.path("log", name))
	}
	stdout, stderr, code := cupeld(t, ":", upFlags(o)...)
	t.Log(stdout)
	if code != 0 {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	for _, log := range []string{"cupeld's log", "the CAS's log"} {
		if !strings.Contains(stdout, log+" can't be written, and all goes on without it: ") {
			t.Errorf("up doesn't say that %s is not written", log)
		}
	}
	if _, stderr, code := cupeld(t, ":", "down", "--state", o.State); code != 0 {
		t.Fatalf("down: exit %d: %s", code, stderr)
	}
}

// immutable lets nobody write to a file, root included, until the test ends.
func immutable(t *testing.T, path string) {
	t.Helper()
	set := func(on bool) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		if err != nil {
			return err
		}
		const immutableFlag = 0x10 // FS_IMMUTABLE_FL of linux/fs.h
		flags &^= immutableFlag
		if on {
			flags |= immutableFlag
		}
		return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags))
	}
	if err := set(true); err != nil {
		t.Skipf("this file system has no immutable files: %v", err)
	}
	t.Cleanup(func() {
		if err := set(false); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
}

// TestDamagedStateFolder walks through a real one: what can be made again stops nobody,
// and everything else is refused by a rule, with the path and what to do.
func TestDamagedStateFolder(t *testing.T) {
	o := upOptions(t)
	o.DeployKeys = everybody // what up.json said of it is lost
	l := served(t, o)

	again := []string{"ports.json", "up.json", "cas.uid", "grace", "manager.json", "simulation-root.pem", "cni/subnet", "manager.crt", "operator.crt"}
	for i, name := range again {
		kind := []string{"a folder", "a pipe"}[i%2]
		if name == "cni/subnet" {
			kind = "garbage" // which once chose another network in silence
		}
		if err := errors.Join(os.RemoveAll(l.path(name)), damages[kind](l.path(name))); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.ReadFile(l.path("operator.key"))
	if err != nil {
		t.Fatal(err)
	}
	_, end := begin(t, o)
	said := awaitEvents(t, l, len(again))
	if err := end(nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range again {
		if !strings.Contains(said, name+" in the state folder was damaged") {
			t.Errorf("%s is not told:\n%s", name, said)
		}
	}
	if after, err := os.ReadFile(l.path("operator.key")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the operator's key is another one, %v", err)
	}

	for name, kinds := range map[string][]string{
		"simtee/platform.json": {"gone", "empty", "null", "half", "garbage", "a folder", "a pipe", "a link in a circle"},
		"cas/cas.db":           {"gone", "empty", "a folder"}, // the rest is the CAS's to say
		"operator.key":         {"gone", "empty", "garbage", "a folder"},
		"manager.key":          {"gone", "half", "a pipe"},
		"manager.db":           {"gone", "empty", "garbage", "a folder", "a pipe"},
		"registry":             {"empty"},
		"node":                 {"empty"},
		"containerd":           {"empty"},
		"cupeld.lock":          {"a folder", "a pipe", "a link in a circle"},
		"cas":                  {"empty"},
	} {
		for _, kind := range kinds {
			t.Run(name+" is "+kind, func(t *testing.T) { upRefuses(t, o, l, name, kind) })
		}
	}
	_, end = begin(t, o)
	if err := end(errStop); err != nil { // containerd too, which reads its own at its start
		t.Fatal(err)
	}
	const meta = "containerd/root/io.containerd.metadata.v1.bolt/meta.db"
	for _, kind := range []string{"empty", "garbage", "zeroes", "a folder"} {
		t.Run(meta+" is "+kind, func(t *testing.T) { upRefuses(t, o, l, meta, kind) })
	}
}

// upRefuses damages something, with an instance's record beside it, and mends it again.
func upRefuses(t *testing.T, o Options, l layout, name, kind string) {
	t.Helper()
	path, record := l.path(filepath.FromSlash(name)), l.path("node", "instances", "i-1-1.json")
	if name == "manager.db" {
		if err := os.WriteFile(record, []byte(`{"version":1,"spec":{"ID":"i-1-1"},"made":true,"exit":{"code":1}}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(path, path+".good"); err != nil {
		t.Fatal(err)
	}
	if kind != "gone" {
		if err := damages[kind](path); err != nil {
			t.Fatal(err)
		}
	}

	err := Up(t.Context(), o, slog.New(slog.DiscardHandler), func(Serving) error { return errors.New("it serves") })
	p := problem.From(err)
	if err == nil || p.Rule == "internal" || p.Mend == "" || !strings.Contains(p.Error(), filepath.Base(name)) {
		t.Errorf("up: %v", err)
	}
	t.Log(p)
	if err := errors.Join(os.RemoveAll(path), os.Rename(path+".good", path), os.RemoveAll(record)); err != nil {
		t.Fatal(err)
	}
}

// awaitEvents returns what the manager's events say once as many repairs are told.
func awaitEvents(t *testing.T, l layout, n int) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		db, err := managerdb.Open(t.Context(), l.path("manager.db"))
		if err != nil {
			t.Fatal(err)
		}
		events, err := db.Events(t.Context(), 0, manager.EventFilter{}, 1000)
		if err := errors.Join(err, db.Close()); err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		told := 0
		for _, e := range events {
			if e.Reason == reasonRepaired {
				told++
				said.WriteString(e.Message + "\n")
			}
		}
		if told >= n || time.Now().After(deadline) {
			return said.String()
		}
	}
}

// TestServedBefore: what an installation that served has lost is made anew only by who
// follows what the refusal says, word by word.
func TestServedBefore(t *testing.T) {
	o := upOptions(t)
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	for _, lost := range [][]string{{"operator.key", "operator.crt"}, {"manager.key", "manager.crt"}, {"manager.db"}} {
		_, end := begin(t, o)
		if err := end(errStop); err != nil {
			t.Fatal(err)
		}
		for _, name := range lost {
			if err := os.Remove(l.path(name)); err != nil {
				t.Fatal(err)
			}
		}
		p := problem.From(Up(t.Context(), o, slog.New(slog.DiscardHandler), func(Serving) error { return errors.New("it serves") }))
		if p.Rule != problem.RuleStateDamaged || exists(l.path(lost[0])) {
			t.Fatalf("without %v: %v", lost, p)
		}
		forced := o
		forced.Force = strings.Contains(p.Mend, "cupel down --force")
		if err := stopAll(t.Context(), forced, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		if !forced.Force {
			if !strings.Contains(p.Mend, "cupel down, remove ") || !strings.Contains(p.Mend, l.path(portsFile)+", cupel up") {
				t.Fatalf("without %v: %s", lost, p.Mend)
			}
			if err := os.Remove(l.path(portsFile)); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, end := begin(t, o)
	if err := end(errStop); err != nil {
		t.Fatal(err)
	}
}

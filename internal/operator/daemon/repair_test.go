package daemon

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cupel.dev/cupel/internal/operator/manager"
	"cupel.dev/cupel/internal/operator/manager/managerdb"
	"cupel.dev/cupel/internal/trusted/problem"
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
	for _, d := range derived {
		for name, damage := range damages {
			isFile := name != "a folder" && name != "a pipe" && name != "a link in a circle"
			if isFile && d.valid == nil {
				continue // who reads it judges it
			}
			l := layout{dir: t.TempDir()}
			var said bytes.Buffer
			p := &parts{layout: l, log: slog.New(slog.NewTextHandler(&said, nil)), incidents: &manager.Incidents{}}
			if err := errors.Join(os.MkdirAll(filepath.Dir(l.path(d.name)), 0o700), damage(l.path(d.name))); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				p.repair(t.Context())
			}
			if told := said.String(); strings.Count(told, d.name+" in the state folder was damaged (") != 1 || !strings.Contains(told, "put aside as damaged/") {
				t.Errorf("%s, %s: told %s", d.name, name, told)
			}
			if exists(l.path(d.name)) || !exists(l.path("damaged", filepath.Base(d.name))) {
				t.Errorf("%s, %s: it was not put aside", d.name, name)
			}
		}
	}
}

// TestDamagedStateFolder walks through a real one: what can be made again stops nobody,
// and everything else is refused by a rule, with the path and what to do.
func TestDamagedStateFolder(t *testing.T) {
	o := upOptions(t)
	_, end := begin(t, o)
	if err := end(nil); err != nil {
		t.Fatal(err)
	}
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}

	again := []string{"ports.json", "cas.uid", "grace", "manager.json", "simulation-root.pem", "cni/subnet", "manager.crt", "operator.crt"}
	for i, name := range again {
		kind := []string{"a folder", "a pipe"}[i%2]
		if err := errors.Join(os.RemoveAll(l.path(name)), damages[kind](l.path(name))); err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.ReadFile(l.path("operator.key"))
	if err != nil {
		t.Fatal(err)
	}
	_, end = begin(t, o)
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
		"cas/cas.db":           {"gone", "empty"}, // the rest is the CAS's to say
		"operator.key":         {"gone", "empty", "garbage", "a folder"},
		"manager.key":          {"gone", "half", "a pipe"},
		"manager.db":           {"gone", "empty", "garbage", "a folder", "a pipe"},
		"registry":             {"empty"},
		"node":                 {"empty"},
		"log":                  {"empty"},
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
		if p.Rule != ruleDamaged || exists(l.path(lost[0])) {
			t.Fatalf("without %v: %v", lost, p)
		}
		forced := o
		forced.Force = strings.Contains(p.Mend, "cupel down --force")
		if err := Down(t.Context(), forced, slog.New(slog.DiscardHandler)); err != nil {
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

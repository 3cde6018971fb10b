package daemon

import (
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/upflags"
)

// TestForgottenFlags: an installation that is started without the flags of before lets in
// nobody else, stays where owners know it, and says what is another way than it was.
func TestForgottenFlags(t *testing.T) {
	o := upOptions(t)
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, said, code := cupeld(t, ":", append(upFlags(o), "--deploy-keys", keys, "--app-quota", "apps=5", "--first-port", "9000")...); code != 0 {
		t.Fatalf("exit %d: %s", code, said)
	}
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	before := loadPorts(l.path(portsFile)).last
	if info, err := os.Stat(l.path(keptFile)); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	stop := func() {
		if _, said, code := cupeld(t, ":", "down", "--state", o.State); code != 0 {
			t.Fatalf("down: exit %d: %s", code, said)
		}
	}
	stop()

	bare := []string{"up", "--detach", "--state", o.State, "--cas", o.CAS, "--launcher", o.Launcher}
	_, said, code := cupeld(t, ":", bare...)
	if code != codeKeys || !strings.Contains(said, "deploy_keys_missing: the last start had --deploy-keys "+keys) ||
		!strings.Contains(said, "give --deploy-keys "+keys+" again; to let everybody deploy: --deploy-keys all") {
		t.Errorf("without the list: exit %d: %s", code, said)
	}
	t.Log(said)
	if _, said, code := cupeld(t, ":", "install-service", "--print", "--state", o.State); code != codeKeys || !strings.Contains(said, "deploy_keys_missing: ") {
		t.Errorf("a unit without the list: exit %d: %s", code, said)
	}

	out, said, code := cupeld(t, ":", append(bare, "--deploy-keys", everybody)...)
	if code != 0 || !strings.Contains(out, "  --app-quota apps=5 of the last start isn't given: the default holds again\n") {
		t.Fatalf("for everybody: exit %d: %s%s", code, out, said)
	}
	t.Log(out)
	after := loadPorts(l.path(portsFile)).last
	for name, port := range before {
		if after[name] != port {
			t.Errorf("%s was at %s, and is at %s", name, port, after[name])
		}
	}
	for _, li := range listeners {
		if at := l.flagsKept()[li.flagName()]; at != "127.0.0.1:0" {
			t.Errorf("%s is at %s", li.name, at)
		}
	}
	stop()

	out, said, code = cupeld(t, ":", bare...)
	if code != 0 || strings.Contains(out, "isn't given") {
		t.Errorf("as the time before: exit %d: %s%s", code, out, said)
	}
}

// TestKeysInDoubt: where it isn't sure who may deploy, nobody is let in: by a file of flags
// that is damaged, or was put aside, by a list that is called as the word for everybody, or
// where it can't be written down that not everybody may.
func TestKeysInDoubt(t *testing.T) {
	o := upOptions(t)
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	keys, all := filepath.Join(dir, "keys"), filepath.Join(dir, everybody)
	if err := errors.Join(os.Mkdir(l.dir, 0o755), os.WriteFile(keys, nil, 0o600), os.WriteFile(all, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	refused := func(words string, args []string, code int, want ...string) {
		t.Helper()
		out, said, got := cupeld(t, words, args...)
		for _, want := range want {
			if got != code || !strings.Contains(said, want) {
				t.Errorf("exit %d: %s%s\nwant %d, %s", got, out, said, code, want)
			}
		}
		t.Log(said)
	}

	in := "cd " + dir
	for _, args := range [][]string{upFlags(o), {"install-service", "--print", "--state", o.State}} {
		refused(in, append(args, "--deploy-keys", "all"), problem.Invalid.ExitCode(),
			"deploy_keys: --deploy-keys all lets everybody deploy, and there is a file of that name here", "if the list of keys is there, name it as ./all; to let everybody deploy, run this elsewhere")
	}
	if out, said, code := cupeld(t, in, "install-service", "--print", "--state", o.State, "--deploy-keys", "./all"); code != 0 || !strings.Contains(out, "--deploy-keys="+all) {
		t.Errorf("exit %d: %s%s", code, out, said)
	}

	if err := errors.Join(os.Remove(all), os.Mkdir(all, 0o755)); err != nil {
		t.Fatal(err)
	}
	refused(in, append(upFlags(o), "--deploy-keys", "all"), problem.Invalid.ExitCode(), "and there is a folder of that name here")

	for name, damage := range damages {
		if err := damage(l.path(keptFile)); err != nil {
			t.Fatal(err)
		}
		if p := problem.From(l.keysMissing(Options{})); p == nil || p.Rule != ruleKeysUnknown || l.keysMissing(Options{Installation: upflags.Installation{DeployKeys: keys}}) != nil {
			t.Errorf("%s: %v", name, p)
		}
		if err := l.putAside(keptFile); err != nil {
			t.Fatal(err)
		}
	}
	const unknown = "deploy_keys_unknown: whether the last start had --deploy-keys isn't known: "
	refused(":", upFlags(o), codeKeys, unknown+l.path(keptFile)+" can't be read: it was damaged, and put aside as damaged/up.json",
		"give the file that the last start had, if it had one: --deploy-keys FILE; to let everybody deploy: --deploy-keys all")
	if err := os.WriteFile(l.path(keptFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(":", upFlags(o), codeKeys, unknown+l.path(keptFile)+" can't be read: it is empty")

	if err := os.WriteFile(l.path(keptFile), []byte(`{}`), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("can't be written", func(t *testing.T) {
		immutable(t, l.path(keptFile))
		refused(":", append(upFlags(o), "--deploy-keys", keys), problem.Unavailable.ExitCode(),
			"deploy_keys_not_kept: --deploy-keys can't be written down, so that a next start without it would let everybody deploy: ")
		out, said, code := cupeld(t, ":", upFlags(o)...)
		if code != 0 || !strings.Contains(out, "\n  the next start won't know this one's flags, but those of one before: ") {
			t.Errorf("exit %d: %s%s", code, out, said)
		}
		t.Log(out)
		if _, said, code := cupeld(t, ":", "down", "--state", o.State); code != 0 {
			t.Errorf("down: exit %d: %s", code, said)
		}
	})
}

// TestKeysGone: where ports.json says that up.json was there, or can't say it, a start without
// that says who may deploy. An installation of a release that wrote none comes up, and so
// does one that was killed before it had written both.
func TestKeysGone(t *testing.T) {
	o := upOptions(t)
	l, err := newLayout(o.State)
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(keys, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, said, code := cupeld(t, ":", append(upFlags(o), "--deploy-keys", keys)...); code != 0 {
		t.Fatalf("exit %d: %s", code, said)
	}
	if _, said, code := cupeld(t, ":", "down", "--state", o.State); code != 0 {
		t.Fatalf("down: exit %d: %s", code, said)
	}
	written, err := os.ReadFile(l.path(portsFile))
	if err := errors.Join(err, os.Remove(l.path(keptFile))); err != nil {
		t.Fatal(err)
	}

	const unknown = "deploy_keys_unknown: whether the last start had --deploy-keys isn't known: "
	refused := func(why string) {
		t.Helper()
		for _, args := range [][]string{upFlags(o), {"install-service", "--print", "--state", o.State}} {
			out, said, code := cupeld(t, ":", args...)
			if code != codeKeys || !strings.Contains(said, unknown+l.path(keptFile)+" can't be read: "+why) || !strings.Contains(said, "--deploy-keys all") {
				t.Errorf("exit %d: %s%s", code, out, said)
			}
			t.Log(said)
		}
	}
	refused("it is gone, though ports.json says that it was there")
	if l.keysMissing(Options{Installation: upflags.Installation{DeployKeys: keys}}) != nil || l.keysMissing(Options{Installation: upflags.Installation{DeployKeys: everybody}}) != nil {
		t.Error("who says who may deploy is refused")
	}

	// A start that is refused later puts it aside, and what was put aside is thrown away.
	p := newParts(l, slog.New(slog.DiscardHandler))
	if err := os.WriteFile(l.path(portsFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("it isn't there, and ports.json, which says whether it was, is damaged (it is empty)")
	if err := errors.Join(p.repair(t.Context()), os.RemoveAll(l.path(damagedFolder))); err != nil {
		t.Fatal(err)
	}
	refused("it is gone, though ports.json says that it was there")

	if err := os.WriteFile(l.path(portsFile), written, 0o644); err != nil {
		t.Fatal(err)
	}
	earlier := loadPorts(l.path(portsFile))
	delete(earlier.last, keptFile)
	if err := earlier.save(); err != nil {
		t.Fatal(err)
	}
	if err := l.keysMissing(Options{}); err != nil {
		t.Errorf("of a release that wrote none: %v", err)
	}
	if err := l.keepFlags(Options{}); err != nil {
		t.Fatal(err)
	}
	if err := l.keysMissing(Options{}); err != nil {
		t.Errorf("killed between the two: %v", err)
	}
}

// TestSettled: where a start listens whose flags don't say it.
func TestSettled(t *testing.T) {
	def := Options{Installation: upflags.Installation{ManagerListen: "0.0.0.0:5000", CASOwners: "0.0.0.0:8081", CASInstances: "0.0.0.0:18765", RegistryListen: "127.0.0.1:5050", FirstPort: 8082}}
	ports := map[string]string{"manager": "6800", "cas-owners": "9881", "cas-instances": "18775", "registry": "18966", firstPortKept: "38090"}
	for name, c := range map[string]struct {
		ports map[string]string
		kept  string
		given map[string]string
		want  [5]any
	}{
		"the first start":      {want: [5]any{"0.0.0.0:5000", "0.0.0.0:8081", "0.0.0.0:18765", "127.0.0.1:5050", uint16(8082)}},
		"an earlier release's": {ports: ports, want: [5]any{"0.0.0.0:6800", "0.0.0.0:9881", "0.0.0.0:18775", "127.0.0.1:18966", uint16(38090)}},
		"its hosts too": {
			ports: ports, kept: `{"manager-listen":"127.0.0.1:6800","cas-owners":"127.0.0.1:0"}`,
			want: [5]any{"127.0.0.1:6800", "127.0.0.1:0", "0.0.0.0:18775", "127.0.0.1:18966", uint16(38090)},
		},
		"what is given wins": {
			ports: ports, kept: `{"manager-listen":"127.0.0.1:6800"}`, given: map[string]string{"manager-listen": "0.0.0.0:5000", "cas-owners": "", "first-port": ""},
			want: [5]any{"0.0.0.0:5000", "0.0.0.0:8081", "0.0.0.0:18775", "127.0.0.1:18966", uint16(8082)},
		},
		"a damaged file": {ports: ports, kept: `{"manager-listen":`, want: [5]any{"0.0.0.0:6800", "0.0.0.0:9881", "0.0.0.0:18775", "127.0.0.1:18966", uint16(38090)}},
	} {
		l := layout{dir: t.TempDir()}
		if c.ports != nil {
			b, err := json.Marshal(c.ports)
			if err := errors.Join(err, os.WriteFile(l.path(portsFile), b, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if c.kept != "" {
			if err := os.WriteFile(l.path(keptFile), []byte(c.kept), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o := def
		o.Given = c.given
		l.settle(&o)
		if got := [5]any{o.ManagerListen, o.CASOwners, o.CASInstances, o.RegistryListen, o.FirstPort}; got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestDropped: where it listens and what its network is stays, and is no news.
func TestDropped(t *testing.T) {
	l := layout{dir: t.TempDir()}
	if got := l.flagsDropped(Options{}); got != nil {
		t.Errorf("the first start: %q", got)
	}
	last := Options{Given: map[string]string{"low-ports": "80,443", "overcommit": "refuse", "subnet": "10.88.7.0/24", "drain": "5s", deployKeysFlag: everybody, firstPortFlag: "9000"}}
	if err := l.keepFlags(last); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"--low-ports 80,443 of the last start isn't given: the default holds again",
		"--overcommit refuse of the last start isn't given: the default holds again",
	}
	if got := l.flagsDropped(Options{Given: map[string]string{"drain": "10s"}}); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

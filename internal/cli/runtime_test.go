package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/internal/trusted/owner/rebuild"
	"cupel.dev/cupel/runtimes"
)

func runCLI(t *testing.T, args ...string) (code int, out, errs string) {
	t.Helper()
	home := t.TempDir()
	var o, e bytes.Buffer
	env := map[string]string{"HOME": home, "CUPEL_STATE": filepath.Join(home, "state")}
	code = Main(t.Context(), args, Process{strings.NewReader(""), &o, &e, func(k string) string { return env[k] }})
	return code, o.String(), e.String()
}

// TestRuntimeBuildRunsCupeld: what the person asked for reaches cupeld, and its
// exit code comes back.
func TestRuntimeBuildRunsCupeld(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nprintf '%s\\n' \"$@\"\nexit 7\n"
	if err := os.WriteFile(filepath.Join(dir, "cupeld"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	code, out, errs := runCLI(t, "--state", "/s", "-o", "json", "runtime", "build", "python", "--update", "--mirror", "http://m", "--lock=l")
	want := "runtime\nbuild\npython\n--state\n/s\n--output\njson\n--lock=l\n--mirror=http://m\n--update=true\n"
	if code != 7 || out != want || errs != "" {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
}

func TestRuntimeMeasureRefusals(t *testing.T) {
	def, _ := runtimes.Definition("python")
	d, err := rebuild.ParseDefinition(def)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name, content string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	blob := "{path: p, sha256: " + strings.Repeat("1", 64) + ", size: 1}"
	launcher := file("cupel-init", "\x7fELF")
	empty := file("empty.lock", "version: 1\nruntime: python\ndefinition: "+d.Digest().String()+"\nsuite: bookworm\narchitecture: amd64\nindices: []\npackages: []\n")
	other := file("other.lock", "version: 1\nruntime: python\ndefinition: "+strings.Repeat("0", 64)+"\nsuite: bookworm\narchitecture: amd64\n"+
		"indices: [{archive: a, suite: b, date: 2026-11-20T02:11:10Z, in_release: "+blob+", packages: "+blob+"}]\n"+
		"packages: [{name: a, version: '1', architecture: all, index: b, "+blob[1:]+"]\n")
	// Dated by the index that moves; that of the release may be older still. Where
	// the age is accepted, what is refused next is the archive of that name.
	dated := func(name, date string) string {
		return file(name, "version: 1\nruntime: python\ndefinition: "+d.Digest().String()+"\nsuite: bookworm\narchitecture: amd64\nindices:\n"+
			"- {archive: a, suite: bookworm, date: 2001-01-01T00:00:00Z, in_release: "+blob+", packages: "+blob+"}\n"+
			"- {archive: a, suite: bookworm-updates, date: "+date+", in_release: "+blob+", packages: "+blob+"}\n"+
			"- {archive: a, suite: bookworm-security, date: "+time.Now().UTC().Format(time.RFC3339)+", in_release: "+blob+", packages: "+blob+"}\n"+
			"packages: [{name: a, version: '1', architecture: all, index: bookworm, "+blob[1:]+"]\n")
	}
	days := func(n int) string { return time.Now().UTC().AddDate(0, 0, -n).Format(time.RFC3339) }
	for _, c := range []struct {
		name string
		rule string
		kind problem.Kind
		args []string
	}{
		{"no such runtime", "runtime_unknown", problem.NotFound, []string{"cobol"}},
		{"a path", "runtime_name", problem.Invalid, []string{"../python"}},
		{"no source", "source_unnamed", problem.Invalid, []string{"python", "--lock", empty}},
		{"no such lock", "runtime_lock", problem.NotFound, []string{"python", "--from", dir, "--lock", filepath.Join(dir, "none")}},
		{"folder without lock", "usage", problem.Invalid, []string{"python", "--from", dir}},
		{"broken lock", "runtime_lock", problem.Invalid, []string{"python", "--from", dir, "--lock", file("broken.lock", "a: b\n")}},
		{"lock of nothing", "runtime_lock", problem.Invalid, []string{"python", "--from", dir, "--lock", empty}},
		{"lock of another definition", "lock_definition", problem.Denied, []string{"python", "--from", dir, "--lock", other}},
		{"old indices", "lock_old", problem.Denied, []string{"python", "--from", dir, "--lock", dated("old.lock", days(91))}},
		{"old for this owner", "lock_old", problem.Denied, []string{"python", "--from", dir, "--lock", dated("week.lock", days(8)), "--max-age", "1 week"}},
		{"no duration", "usage", problem.Invalid, []string{"python", "--from", dir, "--lock", dated("age.lock", days(8)), "--max-age", "young"}},
		{"young enough", "index_identity", problem.Denied, []string{"python", "--from", dir, "--lock", dated("new.lock", days(89))}},
		{"old, and accepted", "index_identity", problem.Denied, []string{"python", "--from", dir, "--lock", dated("oldest.lock", days(400)), "--max-age", "2 years"}},
		{"another runtime's definition", "runtime_definition", problem.Invalid, []string{"puller", "--definition", file("p.yml", string(def))}},
		{"registry down", "source_unreachable", problem.Unavailable, []string{"python", "--from", "oci:127.0.0.1:1"}},
		{"bad reference", "registry_reference", problem.Invalid, []string{"python", "--from", "oci:a b/c"}},
	} {
		code, out, errs := runCLI(t, append([]string{"runtime", "measure", "--launcher", launcher}, c.args...)...)
		if code != c.kind.ExitCode() || !strings.HasPrefix(errs, "cupel: "+c.rule+": ") || strings.Contains(out, "measurement") {
			t.Errorf("%s: exit %d, %q, %q: want %s", c.name, code, out, errs, c.rule)
		}
	}
}

// TestRuntimeMeasureIgnoresTheFolder: a definition that an operator's files put
// into the current folder doesn't silently take the place of the built-in one.
func TestRuntimeMeasureIgnoresTheFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	def, _ := runtimes.Definition("python")
	if err := os.Mkdir("runtimes", 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("runtimes", "python.yml")
	for name, c := range map[string]struct {
		text string
		args []string
		rule string
	}{
		"the same":   {"# a comment\n" + string(def), nil, "source_unreachable"},
		"another":    {strings.Replace(string(def), "  - tzdata ", "  - telnet\n  - tzdata ", 1), nil, "definition_shadowed"},
		"on purpose": {strings.Replace(string(def), "  - tzdata ", "  - telnet\n  - tzdata ", 1), []string{"--definition", file}, "source_unreachable"},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, errs := runCLI(t, append([]string{"runtime", "measure", "python", "--launcher", strings.Repeat("a", 64), "--from", "oci:127.0.0.1:1"}, c.args...)...)
		if !strings.HasPrefix(errs, "cupel: "+c.rule+": ") {
			t.Errorf("%s: %q: want %s", name, errs, c.rule)
		}
	}
}

func TestRuntimeList(t *testing.T) {
	code, out, errs := runCLI(t, "runtime", "list")
	if code != 0 || !strings.Contains(out, "puller") || !strings.Contains(out, "none: cupel runtime measure python") {
		t.Errorf("exit %d, %q, %q", code, out, errs)
	}
}

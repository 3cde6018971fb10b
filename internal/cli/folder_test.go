package cli

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cupel.dev/cupel/internal/testing/need"
)

// inHome runs a command in an empty folder, with that environment alone, and
// returns what it said and which files it left there.
func inHome(t *testing.T, env map[string]string, args ...string) (code int, errs string, files []string) {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	var o, e bytes.Buffer
	code = Main(t.Context(), args, Process{strings.NewReader(""), &o, &e, func(k string) string { return env[k] }})
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if path != dir {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return code, e.String(), files
}

// TestNoHome: an environment that says nothing of a home (cron, a unit, env -i) puts
// no key anywhere, least of all into the folder where one happens to be.
func TestNoHome(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, env := range []map[string]string{
		nil,
		{"HOME": ""},
		{"HOME": "."},
		{"HOME": "relative/home"},
		{"XDG_CONFIG_HOME": "relative"},
		{"HOME": filepath.Join(missing, "home")},
	} {
		for _, args := range [][]string{
			{"session", "values", "x", "app_ca"},
			{"cas", "list"},
			{"template", "--runtime", "python", "--command", "x"},
			{"runtime", "measure", "python"},
			{"runtime", "list"},
			{"verify", "x"},
		} {
			code, errs, files := inHome(t, env, args...)
			if code != 2 || !strings.Contains(errs, "no_home: ") || !strings.Contains(errs, "HOME is ") || !strings.Contains(errs, "--config or CUPEL_CONFIG") {
				t.Errorf("%v, %v: exit %d: %s", env, args, code, errs)
			}
			if len(files) > 0 {
				t.Errorf("%v, %v: leaves %v", env, args, files)
			}
		}
	}
	if _, err := os.Stat(missing); err == nil {
		t.Error("a home was made")
	}
	// Who names the folder needs no home.
	for _, args := range [][]string{{"cas", "list", "--config", "here"}, {"cas", "list"}} {
		env := map[string]string{}
		if len(args) == 2 {
			env["CUPEL_CONFIG"] = "here"
		}
		if code, errs, files := inHome(t, env, args...); code != 0 || len(files) == 0 {
			t.Errorf("%v: exit %d: %s", args, code, errs)
		}
	}
}

// TestOthersHome: root with a user's HOME, as below sudo, leaves nothing there that
// the user can't read, unless told to, and then says so.
func TestOthersHome(t *testing.T) {
	need.Root(t)
	home := t.TempDir()
	if err := os.Chown(home, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	for _, env := range []map[string]string{{"HOME": home}, {"HOME": "/root", "XDG_CONFIG_HOME": filepath.Join(home, "config")}} {
		code, errs, _ := inHome(t, env, "cas", "list")
		if code != 6 || !strings.Contains(errs, "others_home: ") || !strings.Contains(errs, "user 1000") || !strings.Contains(errs, "without sudo") {
			t.Errorf("%v: exit %d: %s", env, code, errs)
		}
	}
	if left, _ := os.ReadDir(home); len(left) > 0 {
		t.Errorf("root leaves %v", left)
	}

	named := filepath.Join(home, "named")
	code, errs, _ := inHome(t, map[string]string{"HOME": home}, "cas", "list", "--config", named)
	if code != 0 || !strings.Contains(errs, "chown -R 1000 "+named) {
		t.Errorf("a folder that was named: exit %d: %s", code, errs)
	}

	// What is root's there already, root goes on with, and is told so each time.
	if err := os.MkdirAll(filepath.Join(home, ".config", "cupel"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		code, errs, _ := inHome(t, map[string]string{"HOME": home}, "cas", "list")
		if code != 0 || !strings.Contains(errs, "The owner here is root") || !strings.Contains(errs, "in the home of user 1000") {
			t.Errorf("a folder that is root's: exit %d: %s", code, errs)
		}
	}
}

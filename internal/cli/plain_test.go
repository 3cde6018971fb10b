package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cupel.dev/cupel/internal/trusted/owner/home"
)

// TestFilesInWords: a file that can't be used is named, with what is wrong with it and
// what is wanted, and never in the system's own words.
func TestFilesInWords(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty, binary, huge := file("empty", nil), file("binary", []byte("\x00\xff\xfe\x01")), file("huge", make([]byte, 5<<20))
	missing, below := filepath.Join(dir, "missing"), filepath.Join(empty, "below")
	template := []string{"--runtime", "python", "--command", "x"}
	given := file("launcher", []byte("\x7fELF"))
	commands := map[string]func(string) []string{
		"session check":  func(f string) []string { return append([]string{"session", "check", f}, template...) },
		"session create": func(f string) []string { return append([]string{"session", "create", f}, template...) },
		"lock": func(f string) []string {
			return []string{"runtime", "measure", "python", "--from", dir, "--launcher", given, "--lock", f}
		},
		"definition": func(f string) []string {
			return []string{"runtime", "measure", "python", "--from", dir, "--launcher", given, "--lock", empty, "--definition", f}
		},
		"launcher": func(f string) []string {
			return []string{"runtime", "measure", "python", "--from", dir, "--lock", empty, "--launcher", f}
		},
		"code": func(f string) []string { return []string{"deploy", "s", "--code", "@" + f} },
	}
	for name, args := range commands {
		for path, says := range map[string]string{
			missing: "there is no such file", below: "a part of its path is no folder", dir: "it is a folder", empty: "", binary: "", huge: "",
		} {
			var out, said bytes.Buffer
			env := func(name string) string {
				return map[string]string{"CUPEL_CONFIG": filepath.Join(dir, "config"), "CUPEL_STATE": filepath.Join(dir, "state")}[name]
			}
			code := Main(context.Background(), args(path), Process{strings.NewReader(""), &out, &said, env})
			text := said.String()
			if code == 0 || !strings.Contains(text, says) || says != "" && !strings.Contains(text, path) {
				t.Errorf("%s %s: exit %d: %s", name, filepath.Base(path), code, text)
			}
			for _, foreign := range []string{"no such file or directory", "is a directory", "not a directory", "open ", "stat ", "EOF", "unmarshal", "invalid character", "yaml: "} {
				if strings.Contains(text, foreign) {
					t.Errorf("%s %s: %q in %s", name, filepath.Base(path), foreign, text)
				}
			}
		}
	}
}

// TestDamagedOwnersFiles: so are the files of the owner's folder.
func TestDamagedOwnersFiles(t *testing.T) {
	commands := map[string][]string{
		"sessions.json": {"session", "verify", "s"}, "vouched.json": {"template", "--runtime", "python", "--command", "x"},
		"cas.json": {"cas", "list"}, "identity.key": {"session", "verify", "s"}, "providers.json": {"provider", "list"},
	}
	for file, args := range commands {
		for _, content := range []string{"", "{", "[]", "null", `{"version":1,"entries":5}`, "\xff\x00", `{"version":1}x`} {
			dir := filepath.Join(t.TempDir(), "config")
			if err := errors.Join(os.Mkdir(dir, 0o700), aKey(t, dir), os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600)); err != nil {
				t.Fatal(err)
			}
			var out, said bytes.Buffer
			env := func(name string) string {
				return map[string]string{"CUPEL_CONFIG": dir, "CUPEL_STATE": t.TempDir()}[name]
			}
			code := Main(context.Background(), args, Process{strings.NewReader(""), &out, &said, env})
			if text := said.String(); code == 0 || !strings.Contains(text, file) || !strings.Contains(text, "mend:") ||
				strings.Contains(text, "EOF") || strings.Contains(text, " json: ") || strings.Contains(text, "invalid character") {
				t.Errorf("%s %q: exit %d: %s", file, content, code, text)
			}
		}
	}
}

// aKey makes an owner's key in their folder.
func aKey(t *testing.T, dir string) error {
	t.Helper()
	d, err := home.Open(dir)
	if err == nil {
		_, err = d.KeyPair(t.Context(), time.Now)
	}
	return err
}

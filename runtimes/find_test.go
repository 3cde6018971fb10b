package runtimes_test

import (
	"os"
	"testing"

	"cupel.dev/cupel/internal/trusted/problem"
	"cupel.dev/cupel/runtimes"
)

func TestFind(t *testing.T) {
	t.Chdir(t.TempDir())
	built, err := runtimes.Find("python", "")
	if err != nil || built.File != "" || built.Name != "python" {
		t.Fatalf("built in: %+v, %v", built, err)
	}
	if err := os.Mkdir("runtimes", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"runtimes/python.yml", "other.yml"} {
		if err := os.WriteFile(name, append([]byte("# "+name+"\n"), built.Text...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]string{"": "runtimes/python.yml", "other.yml": "other.yml"} {
		f, err := runtimes.Find("python", file)
		if err != nil || f.File != want || f.Digest() != built.Digest() {
			t.Errorf("file %q: %+v, %v: want %s", file, f, err, want)
		}
	}
	if err := os.WriteFile("broken.yml", []byte("version: 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, file, rule string }{
		{"cobol", "", "runtime_unknown"},
		{"../python", "", "runtime_name"},
		{"puller", "other.yml", "runtime_definition"},
		{"python", "broken.yml", "runtime_definition"},
		{"python", "missing.yml", "runtime_definition"},
	} {
		if _, err := runtimes.Find(c.name, c.file); err == nil || problem.From(err).Rule != c.rule {
			t.Errorf("%s out of %q: %v: want %s", c.name, c.file, err, c.rule)
		}
	}
}

package runtimes_test

import (
	"os"
	"testing"

	"cupel.dev/cupel/api/problem"
	"cupel.dev/cupel/runtimes"
)

func TestFind(t *testing.T) {
	t.Chdir(t.TempDir())
	built, err := runtimes.Find(t.Context(), "python", "")
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
		f, err := runtimes.Find(t.Context(), "python", file)
		if err != nil || f.File != want || f.Digest() != built.Digest() {
			t.Errorf("file %q: %+v, %v: want %s", file, f, err, want)
		}
	}
	if err := os.WriteFile("broken.yml", []byte("version: 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file string
		rule       problem.Rule
	}{
		{"cobol", "", "runtime_unknown"},
		{"../python", "", "runtime_name"},
		{"puller", "other.yml", "runtime_definition"},
		{"python", "broken.yml", "runtime_definition"},
		{"python", "missing.yml", "runtime_definition"},
	} {
		if _, err := runtimes.Find(t.Context(), c.name, c.file); err == nil || problem.From(err).Rule != c.rule {
			t.Errorf("%s out of %q: %v: want %s", c.name, c.file, err, c.rule)
		}
	}
}

// TestNotBuilt: a slip of the pen is told from what is still to be built, and no advice
// leads to another refusal of the same name.
func TestNotBuilt(t *testing.T) {
	built := []string{"node", "puller"}
	for name, want := range map[string]string{
		"python":  "let the operator run 'cupel runtime build python'",
		"pyhton":  `did you mean "python"?`,
		"nod":     `did you mean "node"?`,
		"fortran": "give another, or let the operator build it from a definition: cupel runtime build fortran --definition FILE",
	} {
		p := runtimes.NotBuilt(name, built)
		if p.Mend != want || p.Expected != "one of: node, puller" {
			t.Errorf("%s: %q, %q", name, p.Expected, p.Mend)
		}
	}
	if p := runtimes.NotBuilt("fortran", nil); p.Expected != "one of: none" {
		t.Error(p.Expected)
	}
}

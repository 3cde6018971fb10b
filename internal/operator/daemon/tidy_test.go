package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

// TestSetAside: whoever has the log open goes on writing to it.
func TestSetAside(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	if err := setAside(file, 4); err != nil {
		t.Fatalf("no log yet: %v", err)
	}
	writer, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = writer.Close() }()

	for _, step := range []struct{ write, log, before string }{
		{"abc", "abc", ""},
		{"de", "", "abcde"},
		{"fgh", "fgh", "abcde"},
		{"ij", "", "fghij"},
	} {
		if _, err := writer.WriteString(step.write); err != nil {
			t.Fatal(err)
		}
		if err := setAside(file, 4); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(file); string(got) != step.log {
			t.Errorf("after %q the log holds %q, want %q", step.write, got, step.log)
		}
		if got, _ := os.ReadFile(file + ".1"); string(got) != step.before {
			t.Errorf("after %q the log before holds %q, want %q", step.write, got, step.before)
		}
	}
}

//go:build e2e

// Package secrets holds the promise that the operator's side never holds a
// secret: not in files, whatever they are packed in, not in process arguments.
package secrets

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/e2e/harness"
	"cupel.dev/cupel/e2e/leak"
)

const session = "secretive"

// TestOperatorHoldsNoSecret runs the whole flow with restarts and then looks
// through everything on the operator's side.
func TestOperatorHoldsNoSecret(t *testing.T) {
	found := search(t, harness.Config{})
	for _, f := range found {
		t.Errorf("found %s", f)
	}
}

// TestPositiveControl does the same with encryption switched off, in a build
// that only tests make: what has to be found is found.
func TestPositiveControl(t *testing.T) {
	found := search(t, harness.Config{Bin: harness.Variant(t, "cupel_plaintext")})
	seen := map[string]bool{}
	for _, f := range found {
		seen[f.Secret] = true
	}
	for _, want := range []string{"source text", "volume file"} {
		if !seen[want] {
			t.Errorf("%s was not found where nothing is encrypted: the search is blind", want)
		}
	}
}

func search(t *testing.T, cfg harness.Config) []leak.Finding {
	t.Helper()
	w := harness.New(t, cfg)
	owner := w.Owner("owner")
	port := harness.FreePort(t)
	source, data := noise(32), noise(256)
	files := harness.ExampleApp(w)
	files["client-app.py"] += "\n# " + source + "\n"
	files["data/table.bin"] = data
	w.Git.Push("app", files)
	searcher, err := leak.New(map[string][]byte{
		"git token":   []byte(w.Git.Token),
		"source text": []byte(source),
		"volume file": []byte(data[100:164]),
	})
	if err != nil {
		t.Fatal(err)
	}

	w.BuildRuntimes("puller", "python")
	owner.VouchAsBefore("puller", "python")
	owner.AttestCAS()
	owner.CreateSession(session, "app")
	owner.Deploy(session, 2, port)
	w.Kill("cupeld", syscall.SIGKILL)
	w.Up(nil, nil)
	w.Eventually(30*time.Second, func() error { return owner.ExpectHealthy(session, 2) })
	owner.Deploy(session, 2, port)

	// With everything running, and once more when nothing does.
	found := everywhere(t, w, searcher)
	owner.MustRun("rm", "--app", session)
	w.Operator.MustRun("down")
	return append(found, everywhere(t, w, searcher)...)
}

// everywhere searches the operator's folders and the host's processes. The
// memory of instances can be read by the host of a simulated platform, and is
// not searched; docs/threat-model.md says so.
func everywhere(t *testing.T, w *harness.World, s *leak.Searcher) []leak.Finding {
	t.Helper()
	var all []leak.Finding
	for _, dir := range []string{w.State, w.Operator.Dir} {
		found, err := s.Tree(dir)
		if err != nil {
			t.Errorf("search %s: %v", dir, err)
		}
		all = append(all, found...)
	}
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	found, err := s.Processes(func(pid string) bool {
		space, err := os.Readlink("/proc/" + pid + "/ns/pid")
		return err != nil || space != own
	})
	if err != nil {
		t.Error(err)
	}
	return append(all, found...)
}

// noise is incompressible text of 2n characters.
func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return strings.ToLower(hex.EncodeToString(b))
}

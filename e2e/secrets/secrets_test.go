//go:build e2e

// Package secrets holds the promise that the operator's side never holds a
// secret: not in files, whatever they are packed in, not in process arguments.
package secrets

import (
	"crypto/rand"
	"encoding/hex"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cupel.dev/cupel/e2e/harness"
	"cupel.dev/cupel/e2e/harness/variants"
	"cupel.dev/cupel/e2e/leak"
)

const session = "secretive"

// TestOperatorHoldsNoSecret runs the whole flow with restarts and then looks
// through everything on the operator's side.
func TestOperatorHoldsNoSecret(t *testing.T) {
	for _, f := range search(t, harness.Config{}) {
		t.Errorf("found %s", f)
	}
}

// TestPositiveControl does the same with encryption switched off, in a build
// that only tests make: what has to be found is found.
func TestPositiveControl(t *testing.T) {
	found := search(t, harness.Config{Bin: harness.Variant(t, variants.Plaintext)})
	where := map[string]string{}
	for _, f := range found {
		where[f.Secret] = f.Where
		if strings.HasPrefix(f.Where, "/proc/") {
			t.Errorf("found %s", f) // encryption has nothing to do with that
		}
	}
	for _, want := range []string{"git token", "secret file", "source text", "volume file", "updated source"} {
		if where[want] == "" {
			t.Errorf("%s was not found where nothing is encrypted: the search is blind", want)
			continue
		}
		t.Logf("%s in %s", want, where[want])
	}
}

func search(t *testing.T, cfg harness.Config) []leak.Finding {
	t.Helper()
	w := harness.New(t, cfg)
	owner := w.Owner("owner")
	port := harness.FreePort(t)
	source, update, data, file := noise(32), noise(32), noise(256), noise(32)
	files := harness.ExampleApp(w)
	program := files["client-app.py"]
	files["client-app.py"] = program + "\n# " + source + "\n"
	files["data/table.bin"] = data
	w.Git.Push("app", files)
	searcher, err := leak.New(map[string][]byte{
		"git token":      []byte(w.Git.Token),
		"secret file":    []byte(file),
		"source text":    []byte(source),
		"updated source": []byte(update),
		"volume file":    []byte(data[100:164]),
	})
	if err != nil {
		t.Fatal(err)
	}
	watched := watchProcesses(t, searcher)

	w.BuildRuntimes("puller", "python")
	owner.VouchAsBefore("puller", "python")
	owner.AttestCAS()
	createSession(w, owner, file)
	owner.Deploy(session, 2, port)
	for _, daemon := range []string{"cupeld", "cupel-cas", "cupeld"} {
		w.Kill(daemon, syscall.SIGKILL)
		w.Up(nil, nil)
		w.Eventually(60*time.Second, func() error { return owner.ExpectHealthy(session, 2) })
	}
	files["client-app.py"] = program + "\n# " + update + "\n"
	w.Git.Push("app", files)
	owner.Deploy(session, 2, port)

	// With everything running, and once more when nothing does.
	found := everywhere(t, w, searcher)
	owner.MustRun("rm", "--app", session)
	w.Operator.MustRun("down")
	return slices.Concat(found, everywhere(t, w, searcher), databases(t, w, searcher), watched())
}

// databases searches the values of the CAS's and the manager's databases, which
// nobody uses any more.
func databases(t *testing.T, w *harness.World, s *leak.Searcher) []leak.Finding {
	t.Helper()
	var all []leak.Finding
	for _, name := range []string{"cas/cas.db", "manager.db"} {
		found, values, err := s.Database(t.Context(), filepath.Join(w.State, name))
		if err != nil || values == 0 {
			t.Errorf("search %s: %d values, %v", name, values, err)
		}
		all = append(all, found...)
	}
	return all
}

// createSession makes the session with a file that reaches the puller through
// nothing but the session: the git server's CA certificate, before which the
// file has a line of its own.
func createSession(w *harness.World, owner *harness.Party, file string) {
	w.T.Helper()
	args := owner.SessionArgs(owner.Template(), session, "app")
	ca, err := os.ReadFile(w.Git.CA)
	if err != nil {
		w.T.Fatal(err)
	}
	i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "GIT_CA=@") })
	if i < 0 {
		w.T.Fatalf("no certificate in %q", args)
	}
	args[i] = "GIT_CA=@" + owner.WriteFile("secret-ca.pem", "# "+file+"\n"+string(ca))
	owner.MustRun(args...)
}

// everywhere searches what the operator has: all of the installation's folder
// but the owner's and the git server's (so the state with containerd's root,
// the registry, the CAS's database and its write-ahead log, logs, whatever was
// dumped there; the binaries; the operator's own), the sockets' short names, and
// the host's processes. The memory of instances can be read by the host of a
// simulated platform, and is not searched; docs/threat-model.md says so.
func everywhere(t *testing.T, w *harness.World, s *leak.Searcher) []leak.Finding {
	t.Helper()
	roots, err := filepath.Glob("/run/cupel-" + w.ID() + "*")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(w.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "owner" && e.Name() != "git" {
			roots = append(roots, filepath.Join(w.Dir, e.Name()))
		}
	}
	if !slices.Contains(roots, w.State) {
		t.Fatalf("the state folder is not in %q", roots)
	}
	var all []leak.Finding
	for _, root := range roots {
		found, err := s.Tree(root)
		if err != nil {
			t.Errorf("search %s: %v", root, err)
		}
		all = append(all, found...)
	}
	return append(all, processes(t, s)...)
}

// processes searches the host's processes: those of instances are told by their
// process namespace.
func processes(t *testing.T, s *leak.Searcher) []leak.Finding {
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		t.Error(err)
		return nil
	}
	found, err := s.Processes(func(pid string) bool {
		space, err := os.Readlink("/proc/" + pid + "/ns/pid")
		return err != nil || space != own
	})
	if err != nil {
		t.Error(err)
	}
	return found
}

// watchProcesses searches the host's processes again and again, short-lived ones
// included as far as they are met, until what it returns is called.
func watchProcesses(t *testing.T, s *leak.Searcher) (stop func() []leak.Finding) {
	end, done := make(chan struct{}), make(chan struct{})
	found := map[leak.Finding]bool{}
	rounds := 0
	go func() {
		defer close(done)
		for {
			for _, f := range processes(t, s) {
				found[f] = true
			}
			rounds++
			select {
			case <-end:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	finish := sync.OnceFunc(func() { close(end); <-done })
	t.Cleanup(finish)
	return func() []leak.Finding {
		finish()
		t.Logf("processes were searched %d times during the run", rounds)
		return slices.Collect(maps.Keys(found))
	}
}

// noise is incompressible text of 2n characters.
func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return strings.ToLower(hex.EncodeToString(b))
}

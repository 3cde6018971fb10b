//go:build e2e

package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	managerapi "cupel.dev/cupel/api/manager"
)

// AppCommand is how the app of the examples is started.
const AppCommand = "python3 /home/client-app/repo/client-app.py"

// BuildRuntimes has the operator build runtime images.
func (w *World) BuildRuntimes(names ...string) {
	w.T.Helper()
	cache := filepath.Join(w.State, "runtimes", "cache")
	linkAll(filepath.Join(shared(), "blobs"), cache)
	notes := filepath.Join(shared(), "built")

	for _, name := range names {
		kept := w.keptLock(name)
		if _, err := os.Stat(w.Lock(name)); err != nil {
			_ = copyFile(kept, w.Lock(name))
		}

		// What a build notes for the next one, to be quick if the image is there.
		note := filepath.Join(notes, name+"-"+w.digest(w.definition(name), filepath.Join(w.Bin, "cupel-init"))+".json")
		_ = copyFile(note, filepath.Join(cache, name+".built.json"))
		w.Operator.MustRun("runtime", "build", name, "--definition", w.definition(name), "--lock", w.Lock(name))

		w.must(os.MkdirAll(filepath.Dir(kept), 0o755))
		w.must(copyFile(w.Lock(name), kept))
		w.must(os.MkdirAll(notes, 0o755))

		_ = copyFile(filepath.Join(cache, name+".built.json"), note)
	}

	linkAll(cache, filepath.Join(shared(), "blobs"))
	w.keepRegistry()
}

// giveRegistry fills the registry of a world that is not up yet with what an
// earlier one built from the same definitions and locks.
func (w *World) giveRegistry() {
	if from := w.keptRegistry(); from != "" {
		if _, err := os.Stat(from); err == nil {
			w.copyFolder(from, filepath.Join(w.State, "registry"))
		}
	}
}

// keepRegistry keeps the registry for worlds that come later, if nobody has yet.
func (w *World) keepRegistry() {
	to := w.keptRegistry()
	if to == "" {
		return
	}

	if _, err := os.Stat(to); err == nil {
		return
	}

	tmp := to + "." + filepath.Base(w.Dir)
	w.copyFolder(filepath.Join(w.State, "registry"), tmp)

	if err := os.Rename(tmp, to); err != nil {
		_ = os.RemoveAll(tmp) // another test was first
	}
}

// keptRegistry is where the registry of those definitions and locks is kept;
// empty while not all are there.
func (w *World) keptRegistry() string {
	var inputs []string
	for _, name := range []string{"puller", "python"} {
		if _, err := os.Stat(w.keptLock(name)); err != nil {
			return ""
		}

		inputs = append(inputs, w.definition(name), w.keptLock(name))
	}

	return filepath.Join(shared(), "registry-"+w.digest(inputs...))
}

// copyFolder copies a folder with all that it holds.
func (w *World) copyFolder(from, to string) {
	w.T.Helper()
	w.must(os.MkdirAll(filepath.Dir(to), 0o755))
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		w.T.Fatalf("copy %s: %v: %s", from, err, out)
	}
}

// definition is the file of a runtime's definition.
func (w *World) definition(name string) string { return filepath.Join(w.Runtimes, name+".yml") }

// shared is where downloads, locks and measurements are kept between tests.
func shared() string { return filepath.Join(source(), ".cache", "e2e") }

// keptLock is where the lock of a runtime is kept; a lock is for one text of
// its definition.
func (w *World) keptLock(name string) string {
	return filepath.Join(shared(), "locks", name+"-"+w.digest(w.definition(name))+".lock")
}

// digest is a short digest of files.
func (w *World) digest(files ...string) string {
	w.T.Helper()
	h := sha256.New()
	for _, f := range files {
		data, err := os.ReadFile(f)
		w.must(err)
		_, _ = fmt.Fprintf(h, "%d:", len(data))
		_, _ = h.Write(data)
	}

	return hex.EncodeToString(h.Sum(nil)[:8])
}

// copyFile copies a file's content.
func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}

	return os.WriteFile(to, data, 0o644)
}

// Lock is the lock file of a runtime image.
func (w *World) Lock(runtime string) string { return filepath.Join(w.Runtimes, runtime+".lock") }

// linkAll gives a folder the files of another that it lacks. It may fail: what
// is missing is downloaded.
func linkAll(from, to string) {
	files, _ := filepath.Glob(filepath.Join(from, "*"))
	_ = os.MkdirAll(to, 0o755)

	for _, f := range files {
		if strings.Contains(filepath.Base(f), ".") {
			continue // a note about a build, not a download
		}

		target := filepath.Join(to, filepath.Base(f))
		if err := os.Link(f, target); err == nil || errors.Is(err, os.ErrExist) {
			continue
		}

		_ = copyFile(f, target)
	}
}

// Vouch has an owner measure runtime images from the operator's sources.
func (p *Party) Vouch(runtimes ...string) {
	p.world.T.Helper()
	for _, name := range runtimes {
		p.MustRun("runtime", "measure", name, "--definition", p.world.definition(name), "--lock", p.world.Lock(name))
	}
}

// VouchAsBefore is Vouch for tests that are about something else: what an owner
// of an earlier test measured, from the same bytes with the same binaries, is
// vouched for again.
func (p *Party) VouchAsBefore(runtimes ...string) {
	w := p.world
	w.T.Helper()
	inputs := []string{filepath.Join(w.Bin, "cupel"), filepath.Join(w.Bin, "cupel-init")}

	for _, name := range runtimes {
		inputs = append(inputs, w.definition(name), w.Lock(name))
	}

	kept := filepath.Join(shared(), "vouched", w.digest(inputs...)+".json")
	own := filepath.Join(p.Dir, "cupel", "vouched.json")

	if data, err := os.ReadFile(kept); err == nil {
		w.must(os.MkdirAll(filepath.Dir(own), 0o700))
		w.must(os.WriteFile(own, data, 0o600))
		w.must(os.Chown(filepath.Dir(own), nobody, nobody))
		w.must(os.Chown(own, nobody, nobody))
		return
	}

	p.Vouch(runtimes...)
	w.must(os.MkdirAll(filepath.Dir(kept), 0o755))
	w.must(copyFile(own, kept))
}

// SimulationRoot is what an owner has to name: the digest of the simulated
// platform's root on this machine.
func (w *World) SimulationRoot() string { return w.Info().Simulation }

// AttestCAS has an owner attest the CAS and pin it.
func (p *Party) AttestCAS(flags ...string) string {
	p.world.T.Helper()
	return p.MustRun(append([]string{"cas", "attest", p.world.Info().CAS.Owners, "--trust-simulation", p.world.SimulationRoot()}, flags...)...)
}

// SessionArgs are the arguments of `cupel session create` for a repository of
// the git server. The token goes through a file.
func (p *Party) SessionArgs(file, name, repository string) []string {
	return []string{
		"session", "create", file, "--name", name, "--simulation", "--runtime", "python", "--command", AppCommand,
		"-e", "GIT_REPO=" + p.world.Git.URL(repository), "-e", "GIT_CA=@" + p.gitCA(), "-e", "ACCESS_TOKEN=@" + p.WriteFile("token", p.world.Git.Token),
	}
}

// gitCA copies the git server's CA certificate into the party's folder.
func (p *Party) gitCA() string {
	data, err := os.ReadFile(p.world.Git.CA)
	p.world.must(err)
	return p.WriteFile("git-ca.pem", string(data))
}

// Template has the operator's template written into the party's folder.
func (p *Party) Template() string {
	p.world.T.Helper()
	return p.WriteFile("client-session.yml", p.MustRun("template", "--runtime", "python", "--command", AppCommand, "--simulation"))
}

// CreateSession makes a session out of the operator's template.
func (p *Party) CreateSession(name, repository string) {
	p.world.T.Helper()
	p.MustRun(p.SessionArgs(p.Template(), name, repository)...)
}

// reads is what the template's app has of volumes.
const reads = `      - name: genesis
        path: /home/client-app
        update_policy: ephemeral
`

// UploadWriter gives the CAS a session as SCONE's users do, with curl: the template's,
// with a volume that the app writes, at /data. Deploy it with --runtime python.
func (p *Party) UploadWriter(session, repository string) {
	w := p.world
	w.T.Helper()

	text, err := os.ReadFile(p.Template())
	w.must(err)

	ca, err := os.ReadFile(w.Git.CA)
	w.must(err)

	s := w.Patch(string(text), "volumes:\n  - name: genesis\n", "volumes:\n  - name: genesis\n  - name: data\n")
	s = w.Patch(s, reads, reads+"      - name: data\n        path: /data\n        update_policy: rollback_protected\n")

	s = strings.NewReplacer(
		"$SESSION", session,
		`"$ACCESS_TOKEN"`, strconv.Quote(w.Git.Token),
		`"$GIT_REPO"`, strconv.Quote(w.Git.URL(repository)),
		`"$GIT_CA"`, strconv.Quote(string(ca)),
	).Replace(s)

	dir := filepath.Join(p.Dir, "cupel")
	out, err := exec.Command("curl", "-sk", "--cert", filepath.Join(dir, "identity.crt"), "--key", filepath.Join(dir, "identity.key"),
		"--data-binary", "@"+p.WriteFile("uploaded.yml", s), "https://"+w.Info().CAS.Owners+"/session").CombinedOutput()

	if err != nil || !strings.Contains(string(out), `"hash"`) {
		w.T.Fatalf("curl: %v: %s", err, out)
	}
}

// Deploy deploys a session and waits until it is done.
func (p *Party) Deploy(session string, instances int, port uint16, flags ...string) string {
	p.world.T.Helper()
	return p.MustRun(append([]string{"deploy", session, "--instances", strconv.Itoa(instances), "--memory", "256M", "--port", strconv.Itoa(int(port))}, flags...)...)
}

// Instances lists what the manager says about the party's instances of an app.
func (p *Party) Instances(app string) []managerapi.Instance {
	p.world.T.Helper()
	var list managerapi.InstanceList
	p.MustJSON(&list, "ps", app)
	return list.Instances
}

// Healthy lists the ids of an app's healthy instances.
func (p *Party) Healthy(app string) []string {
	p.world.T.Helper()
	var ids []string

	for _, i := range p.Instances(app) {
		if i.Role == "app" && i.Health == "healthy" {
			ids = append(ids, i.ID)
		}
	}

	return ids
}

// ExpectHealthy is for World.Eventually.
func (p *Party) ExpectHealthy(app string, n int) error {
	if got := p.Healthy(app); len(got) != n {
		return fmt.Errorf("%d healthy instances %v, want %d", len(got), got, n)
	}
	return nil
}

// ExampleApp is the app of the examples, as the files of a repository.
func ExampleApp(w *World) map[string]string {
	w.T.Helper()
	data, err := os.ReadFile(filepath.Join(source(), "examples", "python-app", "client-app.py"))
	w.must(err)
	return map[string]string{"client-app.py": string(data)}
}

// Patch replaces the one place where old stands in a text.
func (w *World) Patch(text, old, replacement string) string {
	w.T.Helper()

	if n := strings.Count(text, old); n != 1 {
		w.T.Fatalf("%q stands in %d places, want one", old, n)
	}
	return strings.Replace(text, old, replacement, 1)
}
